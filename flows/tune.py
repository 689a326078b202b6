"""Tuning: an Optuna study over a data set's settings that never uses a test image."""

from prefect import flow

from flows.nightly_retrain import nightly_retrain
from tasks.dataset import load_dataset
from tasks.runner import task_runner
from tasks.settings import Settings, check_store, keys_for
from tasks.training.tune import Tuning, check_numbers, finish_study, plan_study, run_trials


@flow(name="tune", task_runner=task_runner())
def tune(dataset: str, trials: int = 20, epochs: int | None = None) -> Tuning:
    """Search for better settings: train with other values, and judge them on images kept aside.

    An interrupted study resumes; with more trials it continues from those that it has.

    Args:
        dataset: Path of the data set file, for example data/elpv.yaml; its part `tune` names the values to search.
        trials: Trainings in all, those of earlier runs included.
        epochs: Epochs per trial; by default those of the data set file.
    """
    check_numbers(trials, epochs)
    settings, data = Settings(), load_dataset(dataset)
    store, tracking_uri, keys = settings.root, settings.tracking_uri, keys_for(data.encrypt, settings)
    storage = settings.tuning_uri(data.name)
    check_store(store)
    night = nightly_retrain(dataset, until="preprocess")
    assert night.shard_set is not None
    plan = plan_study(night.shard_set, data, night.catalog, store, storage, tracking_uri, trials, epochs, keys)
    machine = (settings.device, settings.resident_bytes, keys, settings.runner)
    run_trials(plan, night.shard_set, data, store, tracking_uri, *machine)
    return finish_study(plan, tracking_uri)
