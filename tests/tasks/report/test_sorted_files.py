"""A batch's files as folders: every file once, by links or copies, the originals as they were."""

import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from resnet_core.errors import UserError
from tasks.batch.values import Scores
from tasks.report.sorted_files import check_folder, sort_files
from tasks.values import ModelVersion


def batch(folder: Path, rows: list[dict[str, Any]], source: str = "/data/new", confidential: bool = False) -> Scores:
    schema = pa.schema(
        [("uri", pa.string()), ("status", pa.string()), ("label", pa.string()), ("needs_review", pa.bool_())]
        + [("unknown", pa.bool_())] * any("unknown" in each for each in rows)  # not in rows of earlier releases
    )
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "rows.parquet")
    parts = (UPath(folder / "rows.parquet"),)
    model = ModelVersion("parts", "1", "")
    return Scores(
        source, UPath(folder), parts, model, "torch", len(rows), len(rows), 0, {}, 1.0, confidential=confidential
    )


def row(uri: str | Path, label: str | None, review: bool | None = False) -> dict[str, Any]:
    status = "failed" if label is None else "ok"
    return {"uri": str(uri), "status": status, "label": label, "needs_review": review}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in ("a/1.png", "b/1.png", "2.png", "3.png", "4"):
        (tmp_path / "new" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "new" / name).write_bytes(name.encode())
    return tmp_path / "new"


@pytest.mark.parametrize("copy", [False, True])
def test_every_file_goes_to_its_label_once(source: Path, tmp_path: Path, copy: bool) -> None:
    rows = [
        row(source / "a/1.png", "ok"),
        row(source / "b/1.png", "ok"),
        row(source / "2.png", "Review"),
        row(source / "3.png", "ok", review=True),
        row(source / "4", None),
        row(source / "gone.png", "ok"),
    ]
    before = tree(source)
    scores = batch(tmp_path, rows)
    counts, gone = sort_files(scores, check_folder(str(tmp_path / "sorted"), scores, copy), copy)
    assert tree(tmp_path / "sorted") == {
        "ok/1.png": b"a/1.png", "ok/1-2.png": b"b/1.png", "label-Review/2.png": b"2.png", "review/3.png": b"3.png",
        "failed/4": b"4",
    }  # fmt: skip
    assert (tmp_path / "sorted" / "ok" / "1.png").is_symlink() is not copy
    assert counts == {"ok": 2, "label-Review": 1, "review": 1, "failed": 1}
    assert gone == [str(source / "gone.png")]
    assert tree(source) == before


def test_an_unknown_image_has_a_folder_of_its_own_and_so_has_a_class_of_that_name(source: Path, tmp_path: Path) -> None:
    rows = [
        row(source / "2.png", "ok", review=True) | {"unknown": True},
        row(source / "3.png", "ok", review=True) | {"unknown": False},
        row(source / "4", "Unknown") | {"unknown": None},
    ]
    scores = batch(tmp_path, rows)
    counts, _ = sort_files(scores, tmp_path / "sorted", copy=False)
    assert counts == {"unknown": 1, "review": 1, "label-Unknown": 1}
    assert tree(tmp_path / "sorted")["unknown/2.png"] == b"2.png"


def test_labels_stay_apart_and_within_the_folder(source: Path, tmp_path: Path) -> None:
    rows = [row(source / "2.png", "../x"), row(source / "3.png", "..:x"), row(source / "4", "..")]
    scores = batch(tmp_path, rows)
    counts, _ = sort_files(scores, tmp_path / "sorted", copy=True)
    assert set(counts) == {"_x", "_x-2", "_"}
    assert len(tree(tmp_path / "sorted")) == 3


def test_members_of_an_archive_are_copied(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("cats/1.png", b"one")
    scores = batch(tmp_path, [row(f"zip://cats/1.png::file://{tmp_path}/x.zip", "ok")])
    sort_files(scores, tmp_path / "sorted", copy=False)
    assert tree(tmp_path / "sorted") == {"ok/1.png": b"one"}


def test_a_folder_that_would_mix_files_is_refused(source: Path, tmp_path: Path) -> None:
    scores = batch(tmp_path, [], source=str(source))
    for place, words in ((source, "is not empty"), (source / "sorted", "lies in the batch's source")):
        with pytest.raises(UserError, match=words):
            check_folder(str(place), scores, copy=False)
    with pytest.raises(UserError, match="lies in the batch's source"):
        check_folder(str(source / "sorted"), batch(tmp_path, [], source=f"{source}/**/*.png"), copy=False)
    (tmp_path / "secret").mkdir()
    with pytest.raises(UserError, match="Use --link"):
        check_folder(str(tmp_path / "sorted"), batch(tmp_path / "secret", [], confidential=True), copy=True)
