"""The registry belongs to other people and tools, too: more than a page of models, and runs that somebody deletes."""

import ast
import logging
import shutil
import tempfile
from functools import partial
from pathlib import Path

import mlflow.artifacts
import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from upath import UPath

from resnet_core.errors import UserError
from tasks.registry import champion, patience, runs, versions
from tasks.registry.integrity import verified_folder
from tasks.registry.patience import RegistryError

# The least that a version of Grayline's may say of its code.
MLMODEL = """\
flavors:
  python_function:
    code: code
    loader_module: mlflow.pyfunc.loaders.code_model
    model_code_path: served_model.py
"""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with the model `parts` of two versions; the second is the champion. They have no files."""
    path = tmp_path_factory.mktemp("registry") / "mlflow.db"
    uri = f"sqlite:///{path}"
    made = MlflowClient(uri, registry_uri=uri)
    experiment = made.create_experiment("parts")
    made.create_registered_model("parts")
    for _ in range(2):
        made.create_model_version("parts", "file:///nowhere", made.create_run(experiment).info.run_id)
    for version in ("1", "2"):
        champion.record(uri, "parts", "promoted", None, version, "gate")
    made.set_registered_model_alias("parts", "champion", "2")
    return path


@pytest.fixture
def registry(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A copy of the registry for one test, because to make one takes seconds."""
    monkeypatch.setattr(champion, "check_version", lambda *_: None)
    uri = f"sqlite:///{shutil.copy(database, tmp_path)}"
    return MlflowClient(uri, registry_uri=uri)


def test_a_model_behind_a_hundred_others_is_found(registry: MlflowClient) -> None:
    for number in range(120):
        registry.create_registered_model(f"a{number:03}")
    uri = registry.tracking_uri
    versions.check_model(uri, "parts")
    assert versions.resolve(uri, "parts").version == "2"
    with pytest.raises(UserError, match=r"^--model: no model 'part'\. Did you mean 'parts'\?.*a019, and 101 more\.$"):
        versions.resolve(uri, "part")
    with pytest.raises(UserError, match=r"^--model: name one of a000, .* and 101 more, as in a000@champion, of \S+\.$"):
        versions.resolve(uri, None)


