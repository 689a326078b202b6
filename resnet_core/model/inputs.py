"""Stored pixels -> what the network sees."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
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


def resize_batch(x: Tensor, side: int) -> Tensor:
    """float32 [B, 1, H, W] -> [B, 1, side, side], bilinear, antialiased where it shrinks."""
    if x.shape[-2:] == (side, side):
        return x
    shrinks = side < max(x.shape[-2:])
    resized = F.interpolate(x, (side, side), mode="bilinear", antialias=shrinks)
    return resized.contiguous(memory_format=torch.channels_last)


def resize_matrix(side: int, wanted: int) -> Tensor:
    """float32 [side, wanted]: M.T @ x @ M is what `resize_batch` makes of an image x of `side` x `side` pixels.
    For frameworks whose own resizing is another one."""
    units = torch.eye(side).reshape(1, side, 1, side)  # unit vectors: each a channel with one row
    return F.interpolate(units, (1, wanted), mode="bilinear", antialias=wanted < side)[0, :, 0]


Flips = Literal["none", "horizontal", "vertical", "both", "dihedral"]
