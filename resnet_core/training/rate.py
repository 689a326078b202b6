"""The rate of a training on a device, measured by some of its steps on noise."""

from dataclasses import replace
from functools import partial

import numpy as np
import torch

from resnet_core.model.inputs import Normalisation
from resnet_core.model.resnet import ModelConfig, build
from resnet_core.model.sized import sized
from resnet_core.shards.format import Images
from resnet_core.threads import Threads
from resnet_core.training.batches import Resident
from resnet_core.training.config import TrainConfig
from resnet_core.training.distributed import World
from resnet_core.training.loop import TrainingSet, fit

_STEPS = 2  # of an epoch; the first epoch, which fetches memory, is not counted


def training_rate(model: ModelConfig, config: TrainConfig, size: int, classes: int, device: torch.device) -> float:
    """Return the rate with the threads that a training would take here and now."""
    rate = partial(rate_of_steps, model, config, size, classes, device)
    if device.type != "cpu":
        return rate()
    with Threads(rate).set() as before_epoch:
        before_epoch(1)
        return rate()


def rate_of_steps(model: ModelConfig, config: TrainConfig, size: int, classes: int, device: torch.device) -> float:
    """Train for two epochs of two steps; return the rate of the second one."""
    count = _STEPS * config.batch_size
    rng = np.random.default_rng(0)
    images = Images(
        np.array([str(number) for number in range(count)], object),
        np.arange(count, dtype=np.int64) % classes,
        np.ones(count, np.float32),
        rng.integers(0, 256, (count, size, size), np.uint8),
    )
    network = sized(build(replace(model, pretrained="none"), size=size, classes=classes), ())
    short = replace(config, epochs=2, early_stopping=0, scales=(), progressive=0.0, sampling="natural")
    data = TrainingSet(
        Resident.of(images, device), torch.from_numpy(np.bincount(images.labels, minlength=classes)),
        Normalisation(0.5, 0.29),
    )  # fmt: skip
    return fit(network, data, short, World(device))[1][-1].images_per_second
