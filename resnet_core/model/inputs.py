"""Stored pixels to network inputs: normalisation, resizing, and the names of mirror images."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Flips = Literal["none", "horizontal", "vertical", "both", "dihedral"]


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of the training pixels, in gray levels divided by 255."""

    mean: float
    std: float


def to_input(pixels: Tensor, normalisation: Normalisation) -> Tensor:
    """Turn uint8 [B, H, W] into float32 [B, 1, H, W], mean 0 and deviation 1 over the training images."""
    x = pixels.unsqueeze(1).float()
    x = x.mul_(1 / (255 * normalisation.std)).sub_(normalisation.mean / normalisation.std)
    return x.contiguous(memory_format=torch.channels_last)


def resize_batch(x: Tensor, side: int) -> Tensor:
    """Resize float32 [B, 1, H, W] to [B, 1, side, side], bilinearly, antialiased where it shrinks."""
    if x.shape[-2:] == (side, side):
        return x
    shrinks = side < max(x.shape[-2:])
    resized = F.interpolate(x, (side, side), mode="bilinear", antialias=shrinks)
    return resized.contiguous(memory_format=torch.channels_last)


def resize_matrix(side: int, target: int) -> Tensor:
    """Return M, float32 [side, target]. M.T @ x @ M is `resize_batch` of an image x of `side` x `side` pixels.

    For frameworks that resize in another way.
    """
    units = torch.eye(side).reshape(1, side, 1, side)  # unit vectors: a channel with one row each
    return F.interpolate(units, (1, target), mode="bilinear", antialias=target < side)[0, :, 0]
