"""Training batches: resident in the device's memory when they fit, streamed from shards when not.

Both give each image exactly once an epoch, in an order that depends on nothing but the seed, in
batches whose sizes differ by at most one (a last batch of one image would break batch norm).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from upath import UPath

from resnet_core import shards
from resnet_core.shards import Images


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
        return cls(*_to_device(images, device))

    @property
    def count(self) -> int:
        return len(self.labels)

    def epoch(self, batch_size: int, seed: int) -> Iterator[Batch]:
        order = torch.from_numpy(np.random.default_rng(seed).permutation(self.count))
        for rows in order.to(self.pixels.device).split(batch_sizes(self.count, batch_size)):
            yield Batch(*(column.index_select(0, rows) for column in (self.pixels, self.labels, self.weights)))


@dataclass(frozen=True)
class Streamed:
    """Images read from shards as they are needed, so that memory does not grow with the data set:
    row groups in random order, shuffled in a window of `window` images."""

    files: Sequence[UPath]
    classes: Sequence[str]
    count: int
    device: torch.device
    window: int

    def epoch(self, batch_size: int, seed: int) -> Iterator[Batch]:
        rng = np.random.default_rng(seed)
        sizes = batch_sizes(self.count, batch_size)
        groups = shards.row_groups(self.files)
        pool: list[Images] = []
        for place, group in enumerate(rng.permutation(len(groups)), start=1):
            pool.append(shards.read_row_group(groups[group], "train", self.classes))
            if sum(map(len, pool)) < self.window and place < len(groups):
                continue
            images = shards.concatenate(pool)
            images = images[rng.permutation(len(images))]
            while sizes and sizes[0] <= len(images):
                size = sizes.pop(0)
                yield Batch(*_to_device(images[:size], self.device))
                images = images[size:]
            pool = [images]  # less than a batch is left over, and goes into the next window


def _to_device(images: Images, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.from_numpy(images.pixels).to(device),
        torch.from_numpy(images.labels).to(device),
        torch.from_numpy(images.weights).to(device),
    )
