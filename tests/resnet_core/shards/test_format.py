"""Shards: what goes in comes out, for our readers and for anybody else's."""

import json
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from resnet_core.images.preprocessing import Preprocessing
from resnet_core.shards import format as shards
from resnet_core.shards import row_groups
from resnet_core.shards.encryption import Keys
from resnet_core.storage.files import DamagedFileError

CLASSES = tuple("0123456789")
Digits = tuple[np.ndarray, list[str]]


def table(digits: Digits, rows: range) -> pa.Table:
    """Every fifth is a test image; weights tell the rows apart; every seventh may be the next digit."""
    return shards.make_table(
        pa.array([f"image-{k}" for k in rows]),
        pa.array([digits[1][k] for k in rows]),
        pa.array(["test" if k % 5 == 0 else "train" for k in rows]),
        pa.array([float(k) for k in rows], pa.float32()),
        digits[0][rows.start : rows.stop],
        shards.metadata(CLASSES, Preprocessing(8)),
        pa.array([soft_label(int(digits[1][k])) if k % 7 == 0 else None for k in rows], pa.string()),
    )


def soft_label(digit: int) -> str:
    """Four digits are surer than the others, and name one class alone."""
    return f"{digit}=1" if digit < 4 else f"{digit}=0.75; {(digit + 1) % 10}=0.25"


def target(digit: int, k: int) -> list[float]:
    """Return the training target of digit `k`."""
    shares = [0.0] * 10
    soft = k % 7 == 0 and digit >= 4
    shares[(digit + 1) % 10] = 0.25 * soft
    shares[digit] = 1 - 0.25 * soft
    return shares


def write(folder: UPath, digits: Digits, count: int = 600, each: int = 150, keys: Keys | None = None) -> list[UPath]:
    """Digits in files of `each`."""
    files = []
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, count, each):
        files.append(folder / f"{start}.parquet")
        with files[-1].open("wb") as file:
            shards.write_table(table(digits, range(start, start + each)), file, keys)
    return files


@pytest.mark.parametrize("where", ["local", "memory"])
def test_what_was_written_is_read(tmp_path: Path, digits: Digits, where: str) -> None:
    folder = UPath(tmp_path) if where == "local" else UPath(f"memory://{tmp_path.name}")
    files = write(folder, digits)
    test = shards.read(files, "test", CLASSES)
    assert test.image_ids.tolist() == [f"image-{k}" for k in range(0, 600, 5)]
    assert np.array_equal(test.pixels, digits[0][:600:5])
    assert [CLASSES[k] for k in test.labels] == digits[1][:600:5]
    assert test.weights.tolist() == list(range(0, 600, 5))
    assert test.soft
    assert test.soft.targets(np.arange(120), test.labels).tolist() == [
        target(int(digits[1][k]), k) for k in range(0, 600, 5)
    ]
    train = shards.read(files, "train", CLASSES)
    assert [CLASSES[k] for k in train.labels] == [digits[1][k] for k in range(600) if k % 5]
    assert len(shards.read(files, "validation", CLASSES)) == 0


def test_some_images_are_taken_by_place_or_by_id(
    tmp_path: Path, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "ROW_GROUP", 256)
    files = write(UPath(tmp_path), digits, 1500, 500)  # two row groups a file
    train = shards.read(files, "train", CLASSES)
    assert train.soft
    for places in (np.array([0, 3, 204, 205, 399, 400, 1199]), np.arange(1200), np.array([1000]), np.array([], int)):
        assert np.array_equal(shards.take(files, "train", places), train.pixels[places])
        pieces = list(shards.iterate(files, "train", CLASSES, places=places))
        assert [image_id for images in pieces for image_id in images.image_ids] == train.image_ids[places].tolist()
        assert all(len(images) for images in pieces)
        targets = [
            images.soft.targets(np.arange(len(images)), images.labels) if images.soft else np.eye(10)[images.labels]
            for images in pieces
        ]
        expected = train.soft.targets(places, train.labels[places])
        assert np.array_equal(np.concatenate([np.empty((0, 10)), *targets]), expected)
    ids = ["image-1201", "image-7", "image-1201", "image-1"]
    assert np.array_equal(shards.take_ids(files, "train", ids), digits[0][[1201, 7, 1201, 1]])
    assert shards.take_ids(files, "train", []).shape == (0, 8, 8)
    with pytest.raises(KeyError, match="image-5"):
        shards.take_ids(files, "train", ["image-1", "image-5"])


def test_small_shards_come_together_and_a_large_one_alone(tmp_path: Path, digits: Digits) -> None:
    """Each night with news leaves a small shard: a year of them would be hundreds of calls of a network."""
    files = write(UPath(tmp_path), digits, 1498, 7)
    sizes = [len(images) for images in shards.iterate(files, "train", CLASSES)]
    assert sum(sizes) == 1198
    assert all(256 <= size < 256 + 7 for size in sizes[:-1])
    whole = shards.read(write(UPath(tmp_path / "one"), digits, 1498, 1498), "train", CLASSES)
    small = shards.read(files, "train", CLASSES)
    assert np.array_equal(small.pixels, whole.pixels)
    assert small.image_ids.tolist() == whole.image_ids.tolist()
    assert small.soft
    assert whole.soft
    rows = np.arange(1198)
    assert np.array_equal(small.soft.targets(rows, small.labels), whole.soft.targets(rows, whole.labels))


