"""Heat over a picture: a small transparent image in the picture's own shape, which a browser lays over it."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_core.images.preprocessing import Preprocessing
from resnet_core.plotting.canvas import colored
from resnet_core.plotting.thumbnails import without_bars

_SIDE = 64  # pixels of the longer side: the network's own map has 4 to 12 cells


def overlay(heat: NDArray[np.float32], settings: Preprocessing, size: tuple[int, int]) -> tuple[bytes, tuple[int, int]]:
    """Return heat [S, S], 0 to 1, as it lies on an image: a WebP, and its size. size: width and height of the image."""
    width, height = size
    scale = _SIDE / max(width, height)
    across, down = max(1, round(width * scale)), max(1, round(height * scale))
    if settings.resize == "fit":
        laid = _resized(without_bars(heat, width, height), across, down)
    elif settings.resize == "crop":  # the middle square; nothing was seen of the rest
        side = min(across, down)
        laid = np.zeros((down, across), np.float32)
        top, left = (down - side) // 2, (across - side) // 2
        laid[top : top + side, left : left + side] = _resized(heat, side, side)
    else:
        laid = _resized(heat, across, down)
    colour, opacity = colored(laid)
    buffer = io.BytesIO()
    pixels = np.concatenate([colour, 255 * opacity], 2)
    Image.fromarray((pixels + 0.5).astype(np.uint8)).save(buffer, "WEBP", quality=60, alpha_quality=80, method=4)
    return buffer.getvalue(), (across, down)


def _resized(heat: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    return np.asarray(Image.fromarray(heat).resize((width, height), Image.Resampling.BICUBIC))
