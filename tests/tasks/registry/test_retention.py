"""Retention: old versions go by age and number, never one that an alias, a rollback or a batch needs."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from mlflow import set_tracking_uri
from mlflow.entities import LoggedModelOutput, ViewType
from mlflow.tracking import MlflowClient

from tasks.access.passwords import note_addresses
from tasks.registry import retention
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


def test_the_champion_whose_alias_was_deleted_stays(registry: MlflowClient) -> None:
    """Year of seed 2, night 210: the night that named the remedy, `promote`, pruned the version."""
    registry.delete_registered_model_alias("elpv", "champion")
    try:
        assert expired(registry, 3) == [1, 4, 6, 8, 10, 11, 12]
    finally:
        registry.set_registered_model_alias("elpv", "champion", "7")


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


def test_the_local_stacks_mlflow_is_the_database_of_the_store(store: Path) -> None:
    """Its server keeps what is deleted, and nobody calls its `mlflow gc`."""
    store.mkdir()
    mlflow = client(f"sqlite:///{store}/mlflow.db")
    (store / "stack").mkdir(parents=True)
    note_addresses(store / "stack", {"mlflow": ["http://127.0.0.1:5000"]})
    experiment = mlflow.create_experiment("elpv", artifact_location="mlflow-artifacts:/1")
    run = mlflow.create_run(experiment).info.run_id
    file = store / "mlartifacts" / "1" / run / "artifacts" / "plot.png"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"plot")
    mlflow.delete_run(run)
    for address, left in (("http://elsewhere:5000", 1), ("http://localhost:5000", 0)):
        retention._remove_for_good(address, [run], [])
        assert len(mlflow.search_runs([experiment], run_view_type=ViewType.DELETED_ONLY)) == left
        assert file.exists() == bool(left)


def test_the_files_of_a_logged_model_go_and_what_a_person_may_restore_stays(tmp_path: Path) -> None:
    mlflow = client(f"sqlite:///{tmp_path}/mlflow.db")
    uri = mlflow.tracking_uri
    set_tracking_uri(uri)
    experiment = mlflow.create_experiment("elpv", artifact_location=f"file://{tmp_path}/files")
    other = mlflow.create_experiment("by hand", artifact_location=f"file://{tmp_path}/other")
    mlflow.create_run(other)
    mlflow.delete_experiment(other)
    mlflow.create_registered_model("elpv")
    models, runs = [], []
    for _ in range(3):
        run = mlflow.create_run(experiment, tags={TRAINING: "0"}).info.run_id
        model = mlflow.create_logged_model(experiment, source_run_id=run).model_id
        (file := tmp_path / "weights.txt").write_text("weights")
        mlflow.log_model_artifact(model, str(file))
        mlflow.log_outputs(run, models=[LoggedModelOutput(model, 0)])
        tags = {"grayline.gate.checks": "x" * 1000}
        mlflow.create_model_version("elpv", f"models:/{model}", run, tags, model_id=model)
        models.append(model)
        runs.append(run)
    mlflow.delete_run(runs[1])
    mlflow._tracking_client.store._hard_delete_run(runs[1])  # by a person, before
    versions = versions_of(uri, "elpv")
    assert len(list((tmp_path / "files").rglob("weights.txt"))) == 3
    delete_from_registry(uri, [versions["1"], versions["2"]], [])
    (left,) = (tmp_path / "files").rglob("weights.txt")
    assert models[2] in str(left)
    assert [path.name for path in left.parents[1].parent.iterdir()] == [models[2]]  # no empty folders either
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as db:
        assert db.execute("select distinct version from model_version_tags").fetchall() == [(3,)]
        assert db.execute("select model_id from logged_models").fetchall() == [(models[2],)]
    mlflow.restore_experiment(other)
    assert mlflow.search_runs([other])