def test_every_page_of_a_search_is_read(registry: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    search = MlflowClient.search_model_versions
    monkeypatch.setattr(
        MlflowClient, "search_model_versions", lambda self, text, page_token: search(self, text, 1, None, page_token)
    )
    assert set(versions.versions_of(registry.tracking_uri, "parts")) == {"1", "2"}


def test_an_error_is_not_a_model_that_is_not_there(registry: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: MlflowClient, name: str) -> None:
        raise MlflowException("your session has ended")

    monkeypatch.setattr(MlflowClient, "get_registered_model", refuse)
    monkeypatch.setattr(patience, "LONGEST", 0.0)
    with pytest.raises(RegistryError, match="session"):
        versions.check_model(registry.tracking_uri, "parts")


@pytest.mark.parametrize("deleted", ["1", "2"])
def test_a_rollback_over_a_deleted_run_moves_the_alias(
    registry: MlflowClient, deleted: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = registry.get_model_version("parts", deleted).run_id
    registry.delete_run(run)
    uri = registry.tracking_uri
    with caplog.at_level(logging.WARNING):
        assert champion.take_back(uri, "parts", None, "misses scratches").version == "1"
    assert str(registry.get_model_version_by_alias("parts", "champion").version) == "1"
    assert [event.after for event in champion.events(uri, "parts")] == ["1", "2", "1"]
    assert f"the run {run} was deleted: nothing is logged there" in caplog.text
    kept = registry.get_model_version("parts", "2" if deleted == "1" else "1").run_id
    said = registry.get_run(kept).data.tags["grayline.promoted"]
    assert said == ("rolled back" if deleted == "1" else "true")


def test_a_move_that_fails_leaves_no_line_in_the_history(
    registry: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise MlflowException("database is locked")

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", refuse)
    monkeypatch.setattr(patience, "LONGEST", 0.0)
    with pytest.raises(RegistryError, match="locked"):
        champion.take_back(registry.tracking_uri, "parts", None, "misses scratches")
    assert [event.after for event in champion.events(registry.tracking_uri, "parts")] == ["1", "2"]


def test_a_promotion_that_died_before_its_event_is_completed_and_one_that_did_not_is_not_doubled(
    registry: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = registry.tracking_uri

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(champion, "record", die)
        with pytest.raises(KeyboardInterrupt):
            champion.make_champion(uri, "parts", "1", "by hand")
    for _ in range(2):
        champion.make_champion(uri, "parts", "1", "by hand")
    moves = [(event.action, event.before, event.after) for event in champion.events(uri, "parts")]
    assert moves[-1] == ("promoted", "2", "1")
    assert moves.count(moves[-1]) == 1


def test_version_0_is_not_the_challenger(registry: MlflowClient) -> None:
    registry.set_registered_model_alias("parts", "challenger", "1")
    with pytest.raises(UserError, match=r"no version '0'\. It has: 1, 2\."):
        champion.make_champion(registry.tracking_uri, "parts", "0", "")


def test_a_version_is_known_by_its_files_where_numbers_begin_again(registry: MlflowClient) -> None:
    uri = registry.tracking_uri
    registry.set_model_version_tag("parts", "1", versions.FILES, "digest of the first")
    first, second = versions.find_version(uri, "parts", "1"), versions.find_version(uri, "parts", "2")
    assert (first.files, second.files) == ("digest of the first", "file:///nowhere")  # of an earlier release
    registry.delete_registered_model("parts")
    registry.create_registered_model("parts")
    run = registry.create_run(registry.create_experiment("again")).info.run_id
    registry.create_model_version("parts", "file:///elsewhere", run, {versions.FILES: "another digest"})
    again = versions.find_version(uri, "parts", "1")
    assert (str(again), again.files) == (str(first), "another digest")
    assert again != first


def test_a_deleted_experiment_is_restored(registry: MlflowClient, caplog: pytest.LogCaptureFixture) -> None:
    experiment = registry.get_experiment_by_name("parts")
    assert experiment
    registry.delete_experiment(experiment.experiment_id)
    with caplog.at_level(logging.WARNING):
        run = runs.open_run(registry.tracking_uri, UPath("/store"), "parts", "some digest")
    assert registry.get_run(run).info.experiment_id == experiment.experiment_id
    assert "the experiment parts had been deleted: restored" in caplog.text


def test_every_download_says_where_to() -> None:
    """Without a folder, MLflow makes one in the temporary folder for each model, and nobody removes it."""
    home = Path(__file__).parents[3]
    calls = [
        (path.relative_to(home).as_posix(), node)
        for path in [*home.glob("tasks/**/*.py"), *home.glob("flows/**/*.py")]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("download_artifacts", "download"))
    ]
    assert all(len(call.args) == 3 for _, call in calls), calls
    assert {path for path, _ in calls} > {"tasks/registry/integrity.py", "tasks/registry/int8_file.py"}


def test_a_version_of_a_server_is_removed_after_its_use(
    registry: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place that is not a local folder is downloaded, as from a server."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "MLmodel").write_text(MLMODEL)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(MlflowClient, "get_model_version_download_uri", lambda *_: "mlflow-artifacts:/files")

    def download(artifact_uri: str, tracking_uri: str, dst_path: str | None) -> str:
        assert dst_path
        return str(shutil.copytree(tmp_path / "files", Path(dst_path) / "files"))

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", download)
    version = versions.find_version(registry.tracking_uri, "parts", "1")
    with verified_folder(registry.tracking_uri, version) as folder:
        assert (folder / "MLmodel").read_text() == MLMODEL
        assert folder.is_relative_to(tmp_path / "tmp")
    with pytest.raises(KeyError), verified_folder(registry.tracking_uri, version):
        raise KeyError
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize(("move", "event"), [("promote", "promoted"), ("roll back", "rolled back")])
def test_a_killed_move_is_completed_by_the_next_look_at_the_champion(
    registry: MlflowClient, monkeypatch: pytest.MonkeyPatch, move: str, event: str
) -> None:
    """The night finds its version the champion already, and a person is told the same: both write the event."""
    uri = registry.tracking_uri

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    made = registry.create_model_version("parts", "file:///nowhere")
    registry.set_registered_model_alias("parts", "challenger", made.version)
    act = partial(champion.make_champion, uri, "parts", None)
    if move == "roll back":
        registry.delete_registered_model_alias("parts", "challenger")
        act = partial(champion.take_back, uri, "parts", "1")
    with monkeypatch.context() as patch:
        patch.setattr(champion, "record", die)
        patch.setattr(champion, "_now", lambda: "2099-01-01T00:00:00+00:00")
        with pytest.raises(KeyboardInterrupt):
            act("gate: floor: 0.9")
    number = "3" if move == "promote" else "1"
    for _ in range(2):
        found = champion.champion_of(uri, "parts")
        assert found
        assert found.version == number
    events = champion.events(uri, "parts")
    assert [each.after for each in events] == ["1", "2", number]
    assert (events[-1].action, events[-1].before, events[-1].why) == (event, "2", "gate: floor: 0.9")
    aliases = registry.get_registered_model("parts").aliases
    assert {alias: str(version) for alias, version in aliases.items()} == {"champion": number}


def test_an_alias_that_a_person_moves_is_no_killed_move(registry: MlflowClient) -> None:
    uri = registry.tracking_uri
    champion.make_champion(uri, "parts", "1", "by hand")
    registry.set_registered_model_alias("parts", "champion", "2")
    found = champion.champion_of(uri, "parts")
    assert found
    assert found.version == "2"
    assert [each.after for each in champion.events(uri, "parts")] == ["1", "2", "1"]
