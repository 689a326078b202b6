"""Optimizers and learning rates, from a training's settings."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.adamw import adamw
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from resnet_core.training.config import TrainConfig

# Newton-Schulz: five rounds of a polynomial with a steep slope at zero bring every singular value near 1.
_ROUNDS = 5
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
# A step of rate 1 changes a matrix by as much as AdamW's would (Liu et al. 2025, arXiv:2502.16982, section 2.2).
_LIKE_ADAMW = 0.2


class Muon(Optimizer):
    """Muon: the updates of matrices and kernels are made orthogonal, in `precision`; AdamW updates the rest."""

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        *,
        momentum: float = 0.9,
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})
        self.precision = precision

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            for parameter in (p for p in moved if p.ndim > 1):
                self._turn(parameter, group)
            self._adapt([p for p in moved if p.ndim <= 1], group)

    def _turn(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].mul_(group["momentum"]).add_(gradient)
        direction = gradient.add(state["momentum"], alpha=group["momentum"]).flatten(1)
        update = orthogonal(direction.to(self.precision)).to(direction.dtype)
        scale = _LIKE_ADAMW * max(update.shape) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update.view(parameter.shape), alpha=-group["lr"] * scale)

    def _adapt(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.tensor(0.0),
                    "mean": torch.zeros_like(parameter),
                    "square": torch.zeros_like(parameter),
                }
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            parameters, [p.grad for p in parameters if p.grad is not None], [s["mean"] for s in states],
            [s["square"] for s in states], [], [s["step"] for s in states], foreach=True, amsgrad=False, beta1=0.9,
            beta2=0.999, lr=group["lr"], weight_decay=0.0, eps=1e-8, maximize=False,
        )  # fmt: skip


def orthogonal(matrix: Tensor) -> Tensor:
    """[M, N] -> the nearest matrix whose singular values are 1, roughly: they end between 0.7 and 1.2."""
    a, b, c = _COEFFICIENTS
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(_ROUNDS):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def make_optimizer(model: nn.Module, config: TrainConfig, precision: torch.dtype | None = None) -> Optimizer:
    """Return the optimizer. Biases and batch norm have no weight decay (He et al. 2018, arXiv:1812.01187, section 3.1).

    precision: that of the training's autocast, if any.
    """
    parameters = list(model.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    match config.optimizer:
        case "sgd":
            return SGD(groups, config.lr, momentum=config.momentum, nesterov=config.momentum > 0)
        case "adamw":
            return AdamW(groups, config.lr)
        case "muon":
            steps_in = torch.bfloat16 if precision is torch.bfloat16 else torch.float32
            return Muon(groups, config.lr, momentum=config.momentum, precision=steps_in)


def make_schedule(optimizer: Optimizer, config: TrainConfig, steps: int) -> LRScheduler:
    """Return the learning rates by step.

    one_cycle: torch's, up and down by a cosine (Smith & Topin 2017, arXiv:1708.07120).
    cosine: up by a line, down to 0 by half a cosine (Loshchilov & Hutter 2016, arXiv:1608.03983, no restarts).
    """
    steps = max(steps, 4)  # torch refuses fewer steps, and less than one of warm-up
    warmup = max(config.warmup, 1.5 / steps)
    if config.schedule == "one_cycle":
        peaks = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(optimizer, peaks, steps, pct_start=warmup, cycle_momentum=False)

    def share(step: int) -> float:
        if step < warmup * steps:
            return (step + 1) / (warmup * steps + 1)
        done = (step - warmup * steps) / (steps - warmup * steps)
        return (1 + math.cos(math.pi * min(done, 1))) / 2

    return LambdaLR(optimizer, share)
