"""Cross-validation: how good a data set's settings are, and what classifiers say of images that they have not seen."""

from prefect import flow

from flows.nightly_retrain import shards_of
from tasks.dataset import Dataset, load_dataset
from tasks.runner import run_name, task_runner
from tasks.training.cross_validate import CrossValidation, check_folds, finish_folds, plan_folds, train_fold
from tasks.values import ShardSet
from tasks.workspace import Workspace, workspace


@flow(name="cross-validate", flow_run_name=run_name, task_runner=task_runner())
def cross_validate(dataset: str, folds: int = 5) -> CrossValidation:
    """Train once for each fold of the training images, on the others; predict every training image.

    Folds that have been trained on the same data, with the same settings and code are not trained again.

    Args:
        dataset: Path of the data set file, for example data/elpv.yaml.
        folds: Number of folds; 5 trains 5 times, each time on four fifths.
    """
    check_folds(folds)
    data = load_dataset(dataset)
    return run_folds(data, folds, workspace(data))[0]


def run_folds(data: Dataset, folds: int, here: Workspace) -> tuple[CrossValidation, ShardSet]:
    """Make the shards as every night does, then train a classifier for each fold."""
    night, shard_set = shards_of(data, here)
    plan = plan_folds(night, data, folds, here)
    reused = [train_fold(plan, fold, shard_set, data, here) for fold in range(folds)]
    return finish_folds(plan, reused, shard_set, here), shard_set
