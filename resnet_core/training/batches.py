"""Training batches: resident in the device's memory if they fit, streamed from shards if not.

An epoch has each image once, or as often as `copies` says; the order depends on the seed alone. Sizes of
batches differ by at most one: batch norm fails on a last batch of one image. An image's row is its place among all
training images, in the order of the files.
"""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from upath import UPath

from resnet_core.errors import UserError
from resnet_core.shards.encryption import Keys
from resnet_core.shards.format import Images
from resnet_core.shards.row_groups import RowGroup, image_ids, read_levels, row_groups
from resnet_core.shards.soft_labels import SoftLabels, joined
from resnet_core.storage.files import is_local

_Copies = NDArray[np.uint16]

# Threads that fetch or decrypt. A local file in the clear is only copied, by one thread: more are slower.
_READERS = 4


def copies(labels: NDArray[np.int64], seed: int, balanced: bool, include: NDArray[np.bool_] | None) -> _Copies | None:
    """Return how often each image comes in an epoch, uint16 [N], summing to the images included; None: all once.

    labels: int64 [N]. include: bool [N], the images to train on; None: all.
    balanced: all classes come equally often, to within one image. Systematic resampling, over a random order: Douc,
    Cappe and Moulines 2005, arXiv:cs/0507025. Raises UserError if an image had to come 65,536 times.
    """
    if not balanced:
        return None if include is None else include.astype(np.uint16)
    rng = np.random.default_rng([seed, 1])  # another stream than the one that orders the epoch
    rows = np.arange(len(labels)) if include is None else np.flatnonzero(include)
    result = np.zeros(len(labels), dtype=np.uint16)
    if not len(rows):
        return result
    rows = rng.permutation(rows)
    rows = rows[np.argsort(labels[rows], kind="stable")]
    _, place, counts = np.unique(labels[rows], return_inverse=True, return_counts=True)
    number = np.arange(len(rows)) - (np.cumsum(counts) - counts)[place] + 1  # of the image in its class
    # The expected number up to each image; a running sum's rounding would grow with the images.
    expected = len(rows) * (place + number / counts[place]) / len(counts)
    ends = np.minimum(np.floor(expected + rng.random()).astype(np.int64), len(rows))
    times = np.diff(ends, prepend=0)
    if times.max() > np.iinfo(result.dtype).max:
        raise UserError(
            f"train.sampling: balanced would show one image {times.max():,} times an epoch. "
            "Add images of the rare classes, or write `natural`."
        )
    result[rows] = times
    return result


class Batch(NamedTuple):
    pixels: Tensor  # uint8 [B, H, W]
    labels: Tensor  # int64 [B]
    weights: Tensor  # float32 [B]
    targets: Tensor | None  # float32 [B, C], the share of each class; None: no image has a soft label
    rows: Tensor  # int64 [B]


