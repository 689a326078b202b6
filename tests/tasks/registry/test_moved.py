"""A store works where it lies: moved, copied, by a server or without, and by any name."""

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.artifacts import download_artifacts
from mlflow.tracking import MlflowClient
from upath import UPath

from tasks.registry import runs
from tasks.store import Store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one run, whose artifact `text.txt` says `first`."""
    store = tmp_path_factory.mktemp("made") / "old"
    store.mkdir()
    uri = Store(UPath(store)).tracking_uri()
    run = runs.open_run(uri, UPath(store), "parts", "some digest")
    runs.client(uri).log_text(run, "first", "text.txt")
    return store


def the_run(store: Path) -> tuple[MlflowClient, str]:
    client = runs.client(Store(UPath(store)).tracking_uri())
    experiment = client.get_experiment_by_name("parts")
    assert experiment
    (run,) = client.search_runs([experiment.experiment_id])
    return client, run.info.run_id


def text_of(client: MlflowClient, run: str) -> str:
    place = f"{client.get_run(run).info.artifact_uri}/text.txt"
    return Path(download_artifacts(artifact_uri=place, tracking_uri=client.tracking_uri)).read_text()


@pytest.mark.parametrize("name", ["new", "a b", "a%20b", "a#b", "a?b=c", "ä"])
@pytest.mark.parametrize("bring", [shutil.move, shutil.copytree])
def test_a_store_works_where_it_lies(
    made: Path, tmp_path: Path, name: str, bring: Callable[[Path, Path], Path]
) -> None:
    old = tmp_path / "first"
    shutil.copytree(made, old)
    the_run(old)  # its places are those of `first` now
    new = tmp_path / name
    bring(old, new)
    client, run = the_run(new)
    assert text_of(client, run) == "first"
    later = runs.open_run(client.tracking_uri, UPath(new), "parts", "another digest")
    client.log_text(later, "second", "text.txt")
    assert text_of(client, later) == "second"
    assert len(list(new.rglob("*.txt"))) == 2
    assert len(list(old.rglob("*.txt"))) == (1 if bring is shutil.copytree else 0)
    files = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*") if path.is_file()}
    assert files <= {"first", name}


def test_places_of_a_server_are_found_without_it(made: Path, tmp_path: Path) -> None:
    store = shutil.copytree(made, tmp_path / "store")
    with sqlite3.connect(store / "mlflow.db") as db:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            db.execute(
                f"update {table} set {column} = replace({column}, ?, 'mlflow-artifacts:/') "
                f"where {column} like 'file:%'",
                (f"file://{made}/mlartifacts/",),
            )
    client, run = the_run(store)
    assert text_of(client, run) == "first"


def test_places_elsewhere_stay(made: Path, tmp_path: Path) -> None:
    """Artifacts in a bucket, and files that lie only where they were, are not of the store that has moved."""
    store, other = shutil.copytree(made, tmp_path / "store"), tmp_path / "other" / "mlartifacts" / "more"
    other.mkdir(parents=True)
    places = {"file:" + str(other), "s3://bucket/mlartifacts/parts", "mlflow-artifacts:/", "/somewhere/else"}
    with sqlite3.connect(store / "mlflow.db") as db:
        for number, place in enumerate(sorted(places)):
            row = (f"e{number}", place, "active", "default")
            db.execute(
                "insert into experiments (name, artifact_location, lifecycle_stage, workspace) values (?, ?, ?, ?)", row
            )
    runs.client(Store(UPath(store)).tracking_uri())
    with sqlite3.connect(store / "mlflow.db") as db:
        found = {place for (place,) in db.execute("select artifact_location from experiments where name like 'e_'")}
    assert found == places


def test_places_stay_absolute_where_the_registry_is_given_by_a_relative_path(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place is a URL: in file://store/mlartifacts, `store` would be a machine."""
    shutil.copytree(made, tmp_path / "store")
    monkeypatch.chdir(tmp_path)
    client = runs.client("sqlite:///store/mlflow.db")
    experiment = client.get_experiment_by_name("parts")
    assert experiment
    assert experiment.artifact_location == f"file://{tmp_path}/store/mlartifacts/parts"


def test_a_place_by_another_name_of_the_store_stays(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "store")
    client, run = the_run(tmp_path / "store")
    before = (tmp_path / "store" / "mlflow.db").read_bytes()
    (tmp_path / "link").symlink_to(tmp_path / "store")
    client, run = the_run(tmp_path / "link")
    assert text_of(client, run) == "first"
    assert (tmp_path / "store" / "mlflow.db").read_bytes() == before
