"""Shards and the batches out of them: what goes in comes out, once an epoch, for any reader."""

from collections import Counter
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from upath import UPath

from resnet_core import shards
from resnet_core.batches import Resident, Streamed, batch_sizes
from resnet_core.preprocessing import Preprocessing

CLASSES = tuple("0123456789")


def write(folder: UPath, digits: tuple[np.ndarray, list[str]], count: int = 600, each: int = 150) -> list[UPath]:
    """Digits in files of `each`; every fifth is a test image, weights tell the rows apart."""
    files = []
    for start in range(0, count, each):
        rows = range(start, start + each)
        table = pa.table(
            [
                pa.array([f"image-{k}" for k in rows]),
                pa.array([digits[1][k] for k in rows]),
                pa.array(["test" if k % 5 == 0 else "train" for k in rows]),
                pa.array([float(k) for k in rows], pa.float32()),
                shards.tensor_array(digits[0][start : start + each]),
            ],
            schema=shards.schema(8, shards.metadata(CLASSES, Preprocessing(8))),
        )
        files.append(folder / f"{start}.parquet")
        folder.mkdir(parents=True, exist_ok=True)
        with files[-1].open("wb") as file:
            shards.write_table(table, file)
    return files


@pytest.mark.parametrize("where", ["local", "memory"])
def test_what_was_written_is_read(tmp_path: Path, digits: tuple[np.ndarray, list[str]], where: str) -> None:
    folder = UPath(tmp_path) if where == "local" else UPath(f"memory://{tmp_path.name}")
    files = write(folder, digits)
    test = shards.read(files, "test", CLASSES)
    assert test.image_ids.tolist() == [f"image-{k}" for k in range(0, 600, 5)]
    assert np.array_equal(test.pixels, digits[0][:600:5])
    assert [CLASSES[k] for k in test.labels] == digits[1][:600:5]
    assert len(shards.read(files, "train", CLASSES)) == 480
    assert shards.count_labels(files, "train", CLASSES).sum() == 480


def test_other_readers_need_none_of_our_code(tmp_path: Path, digits: tuple[np.ndarray, list[str]]) -> None:
    path = write(UPath(tmp_path), digits, 150)[0]
    frame = pd.read_parquet(path.path)
    assert list(frame.columns) == ["image_id", "label", "split", "weight", "pixels"]
    assert np.array_equal(np.asarray(frame["pixels"][7]).reshape(8, 8), digits[0][7])
    counted = duckdb.sql(
        f"select split, count(*), any_value(len(pixels)) from '{path}' group by all order by all"
    ).fetchall()
    assert counted == [("test", 30, 64), ("train", 120, 64)]
    assert polars.read_parquet(path.path)["label"].to_list() == digits[1][:150]
    field = pq.read_schema(path.path).field("pixels")
    assert field.type == pa.fixed_shape_tensor(pa.uint8(), [8, 8])
    assert (
        b'"preprocessing": {"background": 0, "resize": "squash", "size": 8}'
        in pq.read_schema(path.path).metadata[b"grayline"]
    )


def test_pixel_moments_are_those_of_the_training_pixels(tmp_path: Path, digits: tuple[np.ndarray, list[str]]) -> None:
    files = write(UPath(tmp_path), digits)
    train = shards.read(files, "train", CLASSES).pixels / 255
    assert shards.pixel_moments(files, CLASSES) == pytest.approx((train.mean(), train.std()))


def loaders(files: list[UPath], count: int, window: int) -> tuple[Resident, Streamed]:
    cpu = torch.device("cpu")
    return (
        Resident.of(shards.read(files, "train", CLASSES), cpu),
        Streamed(files, CLASSES, count, cpu, window),
    )


@pytest.mark.parametrize("window", [1, 100, 10_000])
def test_resident_and_streamed_give_each_image_once_an_epoch(
    tmp_path: Path, digits: tuple[np.ndarray, list[str]], window: int
) -> None:
    for loader in loaders(write(UPath(tmp_path), digits), 480, window):
        batches = list(loader.epoch(64, seed=3))
        assert [len(batch.labels) for batch in batches] == [60] * 8
        seen = Counter(int(weight) for batch in batches for weight in batch.weights)
        assert seen == Counter(k for k in range(600) if k % 5)
        for batch in batches:
            for pixels, label, weight in zip(*batch, strict=True):
                assert np.array_equal(pixels.numpy(), digits[0][int(weight)])
                assert CLASSES[int(label)] == digits[1][int(weight)]


def test_the_order_follows_the_seed(tmp_path: Path, digits: tuple[np.ndarray, list[str]]) -> None:
    for loader in loaders(write(UPath(tmp_path), digits), 480, 200):
        first, again, other = (torch.cat([b.weights for b in loader.epoch(64, seed)]) for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert not torch.equal(first, first.sort().values)


@pytest.mark.parametrize(("count", "size"), [(1, 64), (64, 64), (65, 64), (129, 64), (1000, 128)])
def test_no_batch_is_smaller_than_another_by_two(count: int, size: int) -> None:
    sizes = batch_sizes(count, size)
    assert sum(sizes) == count
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1
