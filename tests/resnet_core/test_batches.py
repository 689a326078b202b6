"""Batches out of shards: every image once an epoch, in an order of the seed's making."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from upath import UPath

from resnet_core import shards
from resnet_core.batches import Resident, Streamed, batch_sizes
from resnet_core.encryption import Keys, parse_keys
from tests.resnet_core.test_shards import CLASSES, Digits, write

CPU = torch.device("cpu")
KEYS = parse_keys("one = " + "A" * 43 + "=")


def loaders(files: list[UPath], window: int, keys: Keys | None = None) -> tuple[Resident, Streamed]:
    """The training images of 600 digits, of which every fifth is held out."""
    return (
        Resident.of(shards.read(files, "train", CLASSES, keys), CPU),
        Streamed(files, CLASSES, 480, CPU, window, keys),
    )


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
                for pixels, label, weight in zip(*batch, strict=True):
                    assert np.array_equal(pixels.numpy(), digits[0][int(weight)])
                    assert CLASSES[int(label)] == digits[1][int(weight)]


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


@pytest.mark.parametrize(("count", "size"), [(1, 64), (64, 64), (65, 64), (129, 64), (1000, 128)])
def test_no_batch_is_smaller_than_another_by_two(count: int, size: int) -> None:
    sizes = batch_sizes(count, size)
    assert sum(sizes) == count
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1
