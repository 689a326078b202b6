"""Training batches: resident in the device's memory when they fit, streamed from shards when not.

Both give each image exactly once an epoch, or as often as `copies` says (see `sampling`), in an order
that depends on nothing but the seed, in batches whose sizes differ by at most one (a last batch of one
image would break batch norm). An image's row is its place among all training images, in the order of
the files.
"""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

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


def copies(labels: NDArray[np.int64], seed: int, balanced: bool, include: NDArray[np.bool_] | None) -> _Copies | None:
    """uint16 [N], which sums to the images included; None where every image comes once.

    labels: int64 [N]. include: bool [N], the images to train on; None: all.
    balanced: every class has the same expected number, and gets it but for one image, by systematic
    resampling (one random offset for all; Douc, Cappe and Moulines 2005, arXiv:cs/0507025) over a random
    order of its images. Raises UserError where an image had to come more often than can be counted.
    """
    if not balanced:
        return None if include is None else include.astype(np.uint16)
    rng = np.random.default_rng([seed, 1])  # another stream than the one that orders the epoch
    rows = np.arange(len(labels)) if include is None else np.flatnonzero(include)
    found = np.zeros(len(labels), dtype=np.uint16)
    if not len(rows):
        return found
    rows = rng.permutation(rows)
    rows = rows[np.argsort(labels[rows], kind="stable")]
    _, place, counts = np.unique(labels[rows], return_inverse=True, return_counts=True)
    number = np.arange(len(rows)) - (np.cumsum(counts) - counts)[place] + 1  # of the image in its class
    # Not a running sum, whose rounding grows with the images: how many are expected up to each.
    expected = len(rows) * (place + number / counts[place]) / len(counts)
    ends = np.minimum(np.floor(expected + rng.random()).astype(np.int64), len(rows))
    times = np.diff(ends, prepend=0)
    if times.max() > np.iinfo(found.dtype).max:
        raise UserError(
            f"train.sampling: balanced would show one image {times.max():,} times an epoch. "
            "Add images of the rare classes, or write `natural`."
        )
    found[rows] = times
    return found


# Threads that fetch or decrypt. A local file in the clear is only copied: one is enough, more are slower.
_READERS = 4


class Batch(NamedTuple):
    pixels: Tensor  # uint8 [B, H, W]
    labels: Tensor  # int64 [B]
    weights: Tensor  # float32 [B]
    targets: Tensor | None  # float32 [B, C], the share of each class; None: no image has a soft label
    rows: Tensor  # int64 [B]


class Batches(Protocol):
    """Labelled training images that can be gone through epoch after epoch."""

    @property
    def count(self) -> int: ...

    @property
    def side(self) -> int:
        """Of the images, in pixels."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 [N], by row."""

    def image_ids(self, rows: Sequence[int]) -> list[str]: ...

    def epoch(self, batch_size: int, seed: int, copies: _Copies | None = None) -> Iterator[Batch]:
        """copies: uint16 [N], how often each row comes; None: once."""


