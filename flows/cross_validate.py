"""Cross-validation: metrics of a data set's settings, and out-of-fold predictions for every training image."""

from prefect import flow

from flows.nightly_retrain import nightly_retrain
from tasks.dataset import load_dataset
from tasks.runner import task_runner
from tasks.settings import Settings, check_store, keys_for
from tasks.training.cross_validate import CrossValidation, check_folds, finish_folds, plan_folds, train_fold
from tasks.values import ShardSet


@flow(name="cross-validate", task_runner=task_runner())
def cross_validate(dataset: str, folds: int = 5) -> CrossValidation:
    """Train once per fold, on the other folds' images; predict every training image.

    Folds already trained with the same data, settings and code are reused.

    Args:
        dataset: Path of the data set file, for example data/elpv.yaml.
        folds: Number of folds; 5 trains 5 times, each time on four fifths.
    """
    return run_folds(dataset, folds)[0]


def run_folds(dataset: str, folds: int) -> tuple[CrossValidation, ShardSet]:
    """Run the nightly flow up to the shards, then train the folds."""
    check_folds(folds)
    settings, data = Settings(), load_dataset(dataset)
    store, tracking_uri, keys = settings.root, settings.tracking_uri, keys_for(data.encrypt, settings)
    check_store(store)
    night = nightly_retrain(dataset, until="preprocess")
    shard_set = night.shard_set
    assert shard_set is not None
    plan = plan_folds(shard_set, data, night.catalog, store, tracking_uri, folds, keys)
    machine = (settings.device, settings.resident_bytes, keys, settings.runner)
    reused = [train_fold(plan, k, shard_set, data, store, tracking_uri, *machine) for k in range(folds)]
    return finish_folds(plan, reused, shard_set, tracking_uri), shard_set
