"""Tuning: an Optuna study over a data set's settings that never uses a test image."""

from prefect import flow

from flows.nightly_retrain import shards_of
from tasks.dataset import load_dataset
from tasks.runner import run_name, task_runner
from tasks.settings import Settings
from tasks.training.tune import Tuning, check_numbers, finish_study, judged_by, plan_study, run_trials
from tasks.workspace import workspace


@flow(name="tune", flow_run_name=run_name, task_runner=task_runner())
def tune(dataset: str, trials: int = 20, epochs: int | None = None, metric: str | None = None) -> Tuning:
    """Search for better settings: train with other values, and judge them on images kept aside.

    An interrupted study resumes; with more trials it continues from those that it has.

    Args:
        dataset: Path of the data set file, for example data/elpv.yaml; its part `tune` names the values to search.
        trials: Trainings in all, those of earlier runs included.
        epochs: Epochs per trial; by default those of the data set file.
        metric: The metric to judge by; by default that of the gate.
    """
    check_numbers(trials, epochs)
    data = judged_by(load_dataset(dataset), metric)
    here, storage = workspace(data), Settings().tuning_uri(data.name)
    night, shard_set = shards_of(data, here)
    plan = plan_study(night, data, storage, trials, epochs, here)
    run_trials(plan, shard_set, data, here)
    return finish_study(plan, here)
