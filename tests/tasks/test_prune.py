"""Prune: after some nights, what goes is what nothing needs, and the next night and the versions do without it."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import yaml
from upath import UPath

from flows.nightly_retrain import nightly_retrain
from flows.reproduce import reproduce
from resnet_core.storage.digest import digest_of
from resnet_core.storage.turns import turn
from tasks.prune import Leftover, delete, leftovers
from tasks.registry.versions import by_alias
from tasks.settings import Settings
from tasks.store import Store
from tests.conftest import write_folder
from tests.places import a_workspace

pytestmark = pytest.mark.usefixtures("prefect")

Digits = tuple[np.ndarray, list[str]]


def write(path: Path, size: int) -> str:
    content = {
        "name": "few",
        "source": str(path.parent / "raw"),
        "image": {"size": size},
        "model": {"arch": "resnet10", "width": 16},
        "train": {"epochs": 2, "batch_size": 32},
        "gate": {"minimum": 0.0},
    }
    path.write_text(yaml.safe_dump(content))
    return str(path)


def found(days: float = -1) -> list[Leftover]:
    """By default with what was written a moment ago."""
    settings = Settings()
    return leftovers(a_workspace(settings.root, settings.tracking_uri), datetime.now(UTC) - timedelta(days=days))


def places(some: list[Leftover]) -> set[str]:
    return {f"{one.folder.parts[-3]}/{one.folder.name}" for one in some}


@pytest.mark.heavy
@pytest.mark.parametrize("protocol", ["file", "memory"])
def test_what_goes_is_what_neither_the_next_night_nor_a_version_needs(
    protocol: str, store: Path, tmp_path: Path, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    if protocol == "memory":
        monkeypatch.setenv("GRAYLINE_STORE", f"memory://{tmp_path.name}")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
        monkeypatch.chdir(tmp_path)
    raw = write_folder(tmp_path / "raw", digits, range(3), 200)
    larger = nightly_retrain(write(tmp_path / "few.yaml", 10), "preprocess")
    assert found() == []  # whoever has no version yet keeps all that a version may be made of
    dataset = write(tmp_path / "few.yaml", 8)
    first = nightly_retrain(dataset)  # version 1
    assert places(found()) == {f"pixels/{only_pixels(larger_than=8)}", f"shards/{larger.shard_set.digest}"}  # type: ignore[union-attr]

    write_folder(raw, digits, range(3), 60, start=200)
    second = nightly_retrain(dataset, "train")
    for path in sorted(raw.rglob("*.png"))[:200]:
        path.touch()  # read again, into other parts
    for path in sorted(raw.rglob("*.png"))[-20:]:
        path.unlink()
    third = nightly_retrain(dataset, "train")
    champion = by_alias(Settings().tracking_uri, "few", "champion")
    assert champion is not None
    for version in (digest_of(champion.files), "2"):  # earlier releases named engines by the version's number
        engine = Settings().root / "engines" / f"few-{version}-0123abcd" / "torch.json"
        engine.parent.mkdir(parents=True)
        engine.write_text("{}")
    some = found()
    assert [one.folder.name for one in some if "champion" in one.why] == ["few-2-0123abcd"]
    assert second.shard_set is not None
    assert second.checkpoint is not None
    assert {f"shards/{second.shard_set.digest}", f"runs/{second.checkpoint.digest}"} < places(some)
    kept = {night.shard_set.digest for night in (first, third) if night.shard_set}
    kept |= {night.checkpoint.digest for night in (first, third) if night.checkpoint}
    assert not kept & {one.folder.name for one in some}
    assert sum("read again" in one.why for one in some) == 1
    assert all(one.bytes > 0 for one in some)

    assert found(days=1) == []
    with turn(Store(Settings().root).turn("few")):
        assert found() == []  # a night is at work

    delete(some)
    assert found() == []
    again = nightly_retrain(dataset, "train")
    assert third.shard_set is not None
    assert again.shard_set is not None
    assert again.checkpoint is not None
    assert (again.catalog.read, again.shard_set.written, again.shard_set.digest) == (0, 0, third.shard_set.digest)
    assert again.checkpoint.reused
    assert reproduce("few/1").identical


def only_pixels(larger_than: int) -> str:
    """The cache whose images have more pixels a side."""
    import pyarrow.parquet as pq

    folders = list((Settings().root / "pixels" / "few").iterdir())
    sizes = {}
    for folder in folders:
        with next(iter(folder.glob("*.parquet"))).open("rb") as file:
            sizes[folder.name] = pq.read_schema(file).field("pixels").type.byte_width
    (name,) = (name for name, width in sizes.items() if width > larger_than**2)
    return name


def test_the_command_lists_and_deletes_only_when_told(store: Path, tmp_path: Path, digits: Digits) -> None:
    write_folder(tmp_path / "raw", digits, range(3), 200)
    nightly_retrain(write(tmp_path / "few.yaml", 10), "preprocess")
    nightly_retrain(write(tmp_path / "few.yaml", 8), "register")

    def prune(*options: str) -> str:
        command = [sys.executable, "-c", "from flows.cli.app import main; main()", "prune", *options]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    sets = UPath(store) / "shards" / "few"
    assert len(list(sets.iterdir())) == 2
    assert "nothing to prune" in prune()
    listed = prune("--older-than", "0")
    assert "say --delete" in listed
    assert listed.count("shards/few/") == listed.count("pixels/few/") == 1
    assert len(list(sets.iterdir())) == 2
    assert "deleting" in prune("--older-than", "0", "--delete")
    (left,) = sets.iterdir()
    assert json.loads((left / "_manifest.json").read_text())["preprocessing"]["size"] == 8
    assert "nothing to prune" in prune("--older-than", "0")


def test_trainings_of_another_registry_stay_with_their_shards(
    store: Path, tmp_path: Path, digits: Digits, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A shell without MLFLOW_TRACKING_URI asks the store's own registry, which knows nothing of the team's."""
    raw = write_folder(tmp_path / "raw", digits, range(3), 60)
    dataset = write(tmp_path / "few.yaml", 8)
    here = nightly_retrain(dataset).checkpoint
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/team.db")
    shared = nightly_retrain(dataset).checkpoint  # the same training, registered twice
    write_folder(raw, digits, range(3), 20, start=60)
    theirs = nightly_retrain(dataset)
    write_folder(raw, digits, range(3), 20, start=80)
    latest = nightly_retrain(dataset, "train")
    assert here
    assert shared
    assert theirs.checkpoint
    assert theirs.shard_set
    assert latest.checkpoint
    assert here.digest == shared.digest
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with caplog.at_level("WARNING"):
        kept = places(found())
    assert not {place for place in kept if place.startswith(("runs/", "shards/"))}
    assert "few: trainings of another MLflow registry stay (3)" in caplog.text
    (Settings().root / "runs" / "few" / theirs.checkpoint.digest / "registered.json").unlink()  # of an earlier release
    assert f"runs/{theirs.checkpoint.digest}" not in places(found())
