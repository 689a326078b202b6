"""Training: one epoch of `resnet_core.training.loop.fit` against the bare loop, which is the limit.

Ours shuffles and gathers resident uint8 images, augments, normalises, and weights and smooths the loss. It also steps
the schedule, averages the weights and counts correct predictions. The bare loop does forward, backward and an SGD step
on one random batch that lies ready. Both have the same network and shapes, channels_last, in float32 and, on a CPU with
units for it, in bfloat16. Our rate is that of `fit`'s second epoch, because the first one allocates memory.
Large images can bring it above the limit: the bare loop returns its memory to the system in every step, see
`resnet_core.device`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.rounds import Comparison, Result, Track, interleave, timed
from resnet_core.device import training_dtype
from resnet_core.model.inputs import Normalisation
from resnet_core.model.resnet import ModelConfig, ResNet, build
from resnet_core.training.augment import AugmentConfig
from resnet_core.training.batches import Resident
from resnet_core.training.config import TrainConfig
from resnet_core.training.distributed import World
from resnet_core.training.loop import Epoch, TrainingSet, fit

CLASSES = 2
ROUNDS = 5

Fitted = tuple[nn.Module, list[Epoch]]


@dataclass(frozen=True)
class Shape:
    """`size` in pixels; `steps` an epoch."""

    size: int
    width: int
    batch: int
    steps: int

    @property
    def model(self) -> ModelConfig:
        return ModelConfig("resnet18", width=self.width)


SHAPES = (Shape(64, 32, 64, 32), Shape(224, 16, 128, 8))

CPU = torch.device("cpu")


def run(folder: Path, track: Track) -> Result:
    return Result(
        "fit",
        f"resnet18, SGD, {torch.get_num_threads()} torch threads",
        tuple(comparison for shape in SHAPES for comparison in compared(shape, track)),
    )


def compared(shape: Shape, track: Track) -> Iterator[Comparison]:
    images = training_images(shape)
    dtypes: dict[str, torch.dtype | None] = {"float32": None}
    if training_dtype(CPU):
        dtypes["bfloat16"] = torch.bfloat16
    for name, dtype in dtypes.items():
        bare = timed(partial(peer, shape, bare_network(shape), dtype), seconds=0)
        rates = interleave(ROUNDS, {"ours": partial(ours, shape, images, dtype), "peer": bare}, track)
        what = f"fit, one epoch, {shape.size} px, width {shape.width}, batch {shape.batch}, {name}"
        yield Comparison(what, "bare loop on a ready batch", *rates.values())


def training_images(shape: Shape) -> Resident:
    """Noise: what a convolution costs does not depend on what it sees."""
    rng = np.random.default_rng(0)
    count, size = shape.steps * shape.batch, shape.size
    return Resident(
        torch.from_numpy(rng.integers(0, 256, (count, size, size), dtype=np.uint8)),
        torch.from_numpy(rng.integers(0, CLASSES, count)),
        torch.ones(count),
    )


def ours(shape: Shape, images: Resident, dtype: torch.dtype | None, loop: Callable[..., Fitted] = fit) -> float:
    _, epochs = loop(
        build(shape.model, size=shape.size, classes=CLASSES),
        TrainingSet(images, images.hard_labels.bincount(minlength=CLASSES), Normalisation(0.5, 0.29)),
        TrainConfig(
            epochs=2,
            batch_size=shape.batch,
            optimizer="sgd",
            lr=0.1,
            augment=AugmentConfig(flips="both"),
            precision="auto" if dtype else "float32",
        ),
        World(CPU),
    )
    return epochs[-1].images_per_second


def bare_network(shape: Shape) -> ResNet:
    return build(shape.model, size=shape.size, classes=CLASSES).to(memory_format=torch.channels_last)


def peer(shape: Shape, model: ResNet, dtype: torch.dtype | None) -> int:
    x = torch.randn(shape.batch, 1, shape.size, shape.size).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, CLASSES, (shape.batch,))
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    model.train()
    for _ in range(shape.steps):
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return shape.steps * shape.batch
