"""Gray levels: bring levels of any depth and color to 8 bits, the same way for every decoder.

Luma is ITU-R BT.601 on the file's own (gamma-encoded) levels, as in JPEG and in Pillow's mode "L".
More than 8 bits are scaled to 0..255, never clipped.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_core.reasons import Reason, ReasonCode

Gray = NDArray[np.uint8]

_BT601 = (0.299, 0.587, 0.114)
_BLOCK = 2**20  # levels scaled at a time: float copies of a large image would take eight times its size


class BadImageError(Exception):
    """The bytes give no image."""

    def __init__(self, code: ReasonCode, detail: str) -> None:
        self.reason = Reason.of(code, detail)
        super().__init__(self.reason.text)


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise BadImageError for more pixels than `max_pixels`; called before any pixel is decoded."""
    if width * height > max_pixels:
        raise BadImageError(ReasonCode.TOO_LARGE, f"{width} x {height} pixels, over the limit of {max_pixels:,}")


def luma(rgb: NDArray[Any]) -> NDArray[np.float64]:
    """Levels [..., 3 or more], red, green and blue first -> float64 [...] on the same scale, not rounded."""
    return rgb[..., :3].astype(np.float64) @ np.array(_BT601)


def scale(levels: NDArray[Any], black: float, white: float) -> Gray:
    """Levels [...] -> uint8 [...], rounded: `black` becomes 0, `white` 255, and levels beyond are clipped.

    If `black` is the larger one, the image is inverted.
    """
    gray = np.empty(levels.shape, dtype=np.uint8)
    if black == white:
        gray[:] = 0
        return gray
    for source, target in _blocks(levels, gray):
        scaled = (source.astype(np.float64) - black) * (255 / (white - black))
        target[:] = np.rint(scaled).clip(0, 255)
    return gray


def scale_range(levels: NDArray[Any]) -> Gray:
    """Scale levels [...] whose white is not stated.

    White is 1 for fractions and 65,535 for levels that fit into 16 bits. Other levels are stretched from their
    minimum to their maximum. Raises BadImageError for levels that are not finite.
    """
    low, high = float(levels.min()), float(levels.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise BadImageError(ReasonCode.DAMAGED, "some gray levels are not finite numbers")
    if low >= 0 and high <= 1:
        return scale(levels, 0, 1)
    if low >= 0 and high <= 65535:
        return scale(levels, 0, 65535)
    return scale(levels, low, high)


def _blocks(levels: NDArray[Any], gray: Gray) -> Iterator[tuple[NDArray[Any], Gray]]:
    """Yield the same rows of both arrays, about _BLOCK levels at a time."""
    rows = max(1, _BLOCK * len(levels) // max(levels.size, 1)) if levels.ndim else 1
    for row in range(0, len(levels), rows):
        yield levels[row : row + rows], gray[row : row + rows]
