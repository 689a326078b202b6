"""Gray levels of any size -> the square the model sees: the one function of training and scoring.

Its settings are written into every shard and into every model, so that a model is never fed pixels
that were made in another way than those it learned from.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray
from PIL import Image

Gray = NDArray[np.uint8]
Box = tuple[float, float, float, float]  # left, top, right, bottom, in source pixels

# Below that, Pillow is as fast.
_LARGE = 2**15  # source pixels
BLOCK = 8  # target pixels
# Multiplications in one product: OpenBLAS starts threads above 2**18, and slower ones above 2**20.
WORK = 2**18
ONE = 2**16


class Bands(NamedTuple):
    """`target` pixels from `weights[b]` [K, BLOCK] times the K source pixels from `starts[b]` on, for each block b."""

    target: int
    starts: tuple[int, ...]
    weights: NDArray[np.float32]  # [B, K, BLOCK]


def bilinear(levels: Gray, width: int, height: int, box: Box | None = None) -> Gray:
    """uint8 [H, W], or the part of it in `box`, -> uint8 [height, width]."""
    rows, columns = levels.shape
    left, top, right, bottom = box or (0, 0, columns, rows)
    if (right - left) * (bottom - top) < _LARGE or right - left < 2 * width or bottom - top < 2 * height:
        image = Image.fromarray(levels).resize((width, height), Image.Resampling.BILINEAR, box=box)
        return np.asarray(image)
    (first, last), (upper, lower) = around(left, right, width, columns), around(top, bottom, height, rows)
    levels = levels[upper:lower, first:last]
    across = bands(last - first, width, left - first, right - first)
    down = bands(lower - upper, height, top - upper, bottom - upper)
    if rows - height > 2 * (columns - width):  # as Pillow does since version 13: the rounding between shows
        return _shrink_rows(_shrink_rows(levels.T, down).T, across)
    return np.ascontiguousarray(_shrink_rows(_shrink_rows(levels, across).T, down).T)


def around(start: float, stop: float, target: int, source: int) -> tuple[int, int]:
    """The source pixels that `target` pixels between `start` and `stop` see, and a few more."""
    seen = (stop - start) / target + 1
    return max(int(start - seen), 0), min(int(stop + seen) + 1, source)


def _shrink_rows(levels: Gray, across: Bands) -> Gray:
    """uint8 [R, N] -> uint8 [R, target], each row on its own."""
    blocks, source, _ = across.weights.shape
    at_once = max(1, WORK // (source * BLOCK))
    shrunk = np.empty((len(levels), across.target), dtype=np.uint8)
    sums = np.empty((min(at_once, len(levels)), blocks * BLOCK), dtype=np.float32)
    for row in range(0, len(levels), at_once):
        some = levels[row : row + at_once].astype(np.float32)
        found = sums[: len(some)]
        for block, start in enumerate(across.starts):
            place = slice(block * BLOCK, (block + 1) * BLOCK)
            np.matmul(some[:, start : start + source], across.weights[block], out=found[:, place])
        found += 0.5
        shrunk[row : row + at_once] = found[:, : across.target]  # the cast cuts off: rounded half up
    return shrunk


@lru_cache(maxsize=256)
def bands(source: int, target: int, start: float, stop: float) -> Bands:
    """The triangle's weights for `target` pixels that share the source pixels from `start` to `stop` evenly."""
    scale = (stop - start) / target  # source pixels a target pixel, 2 or more
    centres = start + (np.arange(target) + 0.5) * scale
    low = np.maximum((centres - scale + 0.5).astype(np.int64), 0)
    high = np.minimum((centres + scale + 0.5).astype(np.int64), source)
    taps = low[:, None] + np.arange((high - low).max())
    weights = np.maximum(1 - np.abs(taps - centres[:, None] + 0.5) / scale, 0)
    weights[taps >= high[:, None]] = 0
    whole = np.rint(weights / weights.sum(1, keepdims=True) * ONE)
    # What rounding took from a pixel's weights the largest gets back: a plain surface stays as it was.
    whole[np.arange(target), whole.argmax(1)] += ONE - whole.sum(1)

    starts = low[::BLOCK]
    width = int((high[np.minimum(np.arange(len(starts)) * BLOCK + BLOCK, target) - 1] - starts).max())
    starts = np.minimum(starts, source - width)
    blocks = np.zeros((len(starts), width, BLOCK), dtype=np.float32)
    pixel, tap = np.nonzero(whole)
    block = pixel // BLOCK
    blocks[block, taps[pixel, tap] - starts[block], pixel % BLOCK] = whole[pixel, tap] / ONE
    return Bands(target, tuple(starts.tolist()), blocks)


Resize = Literal["squash", "fit", "crop"]
Decode = Literal["exact", "fast"]


@dataclass(frozen=True)
class Preprocessing:
    """`size`: the side in pixels. `resize`: `squash` ignores the aspect ratio, `fit` keeps all of
    the image and pads with `background`, `crop` keeps the middle square. `background`: the gray
    level (0 to 255) behind transparent pixels and around a fitted image. `decode`: `exact` decodes
    every pixel, `fast` leaves out the finest detail of a JPEG much larger than `size`."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    size: Annotated[int, Ge(8), Le(1024)] = 96
    resize: Resize = "squash"
    background: Annotated[int, Ge(0), Le(255)] = 0
    decode: Decode = "exact"


def resize(gray: Gray, settings: Preprocessing, box: Box | None = None) -> Gray:
    """uint8 [H, W], or the part of it in `box`, -> uint8 [size, size], by a bilinear filter that averages
    when it shrinks."""
    size = settings.size
    if box is None and gray.shape == (size, size):
        return gray
    left, top, right, bottom = box = box or (0, 0, gray.shape[1], gray.shape[0])
    width, height = right - left, bottom - top
    match settings.resize:
        case "squash":
            return bilinear(gray, size, size, box)
        case "crop":
            side = min(width, height)
            left, top = left + (width - side) / 2, top + (height - side) / 2
            return bilinear(gray, size, size, (left, top, left + side, top + side))
        case "fit":
            scale = size / max(width, height)
            columns, rows = max(1, round(width * scale)), max(1, round(height * scale))
            left, top = (size - columns) // 2, (size - rows) // 2
            square = np.full((size, size), settings.background, dtype=np.uint8)
            square[top : top + rows, left : left + columns] = bilinear(gray, columns, rows, box)
            return square
