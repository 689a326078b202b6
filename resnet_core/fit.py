"""The training loop: cross-entropy, one cycle, an average of the weights, a checkpoint each epoch.

A run depends on its configuration, its data and the device alone: everything random in an epoch is
drawn from generators seeded by (seed, epoch), so that a run that was killed and resumed ends with
the weights of one that was not.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from upath import UPath

from resnet_core import training_state
from resnet_core.augment import Flips, augment
from resnet_core.batches import Batch, Batches, batch_sizes
from resnet_core.device import amp_dtype
from resnet_core.normalisation import Normalisation, to_input


@dataclass(frozen=True)
class TrainConfig:
    """`lr` is the peak of the cycle, `warmup` the share of the steps that lead up to it.
    `class_weights: balanced` weighs each class by the inverse of its share. `ema_decay` is per step;
    0 keeps the last weights instead of an average. `flips` and `shift`: see `augment`."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    epochs: Annotated[int, Ge(1)] = 30
    batch_size: Annotated[int, Ge(2)] = 64
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Gt(0)] = 0.1
    weight_decay: Annotated[float, Ge(0)] = 5e-4
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    warmup: Annotated[float, Gt(0), Lt(1)] = 0.2
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.05
    class_weights: Literal["none", "balanced"] = "none"
    ema_decay: Annotated[float, Ge(0), Lt(1)] = 0.98
    flips: Flips = "horizontal"
    shift: Annotated[float, Ge(0), Le(0.5)] = 0.06
    seed: Annotated[int, Ge(0)] = 0


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


def fit(
    model: nn.Module,
    train: Batches,
    config: TrainConfig,
    *,
    class_counts: Tensor,
    normalisation: Normalisation,
    device: torch.device,
    validate: Callable[[nn.Module], float] | None = None,
    state: UPath | None = None,
    on_step: Callable[[Step], None] = lambda step: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> tuple[nn.Module, list[Epoch]]:
    """Train `model` and return the averaged model and what each epoch came to.

    class_counts: int64 [C], the training images of each class.
    validate: accuracy of a model on images that are not trained on; called after each epoch.
    state: where the checkpoint lies; if it is there, training goes on from it.
    """
    model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    training = start(model, train.count, config, class_counts, device)
    epochs = [Epoch(**values) for values in training_state.load(state, *training.state())] if state else []
    for number in range(len(epochs) + 1, config.epochs + 1):
        started = time.perf_counter()
        seed = config.seed * 1_000_003 + number
        generator = torch.Generator().manual_seed(seed)
        totals = torch.zeros(3, device=device)  # loss, correct, images
        model.train()
        for count, batch in enumerate(train.epoch(config.batch_size, seed), start=1):
            x = to_input(augment(batch.pixels, config.flips, config.shift, generator), normalisation)
            totals += training.step(x, batch)
            if device.type == "cpu" or count % 16 == 0:  # reading a number back stalls a GPU
                on_step(Step(number, int(totals[2]), *(totals[:2] / totals[2]).tolist()))
        epochs.append(
            Epoch(
                epoch=number,
                loss=float(totals[0] / totals[2]),
                accuracy=float(totals[1] / totals[2]),
                lr=float(training.schedule.get_last_lr()[0]),
                images_per_second=train.count / (time.perf_counter() - started),
                validation_accuracy=validate(training.average.module.eval()) if validate else None,
            )
        )
        if state:
            training_state.save(state, *training.state(), [asdict(epoch) for epoch in epochs])
        on_epoch(epochs[-1])
    return training.average.module.eval(), epochs


@dataclass(frozen=True)
class Training:
    """What changes from step to step, and what a step needs."""

    model: nn.Module
    average: AveragedModel
    optimizer: Optimizer
    schedule: OneCycleLR
    scaler: torch.amp.GradScaler
    class_weights: Tensor  # float32 [C]
    label_smoothing: float
    dtype: torch.dtype | None

    def state(self) -> tuple[nn.Module, nn.Module, Optimizer, OneCycleLR]:
        return self.model, self.average, self.optimizer, self.schedule

    def step(self, x: Tensor, batch: Batch) -> Tensor:
        """One update from x, float32 [B, 1, H, W]; returns the sums [3] of loss, correct and images."""
        with torch.autocast(x.device.type, self.dtype, enabled=self.dtype is not None):
            logits = self.model(x)
            loss = cross_entropy(logits, batch.labels, batch.weights, self.class_weights, self.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        self.average.update_parameters(self.model)
        correct = (logits.detach().argmax(1) == batch.labels).sum()
        return torch.stack([loss.detach() * len(x), correct, torch.tensor(len(x), device=x.device)])


def start(model: nn.Module, images: int, config: TrainConfig, class_counts: Tensor, device: torch.device) -> Training:
    """A training before its first step."""
    optimizer = make_optimizer(model, config)
    total = config.epochs * len(batch_sizes(images, config.batch_size))
    total = max(total, 4)  # of fewer steps, or less than one of warm-up, torch makes no cycle
    dtype = amp_dtype(device)
    return Training(
        model=model,
        average=AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay), use_buffers=True),
        optimizer=optimizer,
        schedule=OneCycleLR(optimizer, config.lr, total, pct_start=max(config.warmup, 1.5 / total)),
        scaler=torch.amp.GradScaler(device.type, enabled=dtype is torch.float16),
        class_weights=class_weights(class_counts, config).to(device),
        label_smoothing=config.label_smoothing,
        dtype=dtype,
    )


def make_optimizer(model: nn.Module, config: TrainConfig) -> Optimizer:
    """Weight decay is for matrices and kernels, not for biases and batch norm (He et al. 2018,
    arXiv:1812.01187, section 3.1)."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return SGD(groups, config.lr, momentum=config.momentum, nesterov=True)
    return AdamW(groups, config.lr)


def class_weights(counts: Tensor, config: TrainConfig) -> Tensor:
    """float32 [C], with a mean of 1 over the training images."""
    if config.class_weights == "none":
        return torch.ones(len(counts))
    return counts.sum() / (len(counts) * counts.clamp(min=1)).float()


def cross_entropy(
    logits: Tensor, labels: Tensor, sample_weights: Tensor, class_weights: Tensor, smoothing: float
) -> Tensor:
    """Mean cross-entropy of logits [B, C], weighted by image and by class, with label smoothing
    (Szegedy et al. 2015, arXiv:1512.00567, section 7)."""
    losses = F.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=smoothing)
    weights = sample_weights * class_weights[labels]
    return (losses * weights).sum() / weights.sum()
