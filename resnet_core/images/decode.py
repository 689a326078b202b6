"""Decode an image file to gray levels.

Formats: JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF, JPEG 2000, PNM, DICOM; of several pages or frames, the first.
EXIF's orientation is applied. Transparent pixels are blended with a background level.

`_png` leaves out all but pixels. `_codecs` decodes common files faster; it, `_tiff` and `_dicom` decode what Pillow
lacks or spoils. docs/formats.md has the table. Nothing is decoded or allocated before the size in the file's header
has been compared with the limit.
"""

import ctypes
import io
import logging
import math
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from resnet_core.images import _png
from resnet_core.images._codecs import (
    Layers,
    decode_deep_jpeg,
    decode_deep_jpeg2000,
    decode_luma,
    exif_orientation,
    is_jpeg2000,
    webp_size,
)
from resnet_core.images._dicom import decode_dicom, is_dicom
from resnet_core.images._foreign import code_of_foreign, name_foreign
from resnet_core.images._tiff import decode_tiff, is_tiff, is_trusted, plain_levels, said_by
from resnet_core.images.levels import BadImageError, Gray, Rule, Stored, check_size, depth, to_gray
from resnet_core.images.limits import MAX_PIXELS
from resnet_core.images.preprocessing import Box, Preprocessing, resize
from resnet_core.reasons import ReasonCode

# Without plugins that run another program (EPS) or accept any bytes (TGA).
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "AVIF", "JPEG2000", "PPM")
_JPEGS = ("JPEG", "MPO")
# Messages of Pillow's plugins and of struct for a file that ends too early.
_TOO_SHORT = ("truncated", "incomplete", "requires a buffer", "but only got", "eof", "not enough image data")
# Without a handler, Python prints Pillow's warnings about damaged files to stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())

_FINER = 2  # `fast` decodes a JPEG to at least this many times the target size


class _Decoded(NamedTuple):
    """`pixels`: uint8 [H, W], upright. `width` and `height`: of the whole image.

    The image covers `box` of the pixels; in a JPEG decoded to a smaller size it may end within a pixel.
    """

    pixels: Gray
    width: int
    height: int
    box: Box


def decode_square(data: bytes, settings: Preprocessing, max_pixels: int = MAX_PIXELS) -> _Decoded:
    """A file's bytes -> the square that the model sees. Raises BadImageError, and nothing else."""
    decoded = _decode_any(data, settings.rule, max_pixels, settings if settings.decode == "fast" else None)
    return decoded._replace(pixels=resize(decoded.pixels, settings, decoded.box))


def decode(data: bytes, rule: Rule = Rule(), *, max_pixels: int = MAX_PIXELS) -> Gray:  # noqa: B008 a constant
    """A file's bytes -> uint8 [H, W], every pixel. Raises BadImageError, and nothing else."""
    return np.array(_decode_any(data, rule, max_pixels, None).pixels, order="C")


def _decode_any(data: bytes, rule: Rule, max_pixels: int, target: Preprocessing | None) -> _Decoded:
    """Decode by the fastest decoder that fits. target: settings that a JPEG may be decoded to a smaller size for.

    Every decoder's result goes through `to_gray`.
    """
    if not data:
        raise BadImageError(ReasonCode.EMPTY, "the file has 0 bytes")
    try:
        if is_dicom(data):
            return _finish(Layers(decode_dicom(data, max_pixels, rule)), 1, rule)
        if data.startswith(_png.SIGNATURE):
            return _decode_png(data, rule, max_pixels)
        if is_jpeg2000(data) and (deep := decode_deep_jpeg2000(data, max_pixels)) is not None:
            return _finish(deep, 1, rule)
        return _decode_by_pillow(data, rule, max_pixels, target)
    except BadImageError:
        raise
    except UnidentifiedImageError:
        raise _unidentified(data) from None
    except Image.DecompressionBombError:
        raise BadImageError(ReasonCode.TOO_LARGE, f"over the limit of {max_pixels:,} pixels") from None
    except MemoryError:
        raise BadImageError(ReasonCode.TOO_LARGE, "decoding needs more memory than there is") from None
    except Exception as error:  # noqa: BLE001 a decoder fed with damaged bytes may raise anything
        if (name := name_foreign(data)) is not None:
            raise BadImageError(code_of_foreign(name), name) from None
        words = " ".join(str(error).split()) or type(error).__name__
        if words.startswith("decoder error"):
            words = "its packed pixels are not valid"
        raise _as_bad(f"TIFF: {words}" if is_tiff(data) else words) from None


