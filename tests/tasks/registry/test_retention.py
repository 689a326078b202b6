"""Retention: old versions go by age and number, never one that an alias, a rollback or a batch needs."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tasks.registry.champion import record
from tasks.registry.retention import delete_from_registry, expired_runs, expired_versions
from tasks.registry.runs import TRAINING, client
from tasks.registry.versions import versions_of

LATER = datetime.now(UTC) + timedelta(days=1)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    """Fifteen versions, each of a run with a file, two runs that none was made of, and a batch."""
    folder = tmp_path_factory.mktemp("registry")
    mlflow = client(f"sqlite:///{folder}/mlflow.db")
    experiment = mlflow.create_experiment("elpv", artifact_location=f"file://{folder}/files")
    mlflow.create_registered_model("elpv")
    for number in range(17):
        run = mlflow.create_run(experiment, tags={TRAINING: f"{number}"}).info
        mlflow.log_text(run.run_id, "weights" * 1000, "model/weights.txt")
        mlflow.set_terminated(run.run_id)
        if number < 15:
            mlflow.create_model_version("elpv", f"{run.artifact_uri}/model", run.run_id)
    for number in (3, 5, 7):
        record(mlflow.tracking_uri, "elpv", "promoted", None, str(number), "better")
    mlflow.set_registered_model_alias("elpv", "champion", "7")
    mlflow.set_registered_model_alias("elpv", "shown-to-the-customer", "9")
    scores = mlflow.create_experiment("elpv-scores", artifact_location=f"file://{folder}/scores")
    mlflow.log_param(mlflow.create_run(scores).info.run_id, "model_version", "2")
    return mlflow


def expired(mlflow: MlflowClient, keep: int, before: datetime = LATER, used: frozenset[str] = frozenset()) -> list[int]:
    return [int(v.version) for v in expired_versions(mlflow.tracking_uri, "elpv", keep, before, used)]


def test_what_is_needed_stays_at_any_age(registry: MlflowClient) -> None:
    # 2: a batch in MLflow; 3 and 5: champions before; 7: the champion; 9: an alias; 13 to 15: the newest
    assert expired(registry, 3) == [1, 4, 6, 8, 10, 11, 12]
    assert expired(registry, 3, used=frozenset("1")) == [4, 6, 8, 10, 11, 12]  # a batch in the store
    assert expired(registry, 100) == []


def test_what_is_young_stays_whatever_the_number(registry: MlflowClient) -> None:
    assert expired(registry, 1, datetime.now(UTC) - timedelta(hours=1)) == []


def test_what_goes_goes_with_its_files_and_nothing_else_does(registry: MlflowClient) -> None:
    uri = registry.tracking_uri
    old = expired_versions(uri, "elpv", 3, LATER, ())
    experiment = registry.get_experiment_by_name("elpv")
    assert experiment
    files = Path(experiment.artifact_location.removeprefix("file://"))
    assert len(list(files.rglob("weights.txt"))) == 17
    going = [str(version.run_id) for version in old]
    runs = expired_runs(uri, "elpv", 1, LATER, going)
    assert len(runs) == 1  # of two without a version, the newer one stays
    delete_from_registry(uri, old, runs)
    assert sorted(map(int, versions_of(uri, "elpv"))) == [2, 3, 5, 7, 9, 13, 14, 15]
    assert len(list(files.rglob("weights.txt"))) == 9
    for version in versions_of(uri, "elpv").values():
        assert registry.get_run(str(version.run_id)).info.lifecycle_stage == "active"
    with pytest.raises(Exception, match="not found"):  # in the database, too
        registry.get_run(going[0])
    assert expired(registry, 3) == []
