"""Torn shards, pixels and catalogs are made again; a fault of one night is not a verdict in the next."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
from upath import UPath

from resnet_core.errors import JobError
from resnet_core.reading.image import schema
from resnet_core.reading.pool import read_files
from tasks.ingest import pixels
from tests.tasks.ingest.test_ingest import dataset_of, ingested, sharded
from tests.tasks.ingest.test_levels import files_of, put


def catalog(store: Path) -> pd.DataFrame:
    rows = pd.read_parquet(store / "catalog/d/catalog.parquet")
    return rows.sort_values("uri")[["uri", "image_id", "label", "split", "status"]].reset_index(drop=True)


def flipped(content: bytes) -> bytes:
    """One bit in the middle: length and footer are right."""
    return content[: len(content) // 3] + bytes([content[len(content) // 3] ^ 1]) + content[len(content) // 3 + 1 :]


@pytest.mark.parametrize("torn", [flipped, lambda content: content[:99], lambda content: b""])
@pytest.mark.parametrize("what", ["shards", "pixels"])
def test_a_torn_file_is_made_again(
    digit_folder: Path, tmp_path: Path, what: str, torn: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    dataset, store = dataset_of(digit_folder), tmp_path / "store"
    first = sharded(dataset, UPath(store))
    content = {path.name: path.read_bytes() for path in first.files}
    path = min((store / what / "d").glob("*/*.parquet"))
    rows, whole = pq.read_metadata(path).num_rows, path.read_bytes()
    path.unlink()
    path.write_bytes(torn(whole))
    if what == "pixels":
        shutil.rmtree(store / "shards")
    try:
        again = sharded(dataset, UPath(store))
    except JobError as error:  # among the pixels, which are not read until they are needed
        assert str(error).startswith(f"{path} is damaged (")  # noqa: PT017
        assert "run the same command again" in str(error)  # noqa: PT017
        again = sharded(dataset, UPath(store))
    else:
        assert f"{path} is damaged (" in caplog.text
    assert {path.name: path.read_bytes() for path in again.files} == content
    assert again.written == (rows if what == "shards" else 200)


@pytest.mark.parametrize("how", ["cut", "empty", "gone"])
def test_a_lost_catalog_is_restored_from_its_history(
    digit_folder: Path, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    dataset, store = dataset_of(digit_folder), tmp_path / "store"
    ingested(dataset, UPath(store))
    before, history = catalog(store), {path.name for path in (store / "history/d").iterdir()}
    path = store / "catalog/d/catalog.parquet"
    content = path.read_bytes()
    path.unlink()
    if how != "gone":
        path.write_bytes(content[: len(content) // 2] if how == "cut" else b"")
    found, _ = ingested(dataset, UPath(store))
    assert f"200 rows restored from {store}/history/d, with labels, splits and decisions" in caplog.text
    assert (found.version, found.read) == (1, 200)
    pd.testing.assert_frame_equal(catalog(store), before)
    assert {path.name for path in (store / "history/d").iterdir()} == history
    shutil.rmtree(store / "history")
    path.write_bytes(content[:99])
    with pytest.raises(JobError, match=r"catalog.parquet is damaged .* Restore it from a backup of the store, or"):
        ingested(dataset, UPath(store))


def test_a_lost_catalog_does_not_lose_the_white_level_that_was_decided(
    digits: tuple[np.ndarray, list[str]], tmp_path: Path
) -> None:
    """White is that of the first night; the darker images that are left would be decided otherwise."""
    folder, store = files_of(tmp_path / "source", digits, 4095, "u2"), tmp_path / "store"
    dataset = dataset_of(folder)
    first, _ = ingested(dataset, UPath(store))
    assert first.image.decided is not None
    (store / "catalog/d/catalog.parquet").write_bytes(b"")
    for path in sorted(folder.rglob("*.tif")):
        put(path, tifffile.imread(path) // 8)
    healed, _ = ingested(dataset, UPath(store))
    fresh, _ = ingested(dataset, UPath(tmp_path / "other"))
    assert fresh.image.decided != first.image.decided
    assert healed.image.decided == first.image.decided


@pytest.mark.parametrize("code", ["over_time", "decoder_crashed"])
def test_a_stall_in_one_night_is_not_a_verdict_in_the_next(
    digit_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    dataset, store, uri = dataset_of(digit_folder), tmp_path / "store", str(next(digit_folder.rglob("*.png")))

    def stalled(files: pa.Table, *how: Any) -> pa.Table:
        rows = read_files(files, *how).to_pylist()
        for row, name in zip(rows, files["uri"].to_pylist(), strict=True):
            if name == uri:
                row.update(reason_code=code, reason=code)
        return pa.Table.from_pylist(rows, schema(8))

    def night() -> tuple[int, str, int | None]:
        read = ingested(dataset, UPath(store))[0].read
        row = pd.read_parquet(store / "catalog/d/catalog.parquet").set_index("uri").loc[uri]
        return read, str(row.status), None if pd.isna(row.tries) else int(row.tries)

    monkeypatch.setattr(pixels, "read_files", stalled)
    assert [night() for _ in range(2)] == [(200, "quarantined", 1), (1, "quarantined", 2)]
    monkeypatch.setattr(pixels, "read_files", read_files)
    assert [night() for _ in range(2)] == [(1, "ok", None), (0, "ok", None)]
    monkeypatch.setattr(pixels, "read_files", stalled)
    Path(uri).touch()  # a file that stalls every reader is given up
    assert [night() for _ in range(4)] == [(1, "quarantined", tries) for tries in (1, 2, 3)] + [(0, "quarantined", 3)]