def _unidentified(data: bytes) -> BadImageError:
    """Name what the file is instead, or return the error of the plugin whose signature it has.

    Pillow only says that no plugin accepted it.
    """
    if (name := name_foreign(data)) is not None:
        return BadImageError(code_of_foreign(name), name)
    prefix = data[:16].ljust(16, b"\0")
    for name in FORMATS:
        factory, accepts = Image.OPEN[name]
        if accepts and accepts(prefix) is True:
            try:
                factory(io.BytesIO(data), "")
            except Exception as error:  # noqa: BLE001 an error that made Pillow try the next format
                return _as_bad(f"{name}: {str(error) or type(error).__name__}")
    return BadImageError(ReasonCode.NOT_AN_IMAGE, "not the beginning of a known image format")


def _as_bad(words: str) -> BadImageError:
    """Classify an error by the decoder's message; a kind that it does not know gets the remedy."""
    if any(sign in words.lower() for sign in ("unsupported", "unknown")):
        return BadImageError(ReasonCode.UNSUPPORTED, f"{words}; save it as PNG or as TIFF")
    short = any(sign in words.lower() for sign in _TOO_SHORT)
    return BadImageError(ReasonCode.TRUNCATED if short else ReasonCode.DAMAGED, words)


def _finish(
    layers: Layers, orientation: int, rule: Rule, size: tuple[int, int] | None = None, shrink: int = 1
) -> _Decoded:
    """Make gray of layers, upright. size: of the whole image, of which they are decoded to a part of `shrink`."""
    gray = to_gray(layers.stored, rule)
    if layers.opacity is not None:
        gray = np.rint(layers.opacity * gray + (1 - layers.opacity) * rule.background).astype(np.uint8)
    width, height = size or gray.shape[::-1]
    box: Box = (0, 0, width / shrink, height / shrink)
    if orientation != 1:
        gray, box = _upright(gray, box, orientation)
        if orientation in (5, 6, 7, 8):
            width, height = height, width
    return _Decoded(gray, width, height, box)


def _decode_png(data: bytes, rule: Rule, max_pixels: int) -> _Decoded:
    png = _png.read_png(data, max_pixels)
    if (gray := _png.decode_plain(png)) is not None:
        return _finish(Layers(Stored(gray)), png.orientation, rule)
    _png.check_sums(png)
    if png.depth == 16:
        return _finish(_png.decode_deep(png), png.orientation, rule)
    with Image.open(io.BytesIO(png.data), formats=("PNG",)) as image:
        image.load()
        return _finish(Layers(_stored(image, rule.background)), png.orientation, rule)


