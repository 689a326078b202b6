"""An image file's bytes -> gray levels, of any format: JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF, JPEG 2000, PNM, DICOM.

The first page or frame of several is taken; orientation by EXIF is applied; what is transparent lies
over a background level. What luma is, and how more than 8 bits become 8, stands in `levels.py`.

Pillow decides what an image is. `jpeg.py` and `png.py` do the common files faster, `dicom.py` those that
Pillow does not know. Pillow and `jpeg.py` let go of the GIL while they decode. Nothing is decoded, nor
room made for it, before the size that the file's header states is known to be within the limit.
"""

import ctypes
import io
import logging
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import PIL
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from resnet_core.images import _codecs as jpeg
from resnet_core.images import _codecs as png
from resnet_core.images import _dicom as dicom
from resnet_core.images._levels import MAX_PIXELS as MAX_PIXELS
from resnet_core.images._levels import BadImageError as BadImageError
from resnet_core.images._levels import Gray, check_size, scale, scale_range
from resnet_core.images._levels import luma as luma
from resnet_core.images.preprocessing import Box, Preprocessing, resize
from resnet_core.reasons import ReasonCode

# No plugin that runs another program (EPS), or that takes anything for an image (TGA).
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "AVIF", "JPEG2000", "PPM")
_JPEGS = ("JPEG", "MPO")
# What Pillow's plugins and struct say of a file that ends too early.
_TOO_SHORT = ("truncated", "incomplete", "requires a buffer", "but only got", "eof", "not enough image data")
# Without a handler of the application's, Python would print what Pillow logs of damaged files to stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())

_FINER = 2  # `fast` decodes a JPEG no coarser than to this many times the wanted size


@dataclass(frozen=True)
class _Square:
    """`pixels`: uint8 [size, size]; `width` and `height` are those of the whole image, upright."""

    pixels: Gray
    width: int
    height: int


@dataclass(frozen=True)
class _Decoded:
    """`levels`: uint8 [H, W], upright. A JPEG decoded smaller than it is covers `box` of them, which may
    end within a pixel; else `box` is all of them. `width` and `height` are the whole image's."""

    levels: Gray
    box: Box
    width: int
    height: int


def decode_square(data: bytes, settings: Preprocessing, max_pixels: int = MAX_PIXELS) -> _Square:
    """A file's bytes -> the square that the model sees. Raises BadImageError, and nothing else."""
    found = _decode_any(data, settings.background, max_pixels, settings if settings.decode == "fast" else None)
    pixels = resize(found.levels, settings, found.box)
    return _Square(pixels, found.width, found.height)


def decode(data: bytes, *, background: int = 0, max_pixels: int = MAX_PIXELS) -> Gray:
    """A file's bytes -> uint8 [H, W], every pixel. Raises BadImageError, and nothing else."""
    return np.array(_decode_any(data, background, max_pixels, None).levels, order="C")


def _decode_any(data: bytes, background: int, max_pixels: int, target: Preprocessing | None) -> _Decoded:
    """`target`: what a JPEG may be decoded smaller for; None: every pixel counts."""
    if not data:
        raise BadImageError(ReasonCode.EMPTY, "the file has 0 bytes")
    try:
        if dicom.is_dicom(data):
            return whole(dicom.decode_dicom(data, max_pixels))
        if data.startswith(png.SIGNATURE) and (gray := png.decode_png(data, max_pixels)) is not None:
            return whole(gray)
        return _decode_by_pillow(data, background, max_pixels, target)
    except BadImageError:
        raise
    except UnidentifiedImageError:
        raise _unidentified(data) from None
    except Image.DecompressionBombError as error:
        raise BadImageError(ReasonCode.TOO_LARGE, str(error)) from None
    except MemoryError:
        raise BadImageError(ReasonCode.TOO_LARGE, "decoding needs more memory than there is") from None
    except Exception as error:  # noqa: BLE001 a decoder fed with damaged bytes may raise anything
        words = str(error) or type(error).__name__
        raise BadImageError(_code_of(words), words) from None


def _unidentified(data: bytes) -> BadImageError:
    """What the plugin says whose format the file begins like: Pillow itself only says that none took it."""
    prefix = data[:16].ljust(16, b"\0")
    for name in FORMATS:
        factory, accepts = Image.OPEN[name]
        if accepts and accepts(prefix) is True:
            try:
                factory(io.BytesIO(data), "")
            except Exception as error:  # noqa: BLE001 any of those that made Pillow try the next format
                words = f"{name}: {str(error) or type(error).__name__}"
                return BadImageError(ReasonCode.UNSUPPORTED if "unknown" in words else _code_of(words), words)
    return BadImageError(ReasonCode.UNSUPPORTED, "no image format that is known begins like this")


