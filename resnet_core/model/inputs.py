"""Stored pixels -> what the network sees."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of the training pixels, in gray levels divided by 255."""

    mean: float
    std: float


def to_input(pixels: Tensor, normalisation: Normalisation) -> Tensor:
    """uint8 [B, H, W] -> float32 [B, 1, H, W], mean 0 and deviation 1 over the training images."""
    x = pixels.unsqueeze(1).float()
    x = x.mul_(1 / (255 * normalisation.std)).sub_(normalisation.mean / normalisation.std)
    return x.contiguous(memory_format=torch.channels_last)
