"""An image file's bytes -> gray levels, the whole image, decoded in full.

Luma is ITU-R BT.601 on the file's own (gamma-encoded) levels: 0.299 R + 0.587 G + 0.114 B, what JPEG
stores and what Pillow's mode "L" is. The first page or frame of several is taken; orientation by
EXIF is applied; what is transparent lies over a background level; more than 8 bits are scaled to
0..255, never clipped.
"""

import ctypes
import io
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from resnet_core.preprocessing import Gray

Reason = Literal["empty", "unsupported", "truncated", "too large", "unreadable"]

# Pillow's own threshold against decompression bombs.
MAX_PIXELS = 89_478_485


class BadImageError(Exception):
    """The bytes give no image: `reason` is one of a closed list, `detail` the decoder's own words."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def decode(data: bytes, *, background: int = 0, max_pixels: int = MAX_PIXELS) -> Gray:
    """Any format that Pillow reads -> uint8 [H, W]. Raises BadImageError, and nothing else."""
    if not data:
        raise BadImageError("empty", "the file has 0 bytes")
    silence_libtiff()
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise BadImageError("too large", f"{width} x {height} pixels, over the limit of {max_pixels:,}")
            # A JPEG decoder can leave out the colours: luma is stored apart. Others ignore this.
            image.draft("L", image.size)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return to_gray(image, background)
    except BadImageError:
        raise
    except UnidentifiedImageError:
        raise BadImageError("unsupported", "no image format that is known begins like this") from None
    except Image.DecompressionBombError as error:
        raise BadImageError("too large", str(error)) from None
    except Exception as error:  # noqa: BLE001 a decoder fed with damaged bytes may raise anything
        reason: Reason = "truncated" if "truncated" in str(error).lower() else "unreadable"
        raise BadImageError(reason, f"{error or type(error).__name__}") from None


@cache
def silence_libtiff() -> None:
    """Damaged TIFFs make libtiff print to the process's stderr, thousands of lines, past Python. What
    matters is in the exception anyway. Only the library that Pillow's wheels bundle is reached."""
    packages = Path(PIL.__file__).parents[1]
    for place in ("pillow.libs/libtiff*", "PIL/.dylibs/libtiff*"):
        for library in packages.glob(place):
            libtiff = ctypes.CDLL(str(library))
            libtiff.TIFFSetErrorHandler(None)
            libtiff.TIFFSetWarningHandler(None)


def to_gray(image: Image.Image, background: int) -> Gray:
    """A loaded image of any mode -> uint8 [H, W]."""
    if image.mode == "L" and not image.has_transparency_data:
        return np.array(image)
    if image.mode.startswith("I;16"):
        return scale(np.asarray(image).astype(np.float64), 65535)
    if image.mode in ("I", "F"):
        return scale_range(np.asarray(image).astype(np.float64))
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        under = Image.new("RGBA", image.size, (background, background, background, 255))
        return np.array(Image.alpha_composite(under, layers).convert("L"))
    if image.mode not in ("1", "RGB", "L"):
        image = image.convert("RGB")
    return np.array(image.convert("L"))


def scale(levels: NDArray[np.float64], white: float) -> Gray:
    """Levels from 0 to `white` -> uint8, rounded."""
    return np.rint(np.clip(levels, 0, white) * (255 / white)).astype(np.uint8)


def scale_range(levels: NDArray[np.float64]) -> Gray:
    """Levels whose white nobody states: 1 for fractions, 65,535 for what fits into 16 bits, else the
    image's own range is stretched. Raises BadImageError for levels that are no numbers."""
    low, high = float(levels.min()), float(levels.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise BadImageError("unreadable", "some gray levels are not finite numbers")
    if low >= 0 and high <= 1:
        return scale(levels, 1)
    if low >= 0 and high <= 65535:
        return scale(levels, 65535)
    return scale(levels - low, high - low)
