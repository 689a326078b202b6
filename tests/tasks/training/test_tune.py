"""Tuning: a study betters what it began with, goes on where it was killed, and looks at no test image."""

import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
import yaml
from mlflow.tracking import MlflowClient
from optuna.trial import TrialState
from upath import UPath

from flows.tune import tune
from resnet_core.errors import JobError, UserError
from tasks.dataset import Dataset, load_dataset
from tasks.settings import Settings
from tasks.training import tune as stage
from tasks.training.studies import open_study
from tasks.training.tune import Tuning
from tasks.values import DataReport, Night
from tests.conftest import write_folder
from tests.places import a_workspace
from tests.tasks.ingest.test_ingest import ingested, sharded

HOME = Path(__file__).resolve().parents[3]
Digits = tuple[np.ndarray, list[str]]


@pytest.fixture
def dataset(store: Path, tmp_path: Path, digits: Digits) -> Path:
    """A data set file over 240 digits of three classes."""
    write_folder(tmp_path / "raw", digits, range(3), 240)
    return write(tmp_path / "few.yaml", tmp_path / "raw")


def write(path: Path, source: Path, **changes: object) -> Path:
    content = {
        "name": "few",
        "source": str(source),
        "image": {"size": 8},
        "model": {"arch": "resnet10", "width": 16},
        "train": {"epochs": 3, "batch_size": 32, "optimizer": "sgd", "lr": 0.001, "augment": {"flips": "none"}},
        "tune": {"lr": [0.0001, 0.1], "optimizer": ["sgd", "adamw"], "mixup": [0.0, 0.4]},
        **changes,
    }
    path.write_text(yaml.safe_dump(content))
    return path