def test_facts_of_some_splits_come_in_the_order_of_the_files(tmp_path: Path, digits: Digits) -> None:
    files = write(UPath(tmp_path), digits)
    facts = shards.read_facts(files, ["image_id", "label"], ["test", "validation"])
    assert facts.column_names == ["image_id", "label"]
    assert facts["image_id"].to_pylist() == [f"image-{k}" for k in range(0, 600, 5)]


def test_other_readers_need_none_of_our_code(tmp_path: Path, digits: Digits) -> None:
    path = write(UPath(tmp_path), digits, 150)[0]
    frame = pd.read_parquet(path.path)
    assert {"image_id", "label", "split", "weight", "soft_label", "pixels"} <= set(frame.columns)
    assert np.array_equal(np.asarray(frame["pixels"][7]).reshape(8, 8), digits[0][7])
    counted = duckdb.sql(
        f"select split, count(*), any_value(len(pixels)) from '{path}' group by all order by all"
    ).fetchall()
    assert counted == [("test", 30, 64), ("train", 120, 64)]
    assert polars.read_parquet(path.path)["label"].to_list() == digits[1][:150]
    found = pq.read_table(path.path)
    assert found.schema.field("pixels").type == pa.fixed_shape_tensor(pa.uint8(), [8, 8])
    assert np.array_equal(found["pixels"].combine_chunks().to_numpy_ndarray(), digits[0][:150])
    assert json.loads(found.schema.metadata[b"grayline"])["preprocessing"]["size"] == 8


def test_a_shard_of_another_make_needs_no_soft_labels(tmp_path: Path, digits: Digits) -> None:
    pq.write_table(table(digits, range(100)).drop_columns(["soft_label"]), tmp_path / "a.parquet")
    assert shards.read([UPath(tmp_path / "a.parquet")], "train", CLASSES).soft is None


def test_the_same_images_make_the_same_bytes(tmp_path: Path, digits: Digits) -> None:
    whole = table(digits, range(1500))
    pieces = pa.concat_tables([whole.slice(0, 700), whole.slice(700, 1), whole.slice(701)])
    for name, rows in (("first", whole), ("again", whole), ("pieces", pieces)):
        shards.write_table(rows, tmp_path / name, keys=None)
    first, again, of_pieces = (path.read_bytes() for path in map(tmp_path.joinpath, ("first", "again", "pieces")))
    assert first == again == of_pieces


@pytest.mark.parametrize("kind", ["ours", "compressed", "in pages", "with nulls"])
def test_levels_are_read_from_any_layout(tmp_path: Path, digits: Digits, kind: str) -> None:
    """Ours is one plain run of bytes in the file. Who rewrites a shard with another tool need not keep that."""
    path, rows = UPath(tmp_path / "a.parquet"), table(digits, range(1500))
    if kind == "ours":
        shards.write_table(rows, path.path, keys=None)
    else:
        if kind == "with nulls":
            rows = rows.cast(pa.schema([field.with_nullable(True) for field in rows.schema]))
        pages = {"write_batch_size": 16, "data_page_size": 64} if kind == "in pages" else {}
        compression = "zstd" if kind == "compressed" else "none"
        pq.write_table(rows, path.path, compression=compression, use_dictionary=False, row_group_size=1024, **pages)
    groups = row_groups.row_groups(path, "train", CLASSES)
    assert [group.start is not None for group in groups] == [kind == "ours"] * 2
    for group, first in zip(groups, (0, 1024), strict=True):
        out = np.empty((group.size, 8, 8), dtype=np.uint8)
        row_groups.read_levels(group, out)
        assert np.array_equal(out, digits[0][first : first + group.size])
        assert (group.rows.places + first).tolist() == [k for k in range(first, first + group.size) if k % 5]


def test_pixel_moments_are_those_of_the_training_pixels(tmp_path: Path, digits: Digits) -> None:
    files = write(UPath(tmp_path), digits)
    train = shards.read(files, "train", CLASSES).pixels / 255
    assert shards.pixel_moments(files, CLASSES) == pytest.approx((train.mean(), train.std()))


def test_packed_pixels_come_back_with_their_row(tmp_path: Path, digits: Digits) -> None:
    path = UPath(tmp_path / "part.parquet")
    uris = [f"image {k}.png" for k in range(1700)]
    rows = pa.table({"uri": uris, "pixels": shards.packed(digits[0][:1700])})
    shards.write_pixels(rows, path.path, keys=None)
    found = shards.open_file(path).read()
    assert found["uri"].to_pylist() == uris
    assert np.array_equal(shards.unpacked(found["pixels"], 8), digits[0][:1700])
    assert np.array_equal(shards.unpacked(found["pixels"].slice(1020, 9), 8), digits[0][1020:1029])


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _flipped(content: bytes) -> bytes:
    """One bit among the levels, which neither length nor footer shows."""
    place = content.index(b"\x00" * 3)
    return content[:place] + b"\x01" + content[place + 1 :]


@pytest.mark.parametrize("torn", [_cut, _flipped, lambda content: b"", lambda content: b"<html>sign in</html>"])
def test_a_torn_shard_is_named(tmp_path: Path, digits: Digits, torn: Callable[[bytes], bytes]) -> None:
    (file,) = write(UPath(tmp_path), digits, count=150)
    shards.check(file, 150)
    with pytest.raises(DamagedFileError, match="150 rows, not 151"):
        shards.check(file, 151)
    file.write_bytes(torn(file.read_bytes()))
    with pytest.raises(DamagedFileError) as error:
        shards.check(file, 150)
    assert str(error.value).startswith(f"{file} is damaged (")
    assert "\n" not in str(error.value)
    with pytest.raises(DamagedFileError):
        shards.read([file], "train", CLASSES)