def batch_sizes(count: int, batch_size: int) -> list[int]:
    """Return the sizes of an epoch's batches, from 2 to `batch_size`, which differ by at most one."""
    if not count:
        return []
    batches = max(1, min(math.ceil(count / batch_size), count // 2))
    return [len(part) for part in np.array_split(np.empty(count, dtype=np.uint8), batches)]


@dataclass(frozen=True)
class Resident:
    """All images in a tensor on the device; a batch is a gather."""

    pixels: Tensor  # uint8 [N, H, W]
    hard_labels: Tensor  # int64 [N]
    weights: Tensor  # float32 [N]
    targets: Tensor | None = None  # float32 [N, C]; None: no image has a soft label
    ids: Sequence[str] = ()

    @classmethod
    def of(cls, images: Images, device: torch.device) -> "Resident":
        every = np.arange(len(images))
        targets = images.soft and torch.from_numpy(images.soft.targets(every, images.labels)).to(device)
        columns = (images.pixels, images.labels, images.weights)
        pixels, labels, weights = (torch.from_numpy(column).to(device) for column in columns)
        return cls(pixels, labels, weights, targets, images.image_ids)  # type: ignore[arg-type]

    @property
    def count(self) -> int:
        return len(self.hard_labels)

    @property
    def side(self) -> int:
        """The images' side in pixels."""
        return self.pixels.shape[1]

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """int64 [N], by row."""
        return self.hard_labels.cpu().numpy()

    def image_ids(self, rows: Sequence[int]) -> list[str]:
        return [self.ids[row] for row in rows]

    def epoch(self, batch_size: int, seed: int, copies: _Copies | None = None) -> Iterator[Batch]:
        """Yield the batches of an epoch. copies: uint16 [N], how often each row comes; None: once."""
        rows_of_epoch = self.count if copies is None else np.repeat(np.arange(self.count), copies)
        order = torch.from_numpy(np.random.default_rng(seed).permutation(rows_of_epoch))
        for rows in order.to(self.pixels.device).split(batch_sizes(len(order), batch_size)):
            columns = (self.pixels, self.hard_labels, self.weights)
            pixels, labels, weights = (column.index_select(0, rows) for column in columns)
            targets = None if self.targets is None else self.targets.index_select(0, rows)
            yield Batch(pixels, labels, weights, targets, rows)


class _Window(NamedTuple):
    """Memory for images that are read together."""

    pixels: NDArray[np.uint8]  # [N, H, W]
    labels: NDArray[np.int64]  # [N]
    weights: NDArray[np.float32]  # [N]
    rows: NDArray[np.int64]  # [N], among all training images

    @classmethod
    def of(cls, images: int, side: int) -> "_Window":
        pixels = np.empty((images, side, side), np.uint8)
        return cls(pixels, np.empty(images, np.int64), np.empty(images, np.float32), np.empty(images, np.int64))

    def put(self, start: int, other: "_Window") -> NDArray[np.int64]:
        """Copy `other` to the places from `start` on, and return these places."""
        end = start + len(other.labels)
        self.pixels[start:end], self.labels[start:end], self.weights[start:end], self.rows[start:end] = other
        return np.arange(start, end)

    def take(self, places: NDArray[np.int64]) -> "_Window":
        """Copy the images at these places."""
        return _Window(self.pixels[places], self.labels[places], self.weights[places], self.rows[places])


@dataclass(frozen=True)
class Streamed:
    """Images read from shards: row groups in random order, shuffled in windows of `window` images.

    The next window is read while a window is used. Memory: two windows, 12 bytes for each image, and soft labels.
    """

    files: Sequence[UPath]
    classes: Sequence[str]
    count: int
    device: torch.device
    window: int
    keys: Keys | None = None

    @property
    def groups(self) -> list[RowGroup]:
        return self._index[0]

    @cached_property
    def _index(self) -> tuple[list[RowGroup], SoftLabels | None]:
        """Read the row groups and soft labels, once for all epochs."""
        with ThreadPoolExecutor(_READERS) as pool:
            files = pool.map(lambda path: row_groups(path, "train", self.classes, self.keys), self.files)
            groups = [group for file in files for group in file]
        firsts = accumulate((len(group.rows.places) for group in groups[:-1]), initial=0)
        groups = [group._replace(first=first) for group, first in zip(groups, firsts, strict=False)]
        soft = joined((group.first, group.rows.soft) for group in groups)
        return [group._replace(rows=group.rows._replace(soft=None)) for group in groups], soft

    @property
    def side(self) -> int:
        return self.groups[0].side

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 [N], by row; a new array each time, which is not kept."""
        return np.concatenate([group.rows.labels for group in self.groups], dtype=np.int64)

    def image_ids(self, rows: Sequence[int]) -> list[str]:
        """Read the ids from the files of these rows."""
        numbers, ids = np.asarray(rows, dtype=np.int64), np.empty(len(rows), dtype=object)
        places = np.searchsorted([group.first for group in self.groups], numbers, side="right") - 1
        for place in np.unique(places):
            group, in_group = self.groups[place], places == place
            ids[in_group] = image_ids(group, group.rows.places[numbers[in_group] - group.first], self.keys)
        return list(ids)

    def epoch(self, batch_size: int, seed: int, copies: _Copies | None = None) -> Iterator[Batch]:
        rng = np.random.default_rng(seed)
        sizes = batch_sizes(self.count if copies is None else int(copies.sum()), batch_size)
        order = [self.groups[number] for number in rng.permutation(len(self.groups))]
        if copies is not None:
            order = [group for group in order if copies[group.first :][: len(group.rows.places)].any()]
        left = None  # the last images of a window, less than a batch, which go into the next window
        for window, places in self._windows(list(_cut(order, self.window)), spare=batch_size):
            if copies is not None:
                places = np.repeat(places, copies[window.rows[places]])
            if left:
                places = np.concatenate([places, window.put(len(window.labels) - batch_size, left)])
            places = rng.permutation(places)
            while sizes and sizes[0] <= len(places):
                size = sizes.pop(0)
                yield self._batch(window.take(places[:size]))
                places = places[size:]
            left = window.take(places)

    def _batch(self, images: _Window) -> Batch:
        soft = self._index[1]
        targets = soft and _to_device(soft.targets(images.rows, images.labels), self.device)
        pixels, labels, weights, rows = (_to_device(column, self.device) for column in images)
        return Batch(pixels, labels, weights, targets, rows)

    def _windows(self, plans: list[list[RowGroup]], spare: int) -> Iterator[tuple[_Window, NDArray[np.int64]]]:
        """Yield the plans' images and the places of those to train on; the last `spare` places are empty."""
        if not plans:
            return
        most = max(sum(group.size for group in plan) for plan in plans) + spare
        windows = [_Window.of(most, self.side) for _ in plans[:2]]
        copied = self.groups[0].start is not None and is_local(self.files[0])
        with ThreadPoolExecutor(1 if copied else _READERS) as pool:
            try:
                ahead = self._start(pool, plans[0], windows[0])
                for number in range(len(plans)):
                    places = np.concatenate([read.result() for read in ahead])
                    if number + 1 < len(plans):
                        ahead = self._start(pool, plans[number + 1], windows[(number + 1) % 2])
                    yield windows[number % 2], places
            finally:
                pool.shutdown(cancel_futures=True)

    def _start(
        self, pool: ThreadPoolExecutor, plan: list[RowGroup], window: _Window
    ) -> list["Future[NDArray[np.int64]]"]:
        starts = accumulate((group.size for group in plan[:-1]), initial=0)
        return [pool.submit(self._read, group, window, start) for group, start in zip(plan, starts, strict=True)]

    def _read(self, group: RowGroup, window: _Window, start: int) -> NDArray[np.int64]:
        """Read a row group into the window, from place `start` on; return the places of the training images."""
        read_levels(group, window.pixels[start : start + group.size], self.keys)
        places = start + group.rows.places.astype(np.int64)
        window.labels[places], window.weights[places] = group.rows.labels, group.rows.weights
        window.rows[places] = np.arange(group.first, group.first + len(places))
        return places


Batches = Resident | Streamed


def _to_device(column: NDArray[Any], device: torch.device) -> Tensor:
    """Copy to the device; a GPU copies pinned memory by itself, while this thread goes on."""
    tensor = torch.from_numpy(column)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _cut(groups: Sequence[RowGroup], images: int) -> Iterator[list[RowGroup]]:
    """Yield runs of row groups with `images` or more, except for the last run."""
    run: list[RowGroup] = []
    size = 0
    for group in groups:
        run.append(group)
        size += group.size
        if size >= images:
            yield run
            run, size = [], 0
    if run:
        yield run
