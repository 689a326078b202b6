"""What people do to MLflow, against what each command then says: the table of docs/registry.md."""

import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from upath import UPath

from resnet_core.errors import UserError
from tasks.registry import champion, runs, versions
from tests.tasks.registry.test_shared_registry import database as database

PAGE = Path(__file__).parents[3] / "docs" / "registry.md"
_SECTION = PAGE.read_text(encoding="utf-8").split("## What people do to MLflow")[1].split("\n## ")[0]
_ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")] for line in _SECTION.splitlines() if line.startswith("|")
]
TABLE = {row[0]: row[1:] for row in _ROWS[2:]}


def run_of(registry: MlflowClient, version: str = "2") -> str:
    return str(registry.get_model_version("parts", version).run_id)


def experiment_of(registry: MlflowClient) -> str:
    experiment = registry.get_experiment_by_name("parts")
    assert experiment
    return str(experiment.experiment_id)


def restored_run(registry: MlflowClient) -> None:
    registry.delete_run(run_of(registry))
    registry.restore_run(run_of(registry))


def restored_experiment(registry: MlflowClient) -> None:
    registry.delete_experiment(experiment := experiment_of(registry))
    registry.restore_experiment(experiment)


def removed_run(registry: MlflowClient) -> None:
    """As `mlflow gc` does."""
    run = run_of(registry)
    registry.delete_run(run)
    registry._tracking_client.store._hard_delete_run(run)


def annotated(registry: MlflowClient) -> None:
    registry.set_registered_model_tag("parts", "owner", "line 3")
    registry.set_registered_model_tag("parts", "grayline.history.note", "no JSON")
    registry.set_model_version_tag("parts", "2", "reviewed", "yes")
    registry.update_registered_model("parts", "our parts")


ACTS: dict[str, Callable[[MlflowClient], object]] = {
    "run of the champion deleted": lambda registry: registry.delete_run(run_of(registry)),
    "run of the champion removed for good": removed_run,
    "run deleted and restored": restored_run,
    "run renamed": lambda registry: registry.update_run(run_of(registry), name="good one"),
    "experiment deleted": lambda registry: registry.delete_experiment(experiment_of(registry)),
    "experiment deleted and restored": restored_experiment,
    "experiment renamed": lambda registry: registry.rename_experiment(experiment_of(registry), "bolts"),
    "version 1 deleted": lambda registry: registry.delete_model_version("parts", "1"),
    "version 2 deleted": lambda registry: registry.delete_model_version("parts", "2"),
    "version 2 archived": lambda registry: registry.transition_model_version_stage("parts", "2", "Archived"),
    "model deleted": lambda registry: registry.delete_registered_model("parts"),
    "model renamed to bolts": lambda registry: registry.rename_registered_model("parts", "bolts"),
    "alias deleted": lambda registry: registry.delete_registered_model_alias("parts", "champion"),
    "alias moved to version 1": lambda registry: registry.set_registered_model_alias("parts", "champion", "1"),
    "tags and notes added": annotated,
}


def history(uri: str) -> object:
    versions.check_model(uri, "parts")
    return champion.events(uri, "parts")


def night(uri: str) -> object:
    """What a night asks of the registry and tells it, with a version to register."""
    registry = runs.client(uri)
    run = runs.open_run(uri, UPath("/store"), "parts", "some digest")
    runs.set_tags(uri, run, {"grayline.dataset": "parts"})
    if not registry.search_registered_models("name = 'parts'"):
        registry.create_registered_model("parts")
    made = registry.create_model_version("parts", "file:///nowhere", run)
    registry.set_registered_model_alias("parts", "challenger", made.version)
    return champion.champion_of(uri, "parts"), versions.versions_of(uri, "parts")


COMMANDS: tuple[Callable[[str], object], ...] = (
    lambda uri: versions.resolve(uri, "parts@champion"),
    lambda uri: champion.make_champion(uri, "parts", "1", "better"),
    lambda uri: champion.take_back(uri, "parts", None, "misses scratches"),
    history,
    night,
)


def test_the_table_has_every_act_and_command() -> None:
    assert list(TABLE) == list(ACTS)
    assert all(len(cells) == len(COMMANDS) for cells in TABLE.values())


@pytest.mark.filterwarnings("ignore::FutureWarning")  # MLflow's stages are deprecated
@pytest.mark.parametrize("act", ACTS)
def test_each_command_says_what_the_table_says(
    act: str, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(champion, "check_version", lambda *_: None)
    changed = tmp_path / "changed.db"
    shutil.copy(database, changed)
    ACTS[act](MlflowClient(f"sqlite:///{changed}", registry_uri=f"sqlite:///{changed}"))
    for number, (command, wanted) in enumerate(zip(COMMANDS, TABLE[act], strict=True)):
        copy = shutil.copy(changed, tmp_path / f"{number}.db")
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="grayline"):
            try:
                command(f"sqlite:///{copy}")
                said = caplog.text
            except UserError as error:
                said = str(error)
        if wanted == "ok":
            assert not said, (act, number)
        else:
            assert re.sub(r"\s+", " ", wanted) in said, (act, number)
