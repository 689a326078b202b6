"""Batches out of shards: every image once an epoch, in an order of the seed's making."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from upath import UPath

from resnet_core.shards import format as shards
from resnet_core.shards.encryption import Keys, parse_keys
from resnet_core.training.batches import Batch, Resident, Streamed, batch_sizes
from tests.resnet_core.shards.test_format import CLASSES, Digits, table, target, write

CPU = torch.device("cpu")
KEYS = parse_keys("one = " + "A" * 43 + "=")


def loaders(files: list[UPath], window: int, keys: Keys | None = None) -> tuple[Resident, Streamed]:
    """The training images of 600 digits, of which every fifth is held out."""
    return (
        Resident.of(shards.read(files, "train", CLASSES, keys), CPU),
        Streamed(files, CLASSES, 480, CPU, window, keys),
    )


def assert_whole(batch: Batch, digits: Digits) -> None:
    """All that belongs to an image is that image's. Weights tell which digit it is."""
    assert batch.targets is not None
    for pixels, label, weight, targets, row in zip(*batch, strict=True):  # type: ignore[arg-type]
        k = int(weight)
        assert np.array_equal(pixels.numpy(), digits[0][k])
        assert CLASSES[int(label)] == digits[1][k]
        assert targets.tolist() == target(int(label), k)
        assert int(row) == k - k // 5 - 1


@pytest.mark.parametrize("window", [1, 100, 10_000])
@pytest.mark.parametrize("store", ["local", "memory", "encrypted"])
def test_resident_and_streamed_give_each_image_once_an_epoch(
    tmp_path: Path, digits: Digits, window: int, store: str
) -> None:
    folder = UPath(f"memory://{tmp_path.name}") if store == "memory" else UPath(tmp_path)
    keys = KEYS if store == "encrypted" else None
    for loader in loaders(write(folder, digits, keys=keys), window, keys):
        for seed in (3, 4):  # the second epoch goes into the first one's memory
            batches = list(loader.epoch(64, seed))
            assert [len(batch.labels) for batch in batches] == [60] * 8
            seen = Counter(int(weight) for batch in batches for weight in batch.weights)
            assert seen == Counter(k for k in range(600) if k % 5)
            for batch in batches:
                assert_whole(batch, digits)


@pytest.mark.parametrize("window", [1, 100, 10_000])
def test_each_row_comes_as_often_as_is_asked(tmp_path: Path, digits: Digits, window: int) -> None:
    copies = np.random.default_rng(0).integers(0, 4, 480).astype(np.uint16)
    copies[120:240] = 0  # all of a file
    for loader in loaders(write(UPath(tmp_path), digits), window):
        batches = list(loader.epoch(64, 1, copies))
        assert [len(batch.rows) for batch in batches] == batch_sizes(int(copies.sum()), 64)
        seen = np.bincount(torch.cat([batch.rows for batch in batches]), minlength=480)
        assert np.array_equal(seen, copies)
        for batch in batches:
            assert_whole(batch, digits)
        assert not list(loader.epoch(64, 1, np.zeros(480, np.uint16)))


def test_rows_are_places_in_the_order_of_the_files(tmp_path: Path, digits: Digits) -> None:
    places = [k for k in range(600) if k % 5]
    for loader in loaders(write(UPath(tmp_path), digits), 200):
        assert loader.count == len(loader.labels) == 480
        assert loader.side == 8
        assert [CLASSES[label] for label in loader.labels] == [digits[1][k] for k in places]
        for rows in ([479, 0, 130, 131, 0], [], range(480)):
            assert loader.image_ids(rows) == [f"image-{places[row]}" for row in rows]