def _decode_by_pillow(data: bytes, rule: Rule, max_pixels: int, target: Preprocessing | None) -> _Decoded:
    """Decode by Pillow. Kinds of JPEG and TIFF that it refuses or spoils go to other decoders."""
    _silence_libtiff()
    if data[8:12] == b"WEBP":
        check_size(*webp_size(data), max_pixels)
    try:
        opened = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        if is_tiff(data):
            return _finish(*decode_tiff(data, max_pixels), rule)
        if (deep := decode_deep_jpeg(data, max_pixels)) is not None:
            return _finish(*deep, rule)
        raise
    with opened as image:
        width, height = image.size
        check_size(width, height, max_pixels)
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            if TiffImagePlugin.TILEWIDTH in image.tag_v2:
                _check_tiles(image, max_pixels)
            if not is_trusted(image, data):
                return _finish(*decode_tiff(data, max_pixels), rule)
            if (plain := plain_levels(image, data)) is not None:
                return _finish(Layers(said_by(image.tag_v2, plain, scaled=True)), 1, rule)
        shrink = _shrinkage(width, height, target) if target and image.format in _JPEGS else 1
        levels = decode_luma(data, shrink) if image.format in _JPEGS else None
        if levels is None:
            image.draft("L", (max(1, width // shrink), max(1, height // shrink)))
            try:
                image.load()
            except OSError:
                if (deep := decode_deep_jpeg(data, max_pixels)) is None:  # a lossless one is opened, but not loaded
                    raise
                return _finish(*deep, rule)
            stored = _stored(image, rule.background)
        else:
            stored = Stored(levels)
        return _finish(Layers(stored), exif_orientation(image.getexif), rule, (width, height), shrink)


def _shrinkage(width: int, height: int, target: Preprocessing) -> int:
    """Return the power of two, up to 8, that leaves both sides at least _FINER times the target's."""
    side = max(width, height) if target.resize == "fit" else min(width, height)
    return 2 ** min(3, max(0, math.floor(math.log2(side / (_FINER * target.size)))))


def _upright(levels: Gray, box: Box, orientation: int) -> tuple[Gray, Box]:
    """Turn uint8 [H, W] and the box in it by EXIF's orientation (1 to 8); the result is a view."""
    left, top, right, bottom = box
    if orientation in (5, 6, 7, 8):
        levels, (left, top, right, bottom) = levels.T, (top, left, bottom, right)
    height, width = levels.shape
    if orientation in (2, 3, 6, 7):
        levels, (left, right) = levels[:, ::-1], (width - right, width - left)
    if orientation in (3, 4, 7, 8):
        levels, (top, bottom) = levels[::-1], (height - bottom, height - top)
    return levels, (left, top, right, bottom)


def _stored(image: Image.Image, background: int) -> Stored:
    """A loaded image of any mode -> its levels; transparent colors lie over the background."""
    if isinstance(image, TiffImagePlugin.TiffImageFile) and (image.mode in "LIF" or image.mode.startswith("I;16")):
        return said_by(image.tag_v2, np.asarray(image), scaled=image.mode == "L")
    if image.mode == "L" and not image.has_transparency_data:
        return Stored(np.asarray(image))
    if image.mode == "I" and image.format == "PPM":  # Pillow scales its levels to 16 bits
        return Stored(np.asarray(image), stated=depth(16))
    if image.mode in ("I", "F"):
        return Stored(np.asarray(image))
    if image.has_transparency_data and not _is_opaque_bitmap(image):
        layers = image.convert("RGBA")
        background_layer = Image.new("RGBA", image.size, (background, background, background, 255))
        return Stored(np.asarray(Image.alpha_composite(background_layer, layers).convert("L")))
    if image.mode not in ("1", "RGB", "L"):
        image = image.convert("RGB")
    return Stored(np.asarray(image.convert("L")))


def _is_opaque_bitmap(image: Image.Image) -> bool:
    """Tell whether a BMP leaves its fourth byte empty: most programs that write 32 bits do, and show it opaque."""
    return image.format in ("BMP", "DIB") and image.mode == "RGBA" and image.getchannel("A").getextrema()[1] == 0


def _check_tiles(image: TiffImagePlugin.TiffImageFile, max_pixels: int) -> None:
    """Raise BadImageError for excessive tiles: libtiff allocates a whole tile even for a small image."""
    width, length = (image.tag_v2.get(tag, 0) for tag in (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH))
    check_size(int(width), int(length), max_pixels)


@cache
def _silence_libtiff() -> None:
    """Stop the libtiff in Pillow's wheel from printing thousands of lines about damaged TIFFs to stderr."""
    packages = Path(PIL.__file__).parents[1]
    for place in ("pillow.libs/libtiff*", "PIL/.dylibs/libtiff*"):
        for library in packages.glob(place):
            libtiff = ctypes.CDLL(str(library))
            libtiff.TIFFSetErrorHandler(None)
            libtiff.TIFFSetWarningHandler(None)