def batch_sizes(count: int, batch_size: int) -> list[int]:
    """The sizes of an epoch's batches: at most `batch_size`, at least 2 (batch norm has no variance of
    one image), none smaller than another by two; none for no images."""
    if not count:
        return []
    batches = max(1, min(math.ceil(count / batch_size), count // 2))
    return [len(part) for part in np.array_split(np.empty(count, dtype=np.uint8), batches)]


@dataclass(frozen=True)
class Resident:
    """All images in one tensor on the device; a batch is one gather."""

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
        return self.pixels.shape[1]

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        found: NDArray[np.int64] = self.hard_labels.cpu().numpy()
        return found

    def image_ids(self, rows: Sequence[int]) -> list[str]:
        return [self.ids[row] for row in rows]

    def epoch(self, batch_size: int, seed: int, copies: _Copies | None = None) -> Iterator[Batch]:
        wanted = self.count if copies is None else np.repeat(np.arange(self.count), copies)
        order = torch.from_numpy(np.random.default_rng(seed).permutation(wanted))
        for rows in order.to(self.pixels.device).split(batch_sizes(len(order), batch_size)):
            columns = (self.pixels, self.hard_labels, self.weights)
            pixels, labels, weights = (column.index_select(0, rows) for column in columns)
            targets = None if self.targets is None else self.targets.index_select(0, rows)
            yield Batch(pixels, labels, weights, targets, rows)


class _Window(NamedTuple):
    """Room for images that are read together, used again and again."""

    pixels: NDArray[np.uint8]  # [N, H, W]
    labels: NDArray[np.int64]  # [N]
    weights: NDArray[np.float32]  # [N]
    rows: NDArray[np.int64]  # [N], among all training images

    @classmethod
    def of(cls, images: int, side: int) -> "_Window":
        pixels = np.empty((images, side, side), np.uint8)
        return cls(pixels, np.empty(images, np.int64), np.empty(images, np.float32), np.empty(images, np.int64))

    def put(self, start: int, other: "_Window") -> NDArray[np.int64]:
        """Copy `other` to the places from `start` on, and say which these are."""
        end = start + len(other.labels)
        self.pixels[start:end], self.labels[start:end], self.weights[start:end], self.rows[start:end] = other
        return np.arange(start, end)

    def take(self, places: NDArray[np.int64]) -> "_Window":
        """A copy of the images at these places."""
        return _Window(self.pixels[places], self.labels[places], self.weights[places], self.rows[places])


@dataclass(frozen=True)
class Streamed:
    """Images read from shards as they are needed: row groups in random order, shuffled in a window of
    `window` images. While a window is used the next one is read, so that two are in memory, and 12
    bytes for each image of the data set, with what its soft label says."""

    files: Sequence[UPath]
    classes: Sequence[str]
    count: int
    device: torch.device
    window: int
    keys: Keys | None = None

    @property
    def groups(self) -> list[RowGroup]:
        return self._known[0]

    @cached_property
    def _known(self) -> tuple[list[RowGroup], SoftLabels | None]:
        """What is read once, for all epochs."""
        with ThreadPoolExecutor(_READERS) as pool:
            found = pool.map(lambda path: row_groups(path, "train", self.classes, self.keys), self.files)
            groups = [group for groups in found for group in groups]
        firsts = accumulate((len(group.rows.places) for group in groups[:-1]), initial=0)
        groups = [group._replace(first=first) for group, first in zip(groups, firsts, strict=False)]
        soft = joined((group.first, group.rows.soft) for group in groups)
        return [group._replace(rows=group.rows._replace(soft=None)) for group in groups], soft

    @property
    def side(self) -> int:
        return self.groups[0].side

    @property
    def labels(self) -> NDArray[np.int64]:
        """Made anew each time, so as not to be held twice."""
        return np.concatenate([group.rows.labels for group in self.groups], dtype=np.int64)

    def image_ids(self, rows: Sequence[int]) -> list[str]:
        """Read from the files of these rows."""
        wanted, found = np.asarray(rows, dtype=np.int64), np.empty(len(rows), dtype=object)
        places = np.searchsorted([group.first for group in self.groups], wanted, side="right") - 1
        for place in np.unique(places):
            group, here = self.groups[place], places == place
            found[here] = image_ids(group, group.rows.places[wanted[here] - group.first], self.keys)
        return list(found)

    def epoch(self, batch_size: int, seed: int, copies: _Copies | None = None) -> Iterator[Batch]:
        rng = np.random.default_rng(seed)
        sizes = batch_sizes(self.count if copies is None else int(copies.sum()), batch_size)
        order = [self.groups[number] for number in rng.permutation(len(self.groups))]
        if copies is not None:
            order = [group for group in order if copies[group.first :][: len(group.rows.places)].any()]
        left = None  # less than a batch of the last window's images, which go into the next
        for window, places in self._windows(list(cut(order, self.window)), spare=batch_size):
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
        soft = self._known[1]
        targets = soft and moved(soft.targets(images.rows, images.labels), self.device)
        pixels, labels, weights, rows = (moved(column, self.device) for column in images)
        return Batch(pixels, labels, weights, targets, rows)

    @cached_property
    def _rooms(self) -> list[_Window]:
        """Windows that no epoch is using: fresh memory costs as much as reading into it."""
        return []

    def _windows(self, plans: list[list[RowGroup]], spare: int) -> Iterator[tuple[_Window, NDArray[np.int64]]]:
        """Each plan's images and the places of those to train on, the last `spare` places left empty."""
        if not plans:
            return
        most = max(sum(group.size for group in plan) for plan in plans) + spare
        windows = [self._room(most) for _ in plans[:2]]
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
                self._rooms.extend(windows)

    def _room(self, images: int) -> _Window:
        while self._rooms:
            room = self._rooms.pop()
            if len(room.labels) >= images:
                return room
        return _Window.of(images, self.groups[0].side)

    def _start(
        self, pool: ThreadPoolExecutor, plan: list[RowGroup], window: _Window
    ) -> list["Future[NDArray[np.int64]]"]:
        starts = accumulate((group.size for group in plan[:-1]), initial=0)
        return [pool.submit(self._read, group, window, start) for group, start in zip(plan, starts, strict=True)]

    def _read(self, group: RowGroup, window: _Window, start: int) -> NDArray[np.int64]:
        """Read a row group into the window, from place `start` on; the places of the training images."""
        read_levels(group, window.pixels[start : start + group.size], self.keys)
        places = start + group.rows.places.astype(np.int64)
        window.labels[places], window.weights[places] = group.rows.labels, group.rows.weights
        window.rows[places] = np.arange(group.first, group.first + len(places))
        return places


def moved(column: NDArray[Any], device: torch.device) -> Tensor:
    """On the device. A GPU fetches it by itself, out of memory that stays in its place, while we go on."""
    tensor = torch.from_numpy(column)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def cut(groups: Sequence[RowGroup], images: int) -> Iterator[list[RowGroup]]:
    """Runs of row groups, each of `images` or more but for the last."""
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
