"""Preprocessing: gray levels of any size to the square that the model sees, for training and scoring alike.

Its settings are part of every shard and every model: a model never gets pixels made in another way.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray
from PIL import Image

from resnet_core.images.levels import Decided, Percentiles, Rule, Setting

Gray = NDArray[np.uint8]
Box = tuple[float, float, float, float]  # left, top, right, bottom, in source pixels

_LARGE = 2**15  # source pixels; below it, Pillow is as fast
BLOCK = 8  # target pixels
_WORK = 2**18  # multiplications in one product; OpenBLAS starts threads above it
ONE = 2**16


class Bands(NamedTuple):
    """Weights of `target` pixels: block b is `weights[b]` [K, BLOCK] times the K source pixels from `starts[b]` on."""

    target: int
    starts: tuple[int, ...]
    weights: NDArray[np.float32]  # [B, K, BLOCK]


def bilinear(levels: Gray, width: int, height: int, box: Box | None = None) -> Gray:
    """Resize uint8 [H, W], or the part of it in `box`, to uint8 [height, width] by a triangle filter."""
    rows, columns = levels.shape
    left, top, right, bottom = box or (0, 0, columns, rows)
    if (right - left) * (bottom - top) < _LARGE or right - left < 2 * width or bottom - top < 2 * height:
        image = Image.fromarray(levels).resize((width, height), Image.Resampling.BILINEAR, box=box)
        return np.asarray(image)
    (first, last), (upper, lower) = _around(left, right, width, columns), _around(top, bottom, height, rows)
    levels = levels[upper:lower, first:last]
    across = bands(last - first, width, left - first, right - first)
    down = bands(lower - upper, height, top - upper, bottom - upper)
    if rows - height > 2 * (columns - width):  # the order of Pillow 13, which shows in the rounding between
        return _shrink_rows(_shrink_rows(levels.T, down).T, across)
    return np.ascontiguousarray(_shrink_rows(_shrink_rows(levels, across).T, down).T)


def _around(start: float, stop: float, target: int, source: int) -> tuple[int, int]:
    """Return the range of source pixels under `target` pixels between `start` and `stop`, with a margin."""
    margin = (stop - start) / target + 1
    return max(int(start - margin), 0), min(int(stop + margin) + 1, source)


def _shrink_rows(levels: Gray, across: Bands) -> Gray:
    """Shrink every row: uint8 [R, N] -> uint8 [R, target]."""
    blocks, source, _ = across.weights.shape
    at_once = min(max(1, _WORK // (source * BLOCK)), len(levels))
    shrunk = np.empty((len(levels), across.target), dtype=np.uint8)
    sums = np.empty((at_once, blocks * BLOCK), dtype=np.float32)
    floats = np.empty_like(levels[:at_once], dtype=np.float32)  # once: the system clears the pages of each new array
    for row in range(0, len(levels), at_once):
        some = levels[row : row + at_once]
        source_rows, shrunk_rows = floats[: len(some)], sums[: len(some)]
        source_rows[...] = some
        for block, start in enumerate(across.starts):
            place = slice(block * BLOCK, (block + 1) * BLOCK)
            np.matmul(source_rows[:, start : start + source], across.weights[block], out=shrunk_rows[:, place])
        shrunk_rows += 0.5
        shrunk[row : row + at_once] = shrunk_rows[:, : across.target]  # the cast truncates: rounded half up
    return shrunk


@lru_cache(maxsize=256)
def bands(source: int, target: int, start: float, stop: float) -> Bands:
    """Return the triangle filter's weights for `target` pixels over the source pixels from `start` to `stop`."""
    scale = (stop - start) / target  # source pixels per target pixel, 2 or more
    centers = start + (np.arange(target) + 0.5) * scale
    low = np.maximum((centers - scale + 0.5).astype(np.int64), 0)
    high = np.minimum((centers + scale + 0.5).astype(np.int64), source)
    taps = low[:, None] + np.arange((high - low).max())
    weights = np.maximum(1 - np.abs(taps - centers[:, None] + 0.5) / scale, 0)
    weights[taps >= high[:, None]] = 0
    whole = np.rint(weights / weights.sum(1, keepdims=True) * ONE)
    # The largest weight takes up the rounding of the others, so that a plain surface keeps its level.
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
_Beyond = Literal["fail", "clip"]
NO_KEY = {"key": False}  # metadata of a field that no data set file may set


@dataclass(frozen=True)
class Preprocessing:
    """The settings that turn an image into the model's square.

    size: the side, in pixels.
    resize: `squash` ignores the aspect ratio, `fit` pads with `background`, `crop` keeps the middle square.
    background: the gray level (0 to 255) behind transparent pixels and around a fitted image.
    decode: `exact` decodes every pixel, `fast` omits the finest detail of a JPEG much larger than `size`.
    levels: the gray levels that become black and white, of images that do not say (`resnet_core.images.levels`).
    beyond: `fail` refuses an image with levels beyond that range, `clip` clips them.
    decided: the data set's ranges, never set by hand; None for versions of releases that scaled each file by itself.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    size: Annotated[int, Ge(8), Le(1024)] = 96
    resize: Resize = "squash"
    background: Annotated[int, Ge(0), Le(255)] = 0
    decode: Decode = "exact"
    levels: Setting = None
    beyond: _Beyond = "fail"
    decided: Decided | None = field(default=Decided(), metadata=NO_KEY)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Preprocessing":
        """Make the settings of their JSON. Raises TypeError for unknown keys."""
        decided, levels = content.get("decided"), content.get("levels")
        if decided is not None:
            decided = Decided.of(decided)
        if isinstance(levels, Mapping):
            levels = Percentiles(tuple(levels["percentiles"]))
        elif isinstance(levels, list):
            levels = tuple(levels)
        return cls(**{**content, "levels": levels, "decided": decided})

    def same_pixels(self, other: "Preprocessing") -> bool:
        """Return whether both make the same pixels, by the releases' rules, of a data set's images.

        Without a decision all images say themselves which level is white, and older releases read them alike.
        """
        return self._with_rule() == other._with_rule()

    def _with_rule(self) -> "Preprocessing":
        return replace(self, decided=Decided()) if self.decided is None else self

    @cached_property
    def rule(self) -> Rule:
        return Rule(self.levels, self.beyond == "clip", self.decided, self.background)


def resize(gray: Gray, settings: Preprocessing, box: Box | None = None) -> Gray:
    """Resize uint8 [H, W], or the part of it in `box`, to uint8 [size, size]."""
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
