"""The interface of a peer's recipe."""

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

Batches = Iterable[tuple[Tensor, Tensor]]  # float32 [B, C, H, W] and int64 [B]


class Trained(NamedTuple):
    """Seconds of an epoch's training, with loading, without evaluation; the accuracy after it."""

    seconds: float
    accuracy: float


class Recipe(Protocol):
    """Train on `data/train/<class>/*`, yield after each epoch the accuracy on `data/val/<class>/*`.

    side: of the network's input, in pixels.
    epochs: all of the schedule; its shape is the same for any number.
    """

    def __call__(self, data: Path, side: int, epochs: int, device: torch.device) -> Iterator[Trained]: ...


def alternate(
    epochs: int, train: Callable[[int], None], model: nn.Module, held_out: Batches, device: torch.device
) -> Iterator[Trained]:
    """An epoch of training by turns with an evaluation; `train` is told the epoch, from 0 on."""
    for epoch in range(epochs):
        model.train()
        began = time.perf_counter()
        train(epoch)
        seconds = time.perf_counter() - began
        yield Trained(seconds, accuracy(model.eval(), held_out, device))


def accuracy(model: nn.Module, images: Batches, device: torch.device) -> float:
    right = count = 0
    with torch.inference_mode():
        for x, labels in images:
            right += int((model(x.to(device)).argmax(1).cpu() == labels.cpu()).sum())
            count += len(labels)
    return right / count
