"""Levels of any depth and colour -> 8-bit gray: the definitions that every decoder is held to.

Luma is ITU-R BT.601 on the file's own (gamma-encoded) levels, what JPEG stores and what Pillow's mode
"L" is. More than 8 bits are scaled to 0..255, never clipped.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_core.reasons import Reason, ReasonCode

Gray = NDArray[np.uint8]

_BT601 = (0.299, 0.587, 0.114)
BLOCK = 2**20  # levels that are scaled at a time: the float copies of a large image would be eight times its size


def luma(rgb: NDArray[Any]) -> NDArray[np.float64]:
    """Levels [..., 3 or more], red, green and blue first -> float64 [...] on the same scale, not rounded."""
    return rgb[..., :3].astype(np.float64) @ np.array(_BT601)


def scale(levels: NDArray[Any], black: float, white: float) -> Gray:
    """Levels [...] from `black`, which becomes 0, to `white`, which becomes 255 -> uint8 [...], rounded.
    `black` may be the larger one: the image is inverted. What lies outside becomes black or white."""
    gray = np.empty(levels.shape, dtype=np.uint8)
    if black == white:
        gray[:] = 0
        return gray
    for some, target in blocks(levels, gray):
        part = (some.astype(np.float64) - black) * (255 / (white - black))
        target[:] = np.rint(part).clip(0, 255)
    return gray


def scale_range(levels: NDArray[Any]) -> Gray:
    """Levels whose white nobody states: 1 for fractions, 65,535 for what fits into 16 bits, else the
    image's own range is stretched. Raises BadImageError for levels that are no numbers."""
    low, high = float(levels.min()), float(levels.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise BadImageError(ReasonCode.DAMAGED, "some gray levels are not finite numbers")
    if low >= 0 and high <= 1:
        return scale(levels, 0, 1)
    if low >= 0 and high <= 65535:
        return scale(levels, 0, 65535)
    return scale(levels, low, high)


def blocks(levels: NDArray[Any], gray: Gray) -> Iterator[tuple[NDArray[Any], Gray]]:
    """The same rows of both, about BLOCK levels at a time."""
    rows = max(1, BLOCK * len(levels) // max(levels.size, 1)) if levels.ndim else 1
    for row in range(0, len(levels), rows):
        yield levels[row : row + rows], gray[row : row + rows]


# Pillow's own threshold against decompression bombs.
MAX_PIXELS = 89_478_485


class BadImageError(Exception):
    """The bytes give no image."""

    def __init__(self, code: ReasonCode, detail: str) -> None:
        self.reason = Reason.of(code, detail)
        super().__init__(self.reason.text)


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises BadImageError when there are more pixels than `max_pixels`: to be asked before any is decoded."""
    if width * height > max_pixels:
        raise BadImageError(ReasonCode.TOO_LARGE, f"{width} x {height} pixels, over the limit of {max_pixels:,}")
