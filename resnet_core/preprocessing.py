"""Gray levels of any size -> the square the model sees: the one function of training and scoring.

Its settings are written into every shard and into every model, so that a model is never fed pixels
that were made in another way than those it learned from.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray
from PIL import Image

Resize = Literal["squash", "fit", "crop"]
Gray = NDArray[np.uint8]


@dataclass(frozen=True)
class Preprocessing:
    """`size`: the side in pixels. `resize`: `squash` ignores the aspect ratio, `fit` keeps all of
    the image and pads with `background`, `crop` keeps the middle square. `background`: the gray
    level (0 to 255) behind transparent pixels and around a fitted image."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    size: Annotated[int, Ge(8), Le(1024)] = 96
    resize: Resize = "squash"
    background: Annotated[int, Ge(0), Le(255)] = 0


def resize(gray: Gray, settings: Preprocessing) -> Gray:
    """uint8 [H, W] -> uint8 [size, size], by Pillow's bilinear filter, which averages when it shrinks."""
    height, width = gray.shape
    size = settings.size
    if (height, width) == (size, size):
        return gray
    image = Image.fromarray(gray)
    match settings.resize:
        case "squash":
            image = image.resize((size, size), Image.Resampling.BILINEAR)
        case "crop":
            side = min(width, height)
            left, top = (width - side) / 2, (height - side) / 2
            box = (left, top, left + side, top + side)
            image = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
        case "fit":
            scale = size / max(width, height)
            fitted = (max(1, round(width * scale)), max(1, round(height * scale)))
            canvas = Image.new("L", (size, size), settings.background)
            canvas.paste(
                image.resize(fitted, Image.Resampling.BILINEAR),
                ((size - fitted[0]) // 2, (size - fitted[1]) // 2),
            )
            image = canvas
    return np.asarray(image)
