"""A step of training: the loss, the gradients of a batch in pieces that fit into memory, and an update."""

import logging
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from resnet_core.device import training_dtype
from resnet_core.training._optim import make_optimizer, make_schedule
from resnet_core.training.config import TrainConfig
from resnet_core.training.distributed import World

log = logging.getLogger("grayline")

# Steps between two updates of the average, which costs as much as the optimizer's step.
_AVERAGE_EVERY = 4
# Batch norm needs two images for a variance.
_SMALLEST_BATCH = 2


# ---- the loss
def class_weights(counts: Tensor, balanced: bool) -> Tensor:
    """Return weights, float32 [C], for int64 [C] images: a mean of 1 over the images, all 1 unless balanced."""
    if not balanced:
        return torch.ones(len(counts))
    return counts.sum() / (len(counts) * counts.clamp(min=1)).float()


def adjustment(counts: Tensor, strength: float) -> Tensor:
    """Return numbers to add to the logits in training, float32 [C], for int64 [C] images.

    `strength` times the logarithm of a class's share (Menon et al. 2020, arXiv:2007.07314, section 5). At 1, the
    most probable class afterwards is the best one for the balanced accuracy.
    """
    return strength * (counts.clamp(min=1) / counts.sum()).float().log()


def as_targets(labels: Tensor, soft: Tensor | None, classes: int) -> Tensor:
    """Return shares, float32 [B, C], of int64 [B] labels: the soft labels where there are any."""
    return F.one_hot(labels, classes).float() if soft is None else soft


def image_weights(targets: Tensor, weights: Tensor, by_class: Tensor) -> Tensor:
    """Return the images' own weights times those of their classes, float32 [B]."""
    return weights * (targets @ by_class)


def cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor, smoothing: float) -> Tensor:
    """Return the weighted sum over a batch of logits [B, C] against shares [B, C].

    Label smoothing: Szegedy et al. 2015, arXiv:1512.00567, section 7.
    """
    losses = F.cross_entropy(logits.float(), targets, reduction="none", label_smoothing=smoothing)
    return (losses * weights).sum()


# ---- the step
@dataclass
class Learner:
    """A network in training.

    forward: `model` as it is called: wrapped to share gradients with other processes, or compiled.
    best: the averaged weights of the best epoch, if they are kept.
    """

    model: nn.Module
    forward: nn.Module
    average: AveragedModel
    optimizer: Optimizer
    schedule: LRScheduler
    scaler: torch.amp.GradScaler
    class_weights: Tensor  # float32 [C]
    adjustment: Tensor  # float32 [C], of the logits
    config: TrainConfig
    dtype: torch.dtype | None
    world: World
    steps: int = 0
    pieces: int = 1
    best: dict[str, Tensor] | None = None

    def step(self, x: Tensor, targets: Tensor, weights: Tensor, labels: Tensor) -> Tensor:
        """Update from this process's share of x [B, 1, H, W], targets [B, C], weights [B], int64 labels [B].

        Returns the sums [3] of loss, correct and images of that share.
        """
        whole = len(x)
        x, targets, weights, labels = (self.world.share(tensor) for tensor in (x, targets, weights, labels))
        weights = image_weights(targets, weights, self.class_weights)
        # Processes average their gradients: a loss is its share of the batch's mean, times the number of processes.
        weights = weights * (self.world.size / self.world.total(weights.sum()).clamp(min=1e-12))
        sums = self.gradients(x, targets, weights, labels)
        sums[0] *= whole / self.world.size
        if self.config.clip_gradients:
            self.scaler.unscale_(self.optimizer)
            clip_grad_norm_(self.model.parameters(), self.config.clip_gradients)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        if self.steps % _AVERAGE_EVERY == 0:
            self.update_average()
        return sums

    def gradients(self, x: Tensor, targets: Tensor, weights: Tensor, labels: Tensor) -> Tensor:
        """Accumulate the gradients of the whole batch; halve the pieces, for good, if one does not fit into memory."""
        while True:
            try:
                return self.accumulate(x, targets, weights, labels)
            except torch.OutOfMemoryError:
                # Processes meet in each forward pass: a process alone cannot make more of them.
                if self.world.size > 1 or len(x) // (2 * self.pieces) < _SMALLEST_BATCH:
                    raise
            self.pieces *= 2
            self.optimizer.zero_grad(set_to_none=True)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            log.warning("train       out of memory: from now on a batch goes through in %d pieces", self.pieces)

    def accumulate(self, x: Tensor, targets: Tensor, weights: Tensor, labels: Tensor) -> Tensor:
        sums = torch.zeros(3, device=x.device)
        for part in zip(*(tensor.tensor_split(self.pieces) for tensor in (x, targets, weights, labels)), strict=True):
            images, shares, weight, label = part
            with torch.autocast(x.device.type, self.dtype, enabled=self.dtype is not None):
                logits = self.forward(images)
                loss = cross_entropy(logits + self.adjustment, shares, weight, self.config.label_smoothing)
            self.scaler.scale(loss).backward()
            right = (logits.detach().argmax(1) == label).sum()
            count = torch.tensor(len(label), device=x.device)
            sums += torch.stack([loss.detach(), right, count])
        return sums

    def update_average(self) -> None:
        """Average over about the last tenth of the updates, and at most over those of `ema_decay`.

        A long average of few updates would keep the random start. TensorFlow's ExponentialMovingAverage does the
        same with `num_updates`.
        """
        updates = int(self.average.n_averaged)  # a buffer on the CPU
        rising = (1 + updates) / (10 + updates)
        self.average.multi_avg_fn = get_ema_multi_avg_fn(min(self.config.ema_decay**_AVERAGE_EVERY, rising))
        self.average.update_parameters(self.model)

    def end_epoch(self) -> nn.Module:
        """Return the averaged network, up to date with the last step, for evaluation."""
        self.update_average()
        return self.average.module.eval()

    def keep(self) -> None:
        """Keep the averaged weights as the best so far."""
        self.best = {name: value.clone() for name, value in self.average.module.state_dict().items()}

    def result(self) -> nn.Module:
        if self.best is not None:
            self.average.module.load_state_dict(self.best)
        return self.average.module.eval()

    def settings(self) -> dict[str, Any]:
        """Return the state without its tensors, for JSON."""
        return {
            "optimizer": self.optimizer.state_dict()["param_groups"],
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "steps": self.steps,
            "pieces": self.pieces,
        }


def start(model: nn.Module, steps: int, config: TrainConfig, class_counts: Tensor, world: World) -> Learner:
    """Return a training of so many steps, before the first one. The model is on the device."""
    device = world.device
    dtype = training_dtype(device) if config.precision == "auto" else None
    optimizer = make_optimizer(model, config, dtype)
    forward = world.wrap(model)
    if config.compile and device.type == "cuda":
        forward = torch.compile(forward)  # type: ignore[assignment]
    return Learner(
        model=model,
        forward=forward,
        # Average the weights only. Batch norm's buffers are running averages already; averaged again they lag behind
        # and describe old weights.
        average=AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay)),
        optimizer=optimizer,
        schedule=make_schedule(optimizer, config, steps),
        scaler=torch.amp.GradScaler(device.type, enabled=dtype is torch.float16),
        class_weights=class_weights(class_counts, config.class_weights == "balanced").to(device),
        adjustment=adjustment(class_counts, config.logit_adjustment).to(device),
        config=config,
        dtype=dtype,
        world=world,
    )