def _code_of(words: str) -> ReasonCode:
    """From a decoder's words."""
    return ReasonCode.TRUNCATED if any(sign in words.lower() for sign in _TOO_SHORT) else ReasonCode.DAMAGED


def whole(levels: Gray) -> _Decoded:
    height, width = levels.shape
    return _Decoded(levels, (0, 0, width, height), width, height)


def _decode_by_pillow(data: bytes, background: int, max_pixels: int, target: Preprocessing | None) -> _Decoded:
    _silence_libtiff()
    if data[8:12] == b"WEBP":
        check_size(*_webp_size(data), max_pixels)
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        check_size(width, height, max_pixels)
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            _check_tiles(image, max_pixels)
        shrink = _shrinkage(width, height, target) if target and image.format in _JPEGS else 1
        levels = jpeg.decode_luma(data, shrink) if image.format in _JPEGS else None
        if levels is None:
            image.draft("L", (max(1, width // shrink), max(1, height // shrink)))
            image.load()
            levels = _to_gray(image, background)
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    turned, box = _upright(levels, (0, 0, width / shrink, height / shrink), orientation)
    if orientation in (5, 6, 7, 8):
        width, height = height, width
    return _Decoded(turned, box, width, height)


def _shrinkage(width: int, height: int, target: Preprocessing) -> int:
    """The power of two that both sides of an image can be divided by and still be FINER times what is wanted."""
    side = max(width, height) if target.resize == "fit" else min(width, height)
    return 2 ** min(3, max(0, math.floor(math.log2(side / (_FINER * target.size)))))


def _upright(levels: Gray, box: Box, orientation: int) -> tuple[Gray, Box]:
    """A view of uint8 [H, W] as EXIF's orientation (1 to 8) wants it, and where in it the box then lies."""
    left, top, right, bottom = box
    if orientation in (5, 6, 7, 8):
        levels, (left, top, right, bottom) = levels.T, (top, left, bottom, right)
    height, width = levels.shape
    if orientation in (2, 3, 6, 7):
        levels, (left, right) = levels[:, ::-1], (width - right, width - left)
    if orientation in (3, 4, 7, 8):
        levels, (top, bottom) = levels[::-1], (height - bottom, height - top)
    return levels, (left, top, right, bottom)


def _to_gray(image: Image.Image, background: int) -> Gray:
    """A loaded image of any mode -> uint8 [H, W]."""
    if image.mode == "L" and not image.has_transparency_data:
        return np.asarray(image)
    if image.mode.startswith("I;16"):
        return _deep(image, background)
    if image.mode == "I" and image.format == "PPM":  # whose levels Pillow has brought to 16 bits
        return scale(np.asarray(image), 0, 65535)
    if image.mode in ("I", "F"):
        return scale_range(np.asarray(image))
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        under = Image.new("RGBA", image.size, (background, background, background, 255))
        return np.asarray(Image.alpha_composite(under, layers).convert("L"))
    if image.mode not in ("1", "RGB", "L"):
        image = image.convert("RGB")
    return np.asarray(image.convert("L"))


def _deep(image: Image.Image, background: int) -> Gray:
    """12 or 16 bits a pixel -> uint8 [H, W]; Pillow hands out the levels as they are stored."""
    levels = np.asarray(image)
    black, white = 0, 65535
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        white = 2 ** image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0] - 1
        if image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:  # white is zero
            black, white = white, black
    gray = scale(levels, black, white)
    transparent = image.info.get("transparency")
    return gray if transparent is None else np.where(levels == transparent, np.uint8(background), gray)


def _check_tiles(image: TiffImagePlugin.TiffImageFile, max_pixels: int) -> None:
    """A small image may be cut out of a tile that is none: libtiff would make room for all of it."""
    width, length = (image.tag_v2.get(tag, 0) for tag in (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH))
    check_size(int(width), int(length), max_pixels)


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height of the canvas. Pillow makes room for it twice before it tells."""
    kind, start = data[12:16], 20
    if kind == b"VP8X":
        return little(data, start + 4, 3) + 1, little(data, start + 7, 3) + 1
    if kind == b"VP8L":
        bits = little(data, start + 1, 4)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return little(data, start + 6, 2) & 0x3FFF, little(data, start + 8, 2) & 0x3FFF


def little(data: bytes, start: int, length: int) -> int:
    return int.from_bytes(data[start : start + length], "little")


@cache
def _silence_libtiff() -> None:
    """Damaged TIFFs make libtiff print to the process's stderr, thousands of lines, past Python. What
    matters is in the exception anyway. Only the library that Pillow's wheels bundle is reached."""
    packages = Path(PIL.__file__).parents[1]
    for place in ("pillow.libs/libtiff*", "PIL/.dylibs/libtiff*"):
        for library in packages.glob(place):
            libtiff = ctypes.CDLL(str(library))
            libtiff.TIFFSetErrorHandler(None)
            libtiff.TIFFSetWarningHandler(None)
