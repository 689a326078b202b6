"""Optimizers and learning rates, from a training's settings."""

import math
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from resnet_core.training.config import TrainConfig
from resnet_core.training.muon import Muon


def make_optimizer(model: nn.Module, config: TrainConfig, precision: torch.dtype | None = None) -> Optimizer:
    """Weight decay is for matrices and kernels, not for biases and batch norm (He et al. 2018,
    arXiv:1812.01187, section 3.1). precision: that of the training's autocast, if any."""
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
    """One rate a step. `one_cycle`: Smith & Topin 2017 (arXiv:1708.07120), as torch has it, both ways by a
    cosine. `cosine`: up by a line, down to 0 by half a cosine (Loshchilov & Hutter 2016,
    arXiv:1608.03983, without restarts)."""
    steps = max(steps, 4)  # of fewer steps, or less than one of warm-up, torch makes no cycle
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
