"""How images look, in three numbers each: what data checks compare from night to night."""

import numpy as np
from numpy.typing import NDArray

# Levels worked on at a time: their copies stay in the processor's cache.
AT_ONCE = 2**15


def measure(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """uint8 [N, H, W], 3 pixels or more a side -> float64 [3, N]: brightness, contrast and sharpness,
    that is the mean, the standard deviation and the mean absolute Laplacian, in levels.

    In whole numbers up to the last division: the same everywhere, and an even image has a contrast of
    exactly 0.
    """
    count, height, width = pixels.shape
    found = np.empty((3, count))
    step = max(1, AT_ONCE // (height * width))
    for start in range(0, count, step):
        some = slice(start, start + step)
        found[:, some] = _measure(pixels[some])
    return found


def _measure(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float64], ...]:
    count, height, width = pixels.shape
    area = height * width
    levels = pixels.reshape(count, area).astype(np.float64)  # whole numbers up to 2^53
    total = levels.sum(axis=1).astype(np.int64)
    squares = np.einsum("ij,ij->i", levels, levels).astype(np.int64)
    signed = pixels.astype(np.int16)
    laplacian = 4 * signed[:, 1:-1, 1:-1]
    for neighbours in (signed[:, :-2, 1:-1], signed[:, 2:, 1:-1], signed[:, 1:-1, :-2], signed[:, 1:-1, 2:]):
        laplacian -= neighbours
    curved = np.abs(laplacian, out=laplacian).reshape(count, -1).mean(axis=1)
    return total / area, np.sqrt(area * squares - total * total) / area, curved