def test_where_no_image_has_a_soft_label_there_are_no_targets(tmp_path: Path, digits: Digits) -> None:
    plain = table(digits, range(100)).drop_columns(["soft_label"])
    pq.write_table(plain, tmp_path / "a.parquet", row_group_size=60)
    files = [UPath(tmp_path / "a.parquet")]
    streamed = Streamed(files, CLASSES, 80, CPU, 200)
    for loader in (streamed, Resident.of(shards.read(files, "train", CLASSES), CPU)):
        assert all(batch.targets is None for batch in loader.epoch(64, 1))


def test_soft_labels_of_different_width_stand_together(tmp_path: Path, digits: Digits) -> None:
    """Each file has its own number of classes that a soft label names at most, or none at all."""
    files = []
    for number, text in enumerate([None, "0=1", "1=0.5;2=0.25;3=0.25"]):
        rows = table(digits, range(100 * number, 100 * number + 100))
        rows = rows.set_column(4, "soft_label", pa.array([text if k % 2 else None for k in range(100)], pa.string()))
        files.append(UPath(tmp_path / f"{number}.parquet"))
        shards.write_table(rows, files[-1].path, keys=None)
    streamed = Streamed(files, CLASSES, 240, CPU, 50)
    for loader in (streamed, Resident.of(shards.read(files, "train", CLASSES), CPU)):
        for batch in loader.epoch(64, 1):
            assert batch.targets is not None
            for label, targets, weight in zip(batch.labels, batch.targets, batch.weights, strict=True):
                shares = {100: [1.0, 0, 0, 0], 200: [0, 0.5, 0.25, 0.25]}.get(int(weight) // 100 * 100)
                expected = np.eye(10)[label] if int(weight) % 2 == 0 or not shares else [*shares, *[0] * 6]
                assert targets.tolist() == list(expected)


def test_the_order_follows_the_seed(tmp_path: Path, digits: Digits) -> None:
    for loader in loaders(write(UPath(tmp_path), digits), 200):
        first, again, other = (torch.cat([b.weights for b in loader.epoch(64, seed)]) for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert not torch.equal(first, first.sort().values)


def test_the_window_mixes_files(tmp_path: Path, digits: Digits) -> None:
    _, streamed = loaders(write(UPath(tmp_path), digits), 300)
    first = next(iter(streamed.epoch(64, seed=1)))
    assert len({int(weight) // 150 for weight in first.weights}) == 2


def test_epochs_at_the_same_time_or_left_early_do_not_disturb_each_other(tmp_path: Path, digits: Digits) -> None:
    _, streamed = loaders(write(UPath(tmp_path), digits), 100)
    alone = [batch.weights.tolist() for batch in streamed.epoch(64, seed=1)]
    left_early = streamed.epoch(64, seed=2)
    next(left_early)
    pairs = list(zip(streamed.epoch(64, seed=1), streamed.epoch(64, seed=1), strict=True))
    left_early.close()  # type: ignore[attr-defined]
    assert [one.weights.tolist() for one, _ in pairs] == alone
    assert [two.weights.tolist() for _, two in pairs] == alone
    for one, _ in pairs:
        assert np.array_equal(one.pixels.numpy(), digits[0][one.weights.long().numpy()])


def test_a_shard_that_has_lost_its_end_stops_the_epoch(tmp_path: Path, digits: Digits) -> None:
    files = write(UPath(tmp_path), digits)
    _, streamed = loaders(files, 200)
    assert len(streamed.groups) == 4
    for path in files:
        Path(path.path).write_bytes(path.read_bytes()[:2000])
    with pytest.raises(EOFError, match=r"\.parquet: ends too early"):
        list(streamed.epoch(64, seed=1))


@pytest.mark.parametrize(("count", "size"), [(0, 64), (1, 64), (64, 64), (65, 64), (129, 64), (1000, 128)])
def test_no_batch_is_smaller_than_another_by_two(count: int, size: int) -> None:
    sizes = batch_sizes(count, size)
    assert sum(sizes) == count
    assert max(sizes, default=0) <= size
    assert max(sizes, default=0) - min(sizes, default=0) <= 1
