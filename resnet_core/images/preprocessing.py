"""Gray levels of any size -> the square the model sees: the one function of training and scoring.

Its settings are written into every shard and into every model, so that a model is never fed pixels
that were made in another way than those it learned from.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Le

from resnet_core.images.bilinear import Box, bilinear
from resnet_core.images.bilinear import Gray as Gray

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
