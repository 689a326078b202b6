"""The training loop: epochs of augmented batches, a checkpoint after each, the averaged network at the end.

A run depends on its configuration, its data and the device alone; on a CPU, the threads of each epoch belong to it.
All random numbers of an epoch are drawn from generators seeded by (seed, epoch): a run that was killed and resumed ends
with the weights of one that was not.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from upath import UPath

from resnet_core.device import freed_memory_stays, repeatable
from resnet_core.errors import NotANumberError
from resnet_core.model.inputs import Normalisation, resize_batch, to_input
from resnet_core.training import _checkpoint, _learner
from resnet_core.training._learner import Learner, as_targets
from resnet_core.training._progressive import draw_sides, strength
from resnet_core.training.augment import augment, mix, weaker
from resnet_core.training.batches import Batch, Batches, batch_sizes, copies
from resnet_core.training.config import TrainConfig, no_number
from resnet_core.training.distributed import World

_ANSWERED = 8  # images whose answers are looked at after each epoch
# Steps between two reads of a GPU's sums: the CPU waits for the GPU to read them.
_LOOK_EVERY = 16


# ---- what goes in and comes out
class TrainingSet(NamedTuple):
    """The images to train on, and numbers about them.

    class_counts: int64 [C], the training images of each class.
    include: bool [N], the images to train on; None: all.
    """

    batches: Batches
    class_counts: Tensor
    normalisation: Normalisation
    include: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Epoch:
    """The result of an epoch; `loss` and `accuracy` are means over its training images.

    validation_accuracy: what `Hooks.validate` returned, the accuracy by default. threads: of a CPU.
    """

    epoch: int
    loss: float
    accuracy: float
    lr: float
    images_per_second: float
    validation_accuracy: float | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Step:
    """The progress within an epoch; `loss` and `accuracy` are means over the epoch so far."""

    epoch: int
    images: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Hooks:
    """Functions that the loop calls.

    validate: returns a model's accuracy on images that are not trained on; called after each epoch.
    before_epoch: takes the epoch's number.
    """

    validate: Callable[[nn.Module], float] | None = None
    on_step: Callable[[Step], None] = lambda step: None
    on_epoch: Callable[[Epoch], None] = lambda epoch: None
    before_epoch: Callable[[int], None] = lambda epoch: None


# ---- the loop
@freed_memory_stays()
def fit(
    model: nn.Module,
    data: TrainingSet,
    config: TrainConfig,
    world: World,
    *,
    state: UPath | None = None,
    hooks: Hooks = Hooks(),
) -> tuple[nn.Module, list[Epoch]]:
    """Train `model`; return the averaged model and the epochs.

    state: the checkpoint's file; if it exists, training goes on from it.
    Raises TrainingError when the loss, the weights or the answers are no longer numbers; the last checkpoint stays.
    """
    images = data.batches.count if data.include is None else int(data.include.sum())
    steps = config.epochs * len(batch_sizes(images, config.batch_size))
    model = model.to(device=world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    learner = _learner.start(model, steps, config, data.class_counts, world)
    epochs = [Epoch(**values) for values in _checkpoint.load(state, learner)] if state else []
    while len(epochs) < config.epochs and not _out_of_patience(epochs, config.early_stopping):
        hooks.before_epoch(len(epochs) + 1)
        with repeatable(config.deterministic):
            epoch, last = _run_epoch(learner, data, len(epochs) + 1, hooks.on_step)
            averaged = learner.end_epoch()
            _check_numbers(learner, last[:_ANSWERED], epoch.epoch)
        if hooks.validate:  # all processes decide by the first one's
            try:
                epoch = replace(epoch, validation_accuracy=world.agreed(hooks.validate(averaged)))
            except NotANumberError as error:
                raise no_number(f"{error} after epoch {epoch.epoch}", config) from None
        epochs.append(epoch)
        if config.early_stopping and best(epochs) == len(epochs):
            learner.keep()
        if state and world.rank == 0:
            _checkpoint.save(state, learner, [asdict(epoch) for epoch in epochs])
        hooks.on_epoch(epoch)
    return learner.result(), epochs


def _check_numbers(learner: Learner, x: Tensor, epoch: int) -> None:
    """Raise TrainingError unless the state, and the averaged network's answers for some images, are finite.

    With a rate that is far too high, every loss of a short training may still be a number.
    """
    with torch.inference_mode():
        found = {"answers": [learner.average.module(x)], "weights": _checkpoint.tensors_of(learner).values()}
    for what, tensors in found.items():
        wrong = sum(int(not tensor.isfinite().all()) for tensor in tensors)
        if learner.world.total(torch.tensor(float(wrong), device=x.device)) > 0:
            raise no_number(f"the network's {what} are no longer numbers after epoch {epoch}", learner.config)


def _run_epoch(
    learner: Learner, data: TrainingSet, number: int, on_step: Callable[[Step], None]
) -> tuple[Epoch, Tensor]:
    """Train on every image once, or as often as the sampling says. All processes draw the same whole batches.

    Returns also the last batch, float32 [B, 1, S, S].
    """
    started, config, batches = time.perf_counter(), learner.config, data.batches
    seed = config.seed * 1_000_003 + number
    generator = torch.Generator().manual_seed(seed)
    chosen = copies(batches.labels, seed, config.sampling == "balanced", data.include)
    images = batches.count if chosen is None else int(chosen.sum())
    steps = len(batch_sizes(images, config.batch_size))
    sides = draw_sides(config, batches.side, number, steps, generator)
    changes = weaker(config.augment, strength(config, number))
    totals = _Totals(learner, number, batches, on_step)
    learner.model.train()
    device = learner.world.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed + learner.world.rank)  # for the network's own random numbers: stochastic depth
        for batch, side in zip(batches.epoch(config.batch_size, seed, chosen), sides, strict=True):
            x = to_input(augment(batch.pixels, changes, generator), data.normalisation)
            targets = as_targets(batch.labels, batch.targets, len(learner.class_weights))
            x, targets, weights = mix(resize_batch(x, side), targets, batch.weights, changes, generator)
            totals.add(learner.step(x, targets, weights, batch.labels), batch)
    loss, accuracy, _ = totals.read()
    rate = images / (time.perf_counter() - started)
    threads = torch.get_num_threads() if device.type == "cpu" else None
    lr = float(learner.schedule.get_last_lr()[0])
    return Epoch(number, loss, accuracy, lr, rate, threads=threads), x


def best(epochs: list[Epoch]) -> int:
    """Return the first epoch of the highest validation accuracy; 0 without one. NaN is a metric that is undefined."""
    known = [e for e in epochs if e.validation_accuracy is not None and not math.isnan(e.validation_accuracy)]
    return max(known, key=lambda epoch: (epoch.validation_accuracy or 0, -epoch.epoch)).epoch if known else 0


def _out_of_patience(epochs: list[Epoch], patience: int) -> bool:
    return bool(patience and best(epochs) and len(epochs) - best(epochs) >= patience)


# ---- sums of an epoch
@dataclass
class _Totals:
    """An epoch's sums of loss, correct answers and images, read after a few steps.

    Reading moves the progress and finds a loss that is not a number.
    """

    learner: Learner
    epoch: int
    batches: Batches
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
        """Return mean loss, accuracy and images so far, of all processes together."""
        assert self.sums is not None
        loss, right, images = self.learner.world.total(self.sums).tolist()
        if not math.isfinite(loss):
            self.fail()
        self.unseen.clear()
        return loss / images, right / images, int(images)

    def fail(self) -> None:
        """Raise TrainingError that names the images of the first batch without a finite loss."""
        total = self.learner.world.total
        batch = next((batch for sums, batch in self.unseen if not total(sums).isfinite().all()), self.unseen[-1][1])
        ids = self.batches.image_ids(batch.rows.tolist())
        found = f"the loss is no longer a number in epoch {self.epoch}, at the batch of the images {', '.join(ids)}"
        raise no_number(found, self.learner.config, "; if that does not help, look at these images")
