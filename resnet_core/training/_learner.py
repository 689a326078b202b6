"""One step of training: gradients of a batch, in as many pieces as the memory asks for, and an update."""

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


def class_weights(counts: Tensor, balanced: bool) -> Tensor:
    """int64 [C] images of each class -> float32 [C], with a mean of 1 over the images; all 1 unless balanced."""
    if not balanced:
        return torch.ones(len(counts))
    return counts.sum() / (len(counts) * counts.clamp(min=1)).float()


def adjustment(counts: Tensor, strength: float) -> Tensor:
    """int64 [C] images of each class -> float32 [C] to add to the logits in training (Menon et al. 2020,
    arXiv:2007.07314, section 5): `strength` times the logarithm of each class's share. Without them, afterwards, a
    class is as likely as if it were not rare: at 1 the most likely one is best for the balanced accuracy."""
    return strength * (counts.clamp(min=1) / counts.sum()).float().log()


def as_targets(labels: Tensor, soft: Tensor | None, classes: int) -> Tensor:
    """int64 [B] labels -> float32 [B, C] shares: the soft labels where there are any."""
    return F.one_hot(labels, classes).float() if soft is None else soft


def image_weights(targets: Tensor, weights: Tensor, by_class: Tensor) -> Tensor:
    """float32 [B]: each image's own weight times that of its classes."""
    return weights * (targets @ by_class)


def cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor, smoothing: float) -> Tensor:
    """The weighted sum over a batch, of logits [B, C] against shares [B, C], with label smoothing
    (Szegedy et al. 2015, arXiv:1512.00567, section 7)."""
    losses = F.cross_entropy(logits.float(), targets, reduction="none", label_smoothing=smoothing)
    return (losses * weights).sum()


log = logging.getLogger("grayline")

# Steps from one update of the average to the next: it costs as much as the optimizer's step does.
_AVERAGE_EVERY = 4
# Batch norm has no variance of one image.
_SMALLEST_BATCH = 2


@dataclass
class Learner:
    """A network in training. `model` is the network itself, `forward` what runs it: wrapped to share its
    gradients with other processes, or compiled. `best` are the averaged weights worth keeping, if any."""

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
        """One update from x, float32 [B, 1, H, W], targets [B, C], weights [B], labels int64 [B], of which
        this process takes its share; returns the sums [3] of loss, correct and images of that share."""
        whole = len(x)
        x, targets, weights, labels = (self.world.share(tensor) for tensor in (x, targets, weights, labels))
        weights = image_weights(targets, weights, self.class_weights)
        # Processes average their gradients: each loss is its share of a mean over the whole batch, times their number.
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
        """Of the whole batch, however many pieces it takes: a piece that does not fit into the device's
        memory is halved, and so is every later one."""
        while True:
            try:
                return self.accumulate(x, targets, weights, labels)
            except torch.OutOfMemoryError:
                # Processes meet in each forward pass: one of them alone cannot make more of them.
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
            images, wanted, weight, label = part
            with torch.autocast(x.device.type, self.dtype, enabled=self.dtype is not None):
                logits = self.forward(images)
                loss = cross_entropy(logits + self.adjustment, wanted, weight, self.config.label_smoothing)
            self.scaler.scale(loss).backward()
            right = (logits.detach().argmax(1) == label).sum()
            count = torch.tensor(len(label), device=x.device)
            sums += torch.stack([loss.detach(), right, count])
        return sums

    def update_average(self) -> None:
        """An average of few updates forgets faster: the random start would stay in it for long. So it is
        over about the last tenth of the updates, until that is more than `ema_decay` allows (as
        TensorFlow's ExponentialMovingAverage with `num_updates`)."""
        updates = int(self.average.n_averaged)  # a buffer on the CPU
        rising = (1 + updates) / (10 + updates)
        self.average.multi_avg_fn = get_ema_multi_avg_fn(min(self.config.ema_decay**_AVERAGE_EVERY, rising))
        self.average.update_parameters(self.model)

    def end_epoch(self) -> nn.Module:
        """The averaged network, up to date with the last step, ready to be used."""
        self.update_average()
        return self.average.module.eval()

    def keep(self) -> None:
        """What the average is now is the best so far."""
        self.best = {name: value.clone() for name, value in self.average.module.state_dict().items()}

    def result(self) -> nn.Module:
        if self.best is not None:
            self.average.module.load_state_dict(self.best)
        return self.average.module.eval()

    def settings(self) -> dict[str, Any]:
        """What is no tensor, as JSON has it."""
        return {
            "optimizer": self.optimizer.state_dict()["param_groups"],
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "steps": self.steps,
            "pieces": self.pieces,
        }


def start(
    model: nn.Module, steps: int, config: TrainConfig, class_counts: Tensor, device: torch.device, world: World
) -> Learner:
    """A training of so many steps, before its first one. The model is on the device."""
    dtype = training_dtype(device) if config.precision == "auto" else None
    optimizer = make_optimizer(model, config, dtype)
    forward = world.wrap(model, device)
    if config.compile and device.type == "cuda":
        forward = torch.compile(forward)  # type: ignore[assignment]
    return Learner(
        model=model,
        forward=forward,
        # Of the weights alone. Batch norm's statistics are averages already; of averages of them, the averaged weights
        # make less: long into a training they are of weights that are no more.
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
