"""Challenger and champion on the same held-out images, in one process."""

import statistics
import time
from collections.abc import Container, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from resnet_core.evaluation.comparison import Pair, Rows, aligned, numbered
from resnet_core.evaluation.slices import cut
from resnet_core.model.classifier import Classifier
from resnet_core.reading.pool import read_file
from resnet_core.shards import format as shards
from resnet_core.shards.encryption import Keys
from tasks.evaluation.held_out import columns_of, facts, in_order, look_alikes_of
from tasks.progress import progress
from tasks.values import Night, ShardSet, have

_ROUNDS = 7  # of a comparison of speed
FIRST, _SECONDS = 32, 0.3  # images of the turns that warm up, and how long the others last


@dataclass(frozen=True)
class SideBySide:
    """Both versions' scores [N, C], in today's order of classes, for held-out images that are new to both.

    `unlike`: which of them look like no training image, bool [N]; None if that is not known. `learned` images are left
    out because the champion has seen them; None if that is not known any more. `gone` images are left out because the
    champion needs other pixels and their files cannot be read again.
    """

    pair: Pair
    learned: int | None
    gone: int
    unlike: Rows | None = None
    slices: dict[str, Rows] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pair.labels)


def score_both(
    new: Classifier,
    old: Classifier,
    learned: Container[str] | None,
    night: Night,
    slices: Sequence[str],
    keys: Keys | None,
) -> SideBySide:
    """Score the held-out images by both versions.

    The new version reads the shards' pixels. So does the champion, or, if its preprocessing is another, it reads
    the files.

    learned: ids of the images that the champion has learned from. slices: the columns that cut images into slices.
    """
    shard_set, known, image_ids = have(night.shard_set), facts(night.catalog), []
    labels, found, champions, there = [], [], [], []
    with progress("gate", shard_set.test) as advance:
        for images in shards.iterate(shard_set.files, "test", shard_set.classes, keys):
            pixels, readable = images.pixels, np.ones(len(images), bool)
            if not old.preprocessing.same_pixels(shard_set.preprocessing):
                pixels, readable = _reread(in_order(known, images.image_ids.tolist())["uri"].to_pylist(), old)
            image_ids += images.image_ids.tolist()
            labels.append(images.labels)
            there.append(readable)
            found.append(aligned(new.probabilities(images.pixels), new, shard_set.classes))
            champions.append(aligned(old.probabilities(pixels), old, shard_set.classes))
            advance(len(images))
    fresh = np.array([each not in (learned or ()) for each in image_ids])
    rows = fresh & np.concatenate(there)
    table = in_order(known, image_ids)
    groups = numbered(table["group"].filter(pa.array(rows)).to_pylist())
    alike = look_alikes_of(table)
    return SideBySide(
        pair=Pair(np.concatenate(labels)[rows], np.concatenate(found)[rows], np.concatenate(champions)[rows], groups),
        learned=None if learned is None else int((~fresh).sum()),
        gone=int((fresh & ~rows).sum()),
        unlike=None if alike is None else ~alike[rows],
        slices={name: inside[rows] for name, inside in _cut_by(table, slices)},
    )


def _cut_by(table: pa.Table, columns: Sequence[str]) -> list[tuple[str, Rows]]:
    """Return `brightness 81.2 to 103` and its like with the images in each slice, as the evaluation has them."""
    return [(f"{column} {value}", rows) for column, values in columns_of(table, columns) for value, rows in cut(values)]


def _reread(uris: Sequence[str | None], champion: Classifier) -> tuple[NDArray[np.uint8], Rows]:
    """Return uint8 [N, S, S] by the champion's preprocessing, black for unreadable files, and which could be read."""
    side = champion.preprocessing.size
    read = [read_file(uri, champion.preprocessing).pixels if uri else None for uri in uris]
    pixels = [np.zeros((side, side), np.uint8) if image is None else image for image in read]
    return np.stack(pixels), np.array([image is not None for image in read])


def speed_ratio(new: Classifier, old: Classifier, shard_set: ShardSet, keys: Keys | None) -> tuple[float, float, float]:
    """Return the new version's images/s as a share of the champion's, and both rates.

    They are medians over alternating turns, so that other work on the machine slows both.
    """
    images = next(shards.iterate(shard_set.files, "test", shard_set.classes, keys)).pixels
    own = [(each, _of_side(images, each.preprocessing.size)) for each in (new, old)]
    first = min(len(images), FIRST)
    slowest = max([seconds(each, pixels[:first]) for _ in range(2) for each, pixels in own][2:])
    count = min(len(images), max(1, int(first * _SECONDS / slowest)))
    rates: list[list[float]] = []
    for number in range(_ROUNDS):
        taken = [count / seconds(each, pixels[:count]) for each, pixels in (own if number % 2 else own[::-1])]
        rates.append(taken if number % 2 else taken[::-1])
    ours, theirs = (statistics.median(each) for each in zip(*rates, strict=True))
    return statistics.median(each / other for each, other in rates), ours, theirs


def _of_side(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return uint8 [N, side, side] of the same levels in any order; time does not depend on it."""
    return pixels if pixels.shape[1] == side else np.resize(pixels, (len(pixels), side, side))


def seconds(classifier: Classifier, pixels: NDArray[np.uint8]) -> float:
    """Return the seconds that the classifier takes for these images."""
    started = time.perf_counter()
    classifier.probabilities(pixels)
    return time.perf_counter() - started
