"""Random flips and shifts of a whole batch at once, on uint8 [B, H, W], on the batch's device."""

from typing import Literal

import torch
from torch import Tensor

Flips = Literal["none", "horizontal", "vertical", "both", "dihedral"]


def augment(x: Tensor, flips: Flips, shift_share: float, generator: torch.Generator) -> Tensor:
    """uint8 [B, H, W] -> the same shape.

    flips: which mirror images are as likely as the original (`dihedral` adds quarter turns).
    shift_share: the largest move along each axis, as a share of the side.
    generator: on the CPU, so that every device draws alike.
    """
    return shift(flip(x, flips, generator), round(shift_share * x.shape[-1]), generator)


def flip(x: Tensor, flips: Flips, generator: torch.Generator) -> Tensor:
    """Mirror each image with probability a half along every allowed direction."""
    if flips in ("horizontal", "both", "dihedral"):
        x = torch.where(coin(x, generator), x.flip(-1), x)
    if flips in ("vertical", "both", "dihedral"):
        x = torch.where(coin(x, generator), x.flip(-2), x)
    if flips == "dihedral":  # two mirrors and a transposition make all eight
        x = torch.where(coin(x, generator), x.transpose(-1, -2), x)
    return x


def coin(x: Tensor, generator: torch.Generator) -> Tensor:
    """Bool [B, 1, 1]."""
    return torch.randint(0, 2, (len(x), 1, 1), generator=generator).bool().to(x.device)


def shift(x: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Move each image by up to `most` pixels along both axes; what enters is the mirrored border."""
    if most == 0:
        return x
    count, height, width = x.shape
    moves = torch.randint(-most, most + 1, (2, count, 1), generator=generator).to(x.device)
    rows = mirrored(torch.arange(height, device=x.device) + moves[0], height)  # [B, H]
    columns = mirrored(torch.arange(width, device=x.device) + moves[1], width)  # [B, W]
    images = torch.arange(count, device=x.device)[:, None, None]
    return x[images, rows[:, :, None], columns[:, None, :]]


def mirrored(index: Tensor, length: int) -> Tensor:
    """Reflect indices that left [0, length) back into it, the border pixel not repeated."""
    index = index.abs()
    return torch.where(index >= length, 2 * (length - 1) - index, index)
