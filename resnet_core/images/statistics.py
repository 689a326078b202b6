"""Statistics of pixels: brightness, contrast and sharpness, which data checks compare, and a perceptual hash."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

# PDQ (Davis & Rosen 2019, github.com/facebook/ThreatExchange, pdq/) hashes an image of 64 x 64 pixels.
# It takes a bit from each of 16 x 16 cosine coefficients. Only the half of lowest frequency is kept, the lowest
# first: a crop of 2% flips a quarter of the other bits.
# A test compares the bits with the authors' library, which must be compiled and takes ten times as long.
HASH_BYTES = 16
_PDQ_SIDE = 64
_COSINES = (
    np.sqrt(2 / _PDQ_SIDE) * np.cos(np.pi / 128 * np.arange(1, 17)[:, None] * (2 * np.arange(_PDQ_SIDE) + 1))
).astype(np.float32)  # [16, 64]
_LOWEST = np.argsort(np.add.outer(np.arange(16), np.arange(16)).ravel(), kind="stable")[: 8 * HASH_BYTES]


def perceptual_hash(pixels: Pixels) -> bytes:
    """uint8 [size, size] -> HASH_BYTES bytes; for a flat image they are rounding noise."""
    if pixels.shape != (_PDQ_SIDE, _PDQ_SIDE):
        pixels = np.asarray(Image.fromarray(pixels).resize((_PDQ_SIDE, _PDQ_SIDE), Image.Resampling.BILINEAR))
    coefficients = (_COSINES @ pixels.astype(np.float32) @ _COSINES.T).ravel()
    median = np.partition(coefficients, 127)[127]
    return np.packbits(coefficients[_LOWEST] > median).tobytes()


_AT_ONCE = 2**15  # levels; their copies stay in the processor's cache


def measure(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """uint8 [N, H, W], 3 pixels or more a side -> float64 [3, N]: brightness, contrast and sharpness, in levels.

    They are the mean, the standard deviation and the mean absolute Laplacian. All steps before the last division are
    in integers: results are the same everywhere, and a plain image has a contrast of exactly 0.
    """
    count, height, width = pixels.shape
    measures = np.empty((3, count))
    step = max(1, _AT_ONCE // (height * width))
    for start in range(0, count, step):
        images = slice(start, start + step)
        measures[:, images] = _measure(pixels[images])
    return measures


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
