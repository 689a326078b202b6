"""The training loop: epochs of augmented batches, a checkpoint after each, the averaged network at the end.

A run depends on its configuration, its data and the device alone: everything random in an epoch is
drawn from generators seeded by (seed, epoch), so that a run that was killed and resumed ends with
the weights of one that was not.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from upath import UPath

from resnet_core.device import freed_memory_stays, repeatable
from resnet_core.errors import TrainingError
from resnet_core.model.inputs import Normalisation, resize_batch, to_input
from resnet_core.training import _checkpoint as training_state
from resnet_core.training import _learner as learner
from resnet_core.training import _progressive as sizes
from resnet_core.training._learner import Learner, as_targets
from resnet_core.training.augment import augment, mix, weaker
from resnet_core.training.batches import Batch, Batches, batch_sizes, copies
from resnet_core.training.config import TrainConfig
from resnet_core.training.distributed import ALONE, World

# Steps after which a GPU's sums are read: reading them makes the CPU wait for the GPU.
_LOOK_EVERY = 16


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to; `loss` and `accuracy` are means over its training images."""

    epoch: int
    loss: float
    accuracy: float
    lr: float
    images_per_second: float
    validation_accuracy: float | None = None


@dataclass(frozen=True)
class Step:
    """Where the loop is; `loss` and `accuracy` are means over the epoch so far."""

    epoch: int
    images: int
    loss: float
    accuracy: float


@freed_memory_stays()
def fit(
    model: nn.Module,
    train: Batches,
    config: TrainConfig,
    *,
    class_counts: Tensor,
    normalisation: Normalisation,
    device: torch.device,
    include: NDArray[np.bool_] | None = None,
    validate: Callable[[nn.Module], float] | None = None,
    state: UPath | None = None,
    world: World = ALONE,
    on_step: Callable[[Step], None] = lambda step: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> tuple[nn.Module, list[Epoch]]:
    """Train `model` and return the averaged model and what each epoch came to.

    class_counts: int64 [C], the training images of each class.
    include: which of the training images to train on; all of them if None.
    validate: accuracy of a model on images that are not trained on; called after each epoch.
    state: where the checkpoint lies; if it is there, training goes on from it.
    Raises TrainingError, naming the images, when the loss is no longer a number.
    """
    images = train.count if include is None else int(include.sum())
    steps = config.epochs * len(batch_sizes(images, config.batch_size))
    model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    training = learner.start(model, steps, config, class_counts, device, world)
    epochs = [Epoch(**values) for values in training_state.load(state, training)] if state else []
    while len(epochs) < config.epochs and not _out_of_patience(epochs, config.early_stopping):
        with repeatable(config.deterministic):
            epoch = _run_epoch(training, train, len(epochs) + 1, normalisation, include, on_step)
        averaged = training.end_epoch()
        if validate:  # all processes decide by the first one's
            epoch = replace(epoch, validation_accuracy=world.agreed(validate(averaged), device))
        epochs.append(epoch)
        if config.early_stopping and best(epochs) == len(epochs):
            training.keep()
        if state and world.rank == 0:
            training_state.save(state, training, [asdict(epoch) for epoch in epochs])
        on_epoch(epoch)
    return training.result(), epochs


def _run_epoch(
    training: Learner,
    train: Batches,
    number: int,
    normalisation: Normalisation,
    include: NDArray[np.bool_] | None,
    on_step: Callable[[Step], None],
) -> Epoch:
    """Every image once, or as often as the sampling says. All processes draw the same whole batches."""
    started, config = time.perf_counter(), training.config
    seed = config.seed * 1_000_003 + number
    generator = torch.Generator().manual_seed(seed)
    chosen = copies(train.labels, seed, config.sampling == "balanced", include)
    images = train.count if chosen is None else int(chosen.sum())
    steps = len(batch_sizes(images, config.batch_size))
    sides = sizes.sides(config.scales, config.progressive, train.side, number, config.epochs, steps, generator)
    changes = weaker(config.augment, sizes.strength(number, config.epochs, config.progressive))
    totals = _Totals(training, number, train, on_step)
    training.model.train()
    device = training.class_weights.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed + training.world.rank)  # for what the network itself draws: stochastic depth
        for batch, side in zip(train.epoch(config.batch_size, seed, chosen), sides, strict=True):
            x = to_input(augment(batch.pixels, changes, generator), normalisation)
            targets = as_targets(batch.labels, batch.targets, len(training.class_weights))
            x, targets, weights = mix(resize_batch(x, side), targets, batch.weights, changes, generator)
            totals.add(training.step(x, targets, weights, batch.labels), batch)
    loss, accuracy, _ = totals.read()
    rate = images / (time.perf_counter() - started)
    return Epoch(number, loss, accuracy, float(training.schedule.get_last_lr()[0]), rate)


@dataclass
class _Totals:
    """The epoch's sums of loss, right answers and images, looked at after a few steps: that is when the
    progress moves, and when a loss that is no number is found."""

    training: Learner
    epoch: int
    train: Batches
    on_step: Callable[[Step], None]
    sums: Tensor | None = None  # float32 [3]
    unseen: list[tuple[Tensor, Batch]] = field(default_factory=list)

    def add(self, sums: Tensor, batch: Batch) -> None:
        self.sums = sums if self.sums is None else self.sums + sums
        self.unseen.append((sums, batch))
        if sums.device.type == "cpu" or len(self.unseen) == _LOOK_EVERY:
            loss, accuracy, images = self.read()
            self.on_step(Step(self.epoch, images, loss, accuracy))

    def read(self) -> tuple[float, float, int]:
        """Mean loss, accuracy and images so far, of all processes together."""
        assert self.sums is not None
        loss, right, images = self.training.world.total(self.sums).tolist()
        if not math.isfinite(loss):
            self.fail()
        self.unseen.clear()
        return loss / images, right / images, int(images)

    def fail(self) -> None:
        """Name the images of the first batch whose loss is no number."""
        total = self.training.world.total
        batch = next((batch for sums, batch in self.unseen if not total(sums).isfinite().all()), self.unseen[-1][1])
        ids = self.train.image_ids(batch.rows.tolist())
        raise TrainingError(
            f"the loss is no longer a number in epoch {self.epoch}, at the batch of the images {', '.join(ids)}. "
            "Lower `train.lr`, or set `train.clip_gradients: 1`; if it stays, look at these images."
        )


def best(epochs: list[Epoch]) -> int:
    """The first epoch of the highest validation accuracy; 0 without one."""
    found = max(epochs, key=lambda epoch: (epoch.validation_accuracy or 0, -epoch.epoch), default=None)
    return found.epoch if found and found.validation_accuracy is not None else 0


def _out_of_patience(epochs: list[Epoch], patience: int) -> bool:
    return bool(patience and best(epochs) and len(epochs) - best(epochs) >= patience)