def trials_of(found: Tuning) -> list[tuple[dict[str, object], float | None]]:
    """Values and accuracy of those that ended, in their order."""
    study = optuna.load_study(study_name=found.plan.name, storage=found.plan.storage)
    ended = [trial for trial in study.trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    return [(trial.params, trial.value) for trial in ended]


@pytest.mark.usefixtures("prefect")
def test_the_best_is_not_worse_than_ones_own_and_can_be_pasted(dataset: Path, store: Path) -> None:
    found = tune(str(dataset), 6)
    assert (found.trials, found.plan.epochs) == (6, 3)
    assert found.own_value is not None
    assert found.value >= found.own_value
    assert trials_of(found)[0][0] == {"lr": 0.001, "optimizer": "sgd", "mixup": 0.0}

    client = MlflowClient(Settings().tracking_uri)
    run = client.get_run(found.plan.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["best_validation_accuracy"] == found.value
    nested = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
    assert len(nested) == 6
    assert {child.info.status for child in nested} == {"FINISHED"}
    names = {Path(file.path).name for file in client.list_artifacts(run.info.run_id, "tune")}
    assert {"best.yaml", "optimization_history.png", "intermediate_values.png"} <= names
    best = yaml.safe_load(Path(client.download_artifacts(run.info.run_id, "tune/best.yaml")).read_text())
    content = yaml.safe_load(dataset.read_text())
    assert Dataset.model_validate({**content, **best}).train.lr == found.values["lr"]

    aside = pd.read_parquet(found.plan.folder.path + "/kept_aside.parquet")
    catalog = pd.read_parquet(store / "catalog" / "few").set_index("image_id")
    assert set(catalog.loc[aside["image_id"], "split"]) == {"train"}
    assert (aside["fold"] == 0).mean() == pytest.approx(0.2, abs=0.02)

    more = tune(str(dataset), 8)
    assert more.plan == found.plan.__class__(**{**found.plan.__dict__, "trials": 8})
    assert trials_of(more)[:6] == trials_of(found)[:6]
    assert len(trials_of(more)) == 8


STUDY = """
import sys
from pathlib import Path
from tests.tasks.training.test_tune import run_study
run_study(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def run_study(dataset: Path, folder: Path) -> optuna.Study:
    """The study as the flow runs it, without Prefect's engine."""
    data, store, mlflow, storage = (
        load_dataset(dataset), UPath(folder), f"sqlite:///{folder}/mlflow.db", f"sqlite:///{folder}/study.db"
    )  # fmt: skip
    here, shard_set, (catalog, _) = a_workspace(store, mlflow), sharded(data, store), ingested(data, store)
    night = Night(catalog, DataReport(UPath(folder), ()), shard_set)
    plan = stage.plan_study.fn(night, data, storage, 4, None, here)
    stage.run_trials.fn(plan, shard_set, data, here)
    return optuna.load_study(study_name=plan.name, storage=storage)


def kill_study(dataset: Path, folder: Path, epochs: int) -> None:
    """The same in a process that is killed once it has reported so many epochs."""
    process = subprocess.Popen([sys.executable, "-c", STUDY, str(dataset), str(folder)], cwd=HOME)
    while len(list_epochs(folder)) < epochs:
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()


def list_epochs(folder: Path) -> list[float]:
    """What has been reported so far."""
    if not (folder / "study.db").exists():
        return []
    with closing(sqlite3.connect(folder / "study.db")) as db:
        try:
            return [value for (value,) in db.execute("select intermediate_value from trial_intermediate_values")]
        except sqlite3.OperationalError:  # being made
            return []


@pytest.mark.heavy
def test_a_study_that_was_killed_comes_to_the_same_as_one_that_was_not(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "killed").mkdir()
    kill_study(dataset, tmp_path / "killed", epochs=5)
    again, whole = run_study(dataset, tmp_path / "killed"), run_study(dataset, tmp_path / "whole")
    assert [trial.number for trial in again.trials if trial.state is TrialState.FAIL]

    def ended(found: optuna.Study) -> list[tuple[object, ...]]:
        trials = found.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
        return [(trial.params, trial.value, trial.intermediate_values, trial.state) for trial in trials]

    assert ended(again) == ended(whole)
    assert not list(tmp_path.glob("killed/tune/few/*/*.safetensors"))


def test_a_trial_below_the_median_of_the_others_is_ended(tmp_path: Path) -> None:
    study = open_study(f"sqlite:///{tmp_path}/study.db", "few", epochs=6)

    def accuracy(trial: optuna.Trial) -> float:
        level = 0.9 if trial.number < 5 else 0.5
        for epoch in range(1, 7):
            trial.report(level, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return level

    study.optimize(accuracy, n_trials=6)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 5 + [TrialState.PRUNED]
    assert list(study.trials[5].intermediate_values) == [1, 2]


@pytest.mark.usefixtures("prefect")
def test_values_that_cannot_be_trained_with_are_bad_ones_and_a_study_of_them_has_failed(
    dataset: Path, tmp_path: Path
) -> None:
    mad = write(dataset, tmp_path / "raw", tune={"lr": [1e18]})
    with pytest.raises(JobError, match="tune: none of 2 trials came to its end"):
        tune(str(mad), 2)


@pytest.mark.usefixtures("prefect")
def test_where_there_are_validation_images_they_are_what_a_trial_is_judged_by(dataset: Path, tmp_path: Path) -> None:
    split = write(dataset, tmp_path / "raw", split={"test": 0.25, "validation": 0.25})
    found = tune(str(split), 1, 1)
    assert found.plan.epochs == 1
    assert not (found.plan.folder / "kept_aside.parquet").exists()


@pytest.mark.parametrize(
    ("tuned", "message"),
    [
        ({"optimizer": ["sgd", "mun"]}, "tune.optimizer: must be one of sgd, adamw, muon, not 'mun'"),
        ({"lr": [0.0, 0.1]}, "tune.lr: must be above 0, not 0.0"),
        ({"lrr": [0.1, 0.2]}, "Did you mean 'lr'"),
        ({"lr": 0.1}, r"tune.lr: must be a list, such as \[a, b\], not 0.1"),
    ],
)
def test_a_space_that_cannot_be_meant_is_one_line(dataset: Path, tmp_path: Path, tuned: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_dataset(write(dataset, tmp_path / "raw", tune=tuned))


def test_a_store_that_is_no_disk_wants_a_place_for_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAYLINE_STORE", "memory://somewhere")
    with pytest.raises(UserError, match="GRAYLINE_TUNE_STORAGE: set it"):
        Settings().tuning_uri("few")
    monkeypatch.setenv("GRAYLINE_TUNE_STORAGE", "sqlite:////tmp/tune.db")
    assert Settings().tuning_uri("few") == "sqlite:////tmp/tune.db"


@pytest.mark.parametrize(
    ("space", "adjusted"), [({"lr": [0.001, 0.1]}, True), ({"sampling": ["natural", "balanced"]}, False)]
)
def test_a_search_has_one_correction_of_rare_classes(
    store: Path, tmp_path: Path, digits: Digits, space: dict[str, object], adjusted: bool
) -> None:
    write_folder(tmp_path / "raw", digits, range(2), 160)
    for path in sorted((tmp_path / "raw" / "1").iterdir())[:60]:
        path.unlink()
    data, here = load_dataset(write(tmp_path / "few.yaml", tmp_path / "raw", tune=space)), a_workspace(UPath(store))
    settings = stage._settings_of(sharded(data, UPath(store)), data, 1, here)
    assert (settings.train.logit_adjustment > 0) == adjusted
