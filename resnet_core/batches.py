"""Training batches: resident in the device's memory when they fit, streamed from shards when not.

Both give each image exactly once an epoch, in an order that depends on nothing but the seed, in
batches whose sizes differ by at most one (a last batch of one image would break batch norm).
"""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from upath import UPath

from resnet_core import shards
from resnet_core.encryption import Keys
from resnet_core.files import is_local
from resnet_core.shards import Images, RowGroup

# Threads that fetch or decrypt. A local file in the clear is only copied: one is enough, more are slower.
READERS = 4


class Batch(NamedTuple):
    pixels: Tensor  # uint8 [B, H, W]
    labels: Tensor  # int64 [B]
    weights: Tensor  # float32 [B]


class Batches(Protocol):
    """Labelled training images that can be gone through epoch after epoch."""

    @property
    def count(self) -> int: ...

    def epoch(self, batch_size: int, seed: int) -> Iterator[Batch]: ...


def batch_sizes(count: int, batch_size: int) -> list[int]:
    """The sizes of an epoch's batches: at most `batch_size`, at least 2 (batch norm has no variance of
    one image), none smaller than another by two."""
    batches = max(1, min(math.ceil(count / batch_size), count // 2))
    return [len(part) for part in np.array_split(np.empty(count, dtype=np.uint8), batches)]


@dataclass(frozen=True)
class Resident:
    """All images in one tensor on the device; a batch is one gather."""

    pixels: Tensor  # uint8 [N, H, W]
    labels: Tensor  # int64 [N]
    weights: Tensor  # float32 [N]

    @classmethod
    def of(cls, images: Images, device: torch.device) -> "Resident":
        return cls(*(torch.from_numpy(column).to(device) for column in (images.pixels, images.labels, images.weights)))

    @property
    def count(self) -> int:
        return len(self.labels)

    def epoch(self, batch_size: int, seed: int) -> Iterator[Batch]:
        order = torch.from_numpy(np.random.default_rng(seed).permutation(self.count))
        for rows in order.to(self.pixels.device).split(batch_sizes(self.count, batch_size)):
            yield Batch(*(column.index_select(0, rows) for column in (self.pixels, self.labels, self.weights)))


class Window(NamedTuple):
    """Room for images that are read together, used again and again."""

    pixels: NDArray[np.uint8]  # [N, H, W]
    labels: NDArray[np.int64]  # [N]
    weights: NDArray[np.float32]  # [N]

    @classmethod
    def of(cls, images: int, side: int) -> "Window":
        return cls(np.empty((images, side, side), np.uint8), np.empty(images, np.int64), np.empty(images, np.float32))

    def put(self, start: int, other: "Window") -> NDArray[np.int64]:
        """Copy `other` to the rows from `start` on, and say which these are."""
        end = start + len(other.labels)
        self.pixels[start:end], self.labels[start:end], self.weights[start:end] = other
        return np.arange(start, end)

    def take(self, rows: NDArray[np.int64]) -> "Window":
        """A copy of these rows."""
        return Window(self.pixels[rows], self.labels[rows], self.weights[rows])


@dataclass(frozen=True)
class Streamed:
    """Images read from shards as they are needed: row groups in random order, shuffled in a window of
    `window` images. While a window is used the next one is read, so that two are in memory, and 12
    bytes for each image of the data set."""

    files: Sequence[UPath]
    classes: Sequence[str]
    count: int
    device: torch.device
    window: int
    keys: Keys | None = None

    @cached_property
    def groups(self) -> list[RowGroup]:
        """Read once, for all epochs."""
        with ThreadPoolExecutor(READERS) as pool:
            found = pool.map(lambda path: shards.row_groups(path, "train", self.classes, self.keys), self.files)
            return [group for groups in found for group in groups]

    def epoch(self, batch_size: int, seed: int) -> Iterator[Batch]:
        rng = np.random.default_rng(seed)
        sizes = batch_sizes(self.count, batch_size)
        order = [self.groups[place] for place in rng.permutation(len(self.groups))]
        left = None  # less than a batch of the last window's images, which go into the next
        for window, rows in self._windows(list(cut(order, self.window)), spare=batch_size):
            if left:
                rows = np.concatenate([rows, window.put(len(window.labels) - batch_size, left)])
            rows = rng.permutation(rows)
            while sizes and sizes[0] <= len(rows):
                size = sizes.pop(0)
                yield Batch(*(torch.from_numpy(column).to(self.device) for column in window.take(rows[:size])))
                rows = rows[size:]
            left = window.take(rows)

    @cached_property
    def _rooms(self) -> list[Window]:
        """Windows that no epoch is using: fresh memory costs as much as reading into it."""
        return []

    def _windows(self, plans: list[list[RowGroup]], spare: int) -> Iterator[tuple[Window, NDArray[np.int64]]]:
        """Each plan's images and the rows of those to train on, the last `spare` rows left empty."""
        most = max(sum(group.size for group in plan) for plan in plans) + spare
        windows = [self._room(most) for _ in plans[:2]]
        copied = self.groups[0].start is not None and is_local(self.files[0])
        with ThreadPoolExecutor(1 if copied else READERS) as pool:
            try:
                ahead = self._start(pool, plans[0], windows[0])
                for number in range(len(plans)):
                    rows = np.concatenate([read.result() for read in ahead])
                    if number + 1 < len(plans):
                        ahead = self._start(pool, plans[number + 1], windows[(number + 1) % 2])
                    yield windows[number % 2], rows
            finally:
                pool.shutdown(cancel_futures=True)
                self._rooms.extend(windows)

    def _room(self, images: int) -> Window:
        while self._rooms:
            room = self._rooms.pop()
            if len(room.labels) >= images:
                return room
        return Window.of(images, self.groups[0].side)

    def _start(
        self, pool: ThreadPoolExecutor, plan: list[RowGroup], window: Window
    ) -> list["Future[NDArray[np.int64]]"]:
        starts = accumulate((group.size for group in plan[:-1]), initial=0)
        return [pool.submit(self._read, group, window, start) for group, start in zip(plan, starts, strict=True)]

    def _read(self, group: RowGroup, window: Window, start: int) -> NDArray[np.int64]:
        """Read a row group into the window, from row `start` on; the rows of the training images."""
        shards.read_levels(group, window.pixels[start : start + group.size], self.keys)
        rows = start + group.rows.places.astype(np.int64)
        window.labels[rows], window.weights[rows] = group.rows.labels, group.rows.weights
        return rows


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
