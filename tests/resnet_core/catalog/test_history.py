"""Versions of the catalog: the difference of any two, whatever happened between them."""

from pathlib import Path

import pyarrow as pa
import pytest
from upath import UPath

from resnet_core.catalog import history
from resnet_core.catalog.build import CATALOG
from resnet_core.errors import UserError
from resnet_core.storage.database import create, database

Files = dict[str, tuple[str, str]]  # uri -> image_id, label

NIGHTS: list[Files] = [
    {"a": ("1", "cat"), "b": ("2", "cat")},
    {"a": ("1", "dog"), "b": ("2", "cat"), "c": ("3", "dog")},
    {"b": ("9", "cat"), "c": ("3", "dog")},
    {"a": ("1", "cat"), "b": ("2", "cat")},
]


def rows(files: Files) -> pa.RecordBatch:
    frame = [
        {"uri": uri, "image_id": image, "label": label, "split": "train", "status": "ok", "present": True}
        for uri, (image, label) in files.items()
    ]
    return pa.RecordBatch.from_pylist(frame, CATALOG)


def play(folder: UPath, nights: list[Files]) -> None:
    before: Files = {}
    for version, files in enumerate(nights):
        with database() as db:
            create(db, "previous", CATALOG, [rows(before)])
            create(db, "finished", CATALOG, [rows(files)])
            history.append(db, folder, version)
        history.compact(folder)
        before = files


def told(folder: UPath, low: int, high: int) -> dict[str, str]:
    found = history.difference(folder, low, high)
    return dict(zip(found["uri"].to_pylist(), found["change"].to_pylist(), strict=True))


def expected(before: Files, after: Files) -> dict[str, str]:
    changes = {}
    for uri in before.keys() | after.keys():
        if before.get(uri) != after.get(uri):
            changes[uri] = "came" if uri not in before else "went" if uri not in after else "changed"
    return changes


@pytest.mark.parametrize("most", [1, 2, 64])
def test_the_difference_of_any_two_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(history, "MOST", most)
    folder = UPath(tmp_path / "versions")
    play(folder, NIGHTS)
    states: list[Files] = [{}, *NIGHTS]
    assert history.last_version(folder) == len(NIGHTS)
    assert len(list(folder.glob("*.parquet"))) <= most + 1
    for low in range(len(states)):
        for high in range(low, len(states)):
            assert told(folder, low, high) == expected(states[low], states[high]), (low, high)


def test_what_was_and_what_is(tmp_path: Path) -> None:
    folder = UPath(tmp_path / "versions")
    play(folder, NIGHTS)
    row = next(row for row in history.difference(folder, 1, 2).to_pylist() if row["uri"] == "a")
    assert (row["label_before"], row["label"], row["image_id_before"], row["image_id"]) == ("cat", "dog", "1", "1")


def test_a_night_without_changes_is_no_version(tmp_path: Path) -> None:
    folder = UPath(tmp_path / "versions")
    play(folder, NIGHTS[:2])
    with database() as db:
        for name in ("previous", "finished"):
            create(db, name, CATALOG, [rows(NIGHTS[1])])
        assert history.append(db, folder, 2) == 2


def test_a_night_that_was_killed_before_its_catalog_counts_once(tmp_path: Path) -> None:
    folder = UPath(tmp_path / "versions")
    play(folder, NIGHTS[:1])
    for after in (NIGHTS[1], NIGHTS[2]):  # the first of these nights got no further than its version
        with database() as db:
            create(db, "previous", CATALOG, [rows(NIGHTS[0])])
            create(db, "finished", CATALOG, [rows(after)])
            assert history.append(db, folder, 1) == 2
    assert told(folder, 1, 2) == expected(NIGHTS[0], NIGHTS[2])


def test_a_compaction_that_was_killed_counts_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = UPath(tmp_path / "versions")
    play(folder, NIGHTS[:3])
    short = {path.name: path.read_bytes() for path in folder.glob("*.parquet")}
    monkeypatch.setattr(history, "MOST", 1)
    history.compact(folder)
    for name, content in short.items():
        (folder / name).write_bytes(content)
    assert told(folder, 0, 3) == expected({}, NIGHTS[2])
    assert history.versions(folder)["came"].to_pylist() == [2, 1, 0]
    history.compact(folder)
    assert [path.name for path in folder.glob("*.parquet")] == ["000001-000003.parquet"]


@pytest.mark.parametrize(("low", "high", "text"), [(0, 9, "no version 9"), (2, 1, "comes after")])
def test_a_version_that_is_not_there(tmp_path: Path, low: int, high: int, text: str) -> None:
    folder = UPath(tmp_path / "versions")
    play(folder, NIGHTS[:2])
    with pytest.raises(UserError, match=text):
        history.difference(folder, low, high)
