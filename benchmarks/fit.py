"""Training: one epoch of `resnet_core.fit.fit` against the bare loop, which is the limit.

Ours shuffles and gathers resident uint8 images, augments, normalises, weighs and smooths the loss,
steps the schedule, averages the weights and counts what was right. The bare loop does forward,
backward and an SGD step on one random batch that lies ready. Same network, same shapes, both
channels_last, both in float32 and, on a CPU with units for it, in bfloat16. Ours is the rate that
`fit` itself reports for an epoch.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.rounds import Comparison, Result, Track, interleave, timed
from resnet_core.augment import AugmentConfig
from resnet_core.batches import Resident
from resnet_core.device import training_dtype
from resnet_core.fit import fit
from resnet_core.normalisation import Normalisation
from resnet_core.recipes import TrainConfig
from resnet_core.resnet import ModelConfig, ResNet, build

SIZE = 64  # pixels
BATCH = 64
STEPS = 32
CLASSES = 2
MODEL = ModelConfig("resnet18", width=32)
ROUNDS = 5

CPU = torch.device("cpu")


def run(folder: Path, track: Track) -> Result:
    images = training_images(STEPS * BATCH)
    dtypes: dict[str, torch.dtype | None] = {"float32": None}
    if training_dtype(CPU):
        dtypes["bfloat16"] = torch.bfloat16
    comparisons: list[Comparison] = []
    for name, dtype in dtypes.items():
        turns = {"ours": partial(ours, images, dtype), "peer": timed(partial(peer, bare_network(), dtype), seconds=0)}
        rates = interleave(ROUNDS, turns, track)
        comparisons.append(Comparison(f"fit, one epoch, {name}", "bare loop on a ready batch", *rates.values()))
    return Result(
        "fit",
        f"{MODEL.arch} of width {MODEL.width}, {SIZE} px, batch {BATCH}, SGD, {torch.get_num_threads()} torch threads",
        tuple(comparisons),
    )


def training_images(count: int) -> Resident:
    """Noise: what a convolution costs does not depend on what it sees."""
    rng = np.random.default_rng(0)
    return Resident(
        torch.from_numpy(rng.integers(0, 256, (count, SIZE, SIZE), dtype=np.uint8)),
        torch.from_numpy(rng.integers(0, CLASSES, count)),
        torch.ones(count),
    )


def ours(images: Resident, dtype: torch.dtype | None) -> float:
    _, epochs = fit(
        build(MODEL, size=SIZE, classes=CLASSES),
        images,
        TrainConfig(
            epochs=1,
            batch_size=BATCH,
            optimizer="sgd",
            lr=0.1,
            augment=AugmentConfig(flips="both"),
            precision="auto" if dtype else "float32",
        ),
        class_counts=images.hard_labels.bincount(minlength=CLASSES),
        normalisation=Normalisation(0.5, 0.29),
        device=CPU,
    )
    return epochs[0].images_per_second


def bare_network() -> ResNet:
    return build(MODEL, size=SIZE, classes=CLASSES).to(memory_format=torch.channels_last)


def peer(model: ResNet, dtype: torch.dtype | None) -> int:
    x = torch.randn(BATCH, 1, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, CLASSES, (BATCH,))
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    model.train()
    for _ in range(STEPS):
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return STEPS * BATCH
