"""Training: one epoch of `resnet_core.fit.fit` against the bare loop, which is the limit.

Ours shuffles and gathers resident uint8 images, augments, normalises, weighs and smooths the loss,
steps the schedule, averages the weights and counts what was right. The bare loop does forward,
backward and an SGD step on one random batch that lies ready. Same network, same shapes, both
channels_last. Ours is the rate that `fit` itself reports for an epoch.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.rounds import Comparison, Result, Track, interleave, timed
from resnet_core.batches import Resident
from resnet_core.fit import TrainConfig, fit
from resnet_core.normalisation import Normalisation
from resnet_core.resnet import ModelConfig, ResNet, build

SIZE = 64  # pixels
BATCH = 64
STEPS = 8
CLASSES = 2
MODEL = ModelConfig("resnet18", width=32)
ROUNDS = 5

CPU = torch.device("cpu")


def run(folder: Path, track: Track) -> Result:
    images = training_images(STEPS * BATCH)
    model = bare_network()
    rates = interleave(ROUNDS, {"ours": lambda: ours(images), "peer": timed(lambda: peer(model), seconds=0)}, track)
    return Result(
        "fit",
        f"{MODEL.arch} of width {MODEL.width}, {SIZE} px, batch {BATCH}, {torch.get_num_threads()} torch threads",
        (Comparison("fit, one epoch", "bare loop on a ready batch", rates["ours"], rates["peer"]),),
    )


def training_images(count: int) -> Resident:
    """Noise: what a convolution costs does not depend on what it sees."""
    rng = np.random.default_rng(0)
    return Resident(
        torch.from_numpy(rng.integers(0, 256, (count, SIZE, SIZE), dtype=np.uint8)),
        torch.from_numpy(rng.integers(0, CLASSES, count)),
        torch.ones(count),
    )


def ours(images: Resident) -> float:
    _, epochs = fit(
        build(MODEL, size=SIZE, classes=CLASSES),
        images,
        TrainConfig(epochs=1, batch_size=BATCH, flips="both"),
        class_counts=images.labels.bincount(minlength=CLASSES),
        normalisation=Normalisation(0.5, 0.29),
        device=CPU,
    )
    return epochs[0].images_per_second


def bare_network() -> ResNet:
    return build(MODEL, size=SIZE, classes=CLASSES).to(memory_format=torch.channels_last)


def peer(model: ResNet) -> int:
    x = torch.randn(BATCH, 1, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, CLASSES, (BATCH,))
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    model.train()
    for _ in range(STEPS):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return STEPS * BATCH
