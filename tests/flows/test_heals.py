"""What is derived is verified when it is opened, and made again where it is torn; what is the truth is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from flows.classify_batch import classify_batch
from flows.nightly_retrain import nightly_retrain
from resnet_core.errors import JobError
from resnet_core.reading.image import schema
from resnet_core.reading.pool import read_files
from resnet_core.storage.files import DamagedFileError
from tasks.ingest import pixels
from tests.conftest import write_folder

pytestmark = pytest.mark.usefixtures("prefect")

Digits = tuple[np.ndarray, list[str]]


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def empty(content: bytes) -> bytes:
    return b""


@pytest.fixture
def home(store: Path, tmp_path: Path, digits: Digits) -> str:
    """A data set file of three digits; `store` is its store."""
    write_folder(tmp_path / "raw", digits, range(3), 200)
    content = {
        "name": "few",
        "source": str(tmp_path / "raw"),
        "image": {"size": 8},
        "model": {"arch": "resnet10", "width": 16},
        "train": {"epochs": 1, "batch_size": 32},
        "gate": {"minimum": 0.0},
    }
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(content))
    return str(tmp_path / "few.yaml")


def tear(store: Path, pattern: str, how: Callable[[bytes], bytes]) -> list[Path]:
    """Tear every file, each as a new one: shards share theirs with those of earlier nights."""
    files = [path for path in sorted(store.glob(pattern)) if path.is_file()]
    for path in files:
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(how(content))
    return files


def catalog(store: Path) -> pd.DataFrame:
    rows = pd.read_parquet(store / "catalog/few/catalog.parquet")
    return rows.sort_values("uri")[["uri", "image_id", "label", "split", "status"]].reset_index(drop=True)


DERIVED = (
    "shards/few/*/*", "pixels/few/*/*", "runs/few/*/evaluation/metrics.json",
    "runs/few/*/explanation/gallery.json", "runs/few/*/epochs.json", "runs/few/*/model/*",
)  # fmt: skip


@pytest.mark.parametrize("how", [cut, empty])
def test_derived_files_are_made_again_and_nothing_is_decided_anew(
    home: str, store: Path, how: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    first, before = nightly_retrain(home), catalog(store)
    shards = {path.name: path.read_bytes() for path in store.glob("shards/few/*/*.parquet")}
    torn = {pattern: tear(store, pattern, how) for pattern in DERIVED}
    assert all(torn.values())
    with caplog.at_level("WARNING", logger="grayline"):
        second = nightly_retrain(home)
    assert second.version == first.version
    assert second.checkpoint
    assert not second.checkpoint.reused
    assert {path.name: path.read_bytes() for path in store.glob("shards/few/*/*.parquet")} == shards
    pd.testing.assert_frame_equal(catalog(store), before)
    for text in ("its files are read again", "the training in", "gallery.json is damaged"):
        assert text in caplog.text
    caplog.clear()
    third = nightly_retrain(home)
    assert third.checkpoint
    assert third.checkpoint.reused
    assert "damaged" not in caplog.text


def test_one_torn_shard_is_made_again_from_the_pixels(home: str, store: Path, caplog: pytest.LogCaptureFixture) -> None:
    nightly_retrain(home, "preprocess")
    shard = min(store.glob("shards/few/*/*.parquet"))
    content, rows = bytearray(shard.read_bytes()), pq.read_metadata(shard).num_rows
    content[len(content) // 3] ^= 1
    shard.unlink()
    shard.write_bytes(content)
    night = nightly_retrain(home, "train")
    assert night.shard_set
    assert f"{shard} is damaged" in caplog.text
    assert night.shard_set.written == rows


@pytest.mark.parametrize("how", [cut, empty, None])
def test_a_lost_catalog_is_restored_from_its_history(
    home: str, store: Path, how: Callable[[bytes], bytes] | None, caplog: pytest.LogCaptureFixture
) -> None:
    nightly_retrain(home, "ingest")
    before, history = catalog(store), {path.name for path in store.glob("history/few/*")}
    if how:
        tear(store, "catalog/few/*", how)
    else:
        shutil.rmtree(store / "catalog")
    night = nightly_retrain(home, "ingest")
    assert "restored from" in caplog.text
    assert night.catalog.version == 1
    pd.testing.assert_frame_equal(catalog(store), before)
    assert {path.name for path in store.glob("history/few/*")} == history
    shutil.rmtree(store / "history")
    tear(store, "catalog/few/*", cut)
    with pytest.raises(JobError, match=r"catalog.parquet is damaged .* Restore it from a backup of the store, or"):
        nightly_retrain(home, "ingest")


@pytest.mark.parametrize("code", ["over_time", "decoder_crashed"])
def test_a_stall_in_one_night_is_no_verdict_in_the_next(
    home: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    uri = str(next((tmp_path / "raw").rglob("*.png")))

    def stalled(files: pa.Table, *how: Any) -> pa.Table:
        rows = read_files(files, *how).to_pylist()
        for row, name in zip(rows, files["uri"].to_pylist(), strict=True):
            if name == uri:
                row.update(reason_code=code, reason=code)
        return pa.Table.from_pylist(rows, schema(8))

    def night() -> tuple[int, str, int | None]:
        read = nightly_retrain(home, "ingest").catalog.read
        row = pd.read_parquet(store / "catalog/few/catalog.parquet").set_index("uri").loc[uri]
        return read, str(row.status), None if pd.isna(row.tries) else int(row.tries)

    monkeypatch.setattr(pixels, "read_files", stalled)
    assert [night() for _ in range(2)] == [(200, "quarantined", 1), (1, "quarantined", 2)]
    monkeypatch.setattr(pixels, "read_files", read_files)
    assert [night() for _ in range(2)] == [(1, "ok", None), (0, "ok", None)]
    monkeypatch.setattr(pixels, "read_files", stalled)
    Path(uri).touch()  # a file that stalls every reader is given up
    assert [night() for _ in range(4)] == [(1, "quarantined", tries) for tries in (1, 2, 3)] + [(0, "quarantined", 3)]


def test_torn_rows_are_named_with_the_remedy_which_works(home: str, store: Path, tmp_path: Path) -> None:
    nightly_retrain(home)
    output, source = tmp_path / "out", str(tmp_path / "raw")
    classify_batch(source, str(output), "few@champion", engine="torch")
    rows = pd.read_parquet(output).sort_values("uri").reset_index(drop=True).drop(columns="scored_at")
    part = tear(output, "*.parquet", cut)[0]
    with pytest.raises(DamagedFileError, match=r"Its rows are lost\. Delete it, and run the same") as error:
        classify_batch(source, str(output), "few@champion", engine="torch")
    assert str(part) in str(error.value)
    for path in output.glob("*.parquet"):
        path.unlink()
    classify_batch(source, str(output), "few@champion", engine="torch")
    again = pd.read_parquet(output).sort_values("uri").reset_index(drop=True).drop(columns="scored_at")
    pd.testing.assert_frame_equal(again, rows)
    tear(output, "_batch.json", cut)
    with pytest.raises(DamagedFileError, match=r"It says whose rows these are\. Choose another --output"):
        classify_batch(source, str(output), "few@champion", engine="torch")
    assert json.loads((output / "_manifest.json").read_text())["files"] == 200
