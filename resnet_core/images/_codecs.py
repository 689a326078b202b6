"""Decoders of JPEG and JPEG 2000 beside Pillow: faster ones, and those of kinds that Pillow refuses or spoils.

JPEG: simplejpeg decodes luma alone, where the file stores it. imagecodecs decodes 12 and 16 bits, and lossless files.
JPEG 2000: imagecodecs decodes all but unsigned 8 bits; Pillow cuts 16 bits of color to 8, and scales others.
"""

import re
from collections.abc import Callable
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from resnet_core.images.levels import BadImageError, Gray, Stored, check_size, depth, luma, whole_luma
from resnet_core.reasons import ReasonCode


class Layers(NamedTuple):
    """Levels, and how opaque each pixel is: [H, W] from 0 to 1, None if all are."""

    stored: Stored
    opacity: NDArray[Any] | None = None


def load(module: str) -> ModuleType | None:
    """Import a decoder; on a platform without its wheel, Pillow gives the same pixels."""
    try:
        return import_module(module)
    except ImportError:
        return None


simplejpeg = load("simplejpeg")
_WITH_LUMA = ("YCbCr", "Gray")  # color spaces that store luma; RGB, CMYK and YCCK do not


def decode_luma(data: bytes, shrink: int) -> Gray | None:
    """A JPEG file's bytes -> uint8 [ceil(H / shrink), ceil(W / shrink)], or None if Pillow must decode the file.

    shrink: 1, 2, 4 or 8; above 1, the DCT is scaled.
    """
    if simplejpeg is None:
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        if space not in _WITH_LUMA:
            return None
        rows, columns = -(-height // shrink), -(-width // shrink)
        return simplejpeg.decode_jpeg(data, "GRAY", min_height=rows, min_width=columns, strict=True)[..., 0]
    except ValueError:
        return None


def exif_of(block: bytes) -> Image.Exif:
    """Read a block of EXIF. Raises anything for a damaged one."""
    tags = Image.Exif()
    tags.load(block)
    return tags


def exif_orientation(read: Callable[[], Image.Exif]) -> int:
    """Return the orientation (1 to 8) that EXIF states; 1 if it states none, or is not valid. read: reads EXIF."""
    try:
        orientation = read().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 Pillow raises anything for a damaged block
        return 1
    return int(orientation) if orientation and orientation in range(1, 9) else 1


def layers_of(samples: NDArray[Any], stored: Stored, white: float) -> Layers:
    """Samples [H, W, 1 to 4] -> layers: gray or RGB, opacity as the 2nd or 4th up to `white`. stored: the words."""
    colors, rest = (samples[..., :1], samples[..., 1:]) if samples.shape[-1] < 3 else np.split(samples, [3], axis=-1)
    if colors.shape[-1] == 3 and stored.stated and stored.stated[1] < 255:  # fewer bits than their luma has levels
        colors, stored = (
            np.rint(luma(colors) * (255 / stored.stated[1])).astype(np.uint8)[..., None],
            stored._replace(stated=(0, 255)),
        )
    stored = stored._replace(levels=colors[..., 0] if colors.shape[-1] == 1 else whole_luma(colors))
    if not rest.size:
        return Layers(stored)
    opacity = (rest[..., 0] / white).clip(0, 1)
    return Layers(stored._replace(padding=opacity == 0), opacity)


class _JpegHeader(NamedTuple):
    """The frame header of a JPEG."""

    lossless: bool
    bits: int
    width: int
    height: int
    components: int


def jpeg_header(data: bytes) -> _JpegHeader | None:
    """Return the frame header (SOF) of a JPEG, None if there is none."""
    place = 2
    while place + 10 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:  # JPEG-LS
            height, width = int.from_bytes(data[place + 5 : place + 7]), int.from_bytes(data[place + 7 : place + 9])
            return _JpegHeader(marker == 0xC3, data[place + 4], width, height, data[place + 9])
        alone = marker in (0xFF, 0x01) or 0xD0 <= marker <= 0xD8
        place += (1 if marker == 0xFF else 2) if alone else 2 + int.from_bytes(data[place + 2 : place + 4])
    return None


def decode_deep_jpeg(data: bytes, max_pixels: int) -> tuple[Layers, int] | None:
    """A JPEG file of 12 or 16 bits, or lossless -> its layers and orientation; None for what Pillow decodes."""
    header = jpeg_header(data) if data.startswith(b"\xff\xd8") else None
    if header is None or (header.bits == 8 and not header.lossless):
        return None
    check_size(header.width, header.height, max_pixels)
    if header.components not in (1, 3):
        raise BadImageError(ReasonCode.UNSUPPORTED, f"JPEG of {header.bits} bits and {header.components} colors")
    import imagecodecs

    if b"\xff\xd9" not in data:  # libjpeg fills up what is missing
        raise BadImageError(ReasonCode.TRUNCATED, "JPEG: the file has no end")
    samples = imagecodecs.jpeg8_decode(data, outcolorspace="RGB" if header.components == 3 else None)
    place = data.find(b"Exif\0\0", 0, 2**16)
    orientation = exif_orientation(partial(exif_of, data[place : place + 2**16])) if place > 0 else 1
    return layers_of(samples.reshape(*samples.shape[:2], -1), Stored(samples, depth(header.bits)), 1), orientation


class _Jpeg2000Header(NamedTuple):
    """The header of a JPEG 2000 codestream; `bits` and `signed` are of the first component."""

    width: int
    height: int
    bits: int
    signed: bool
    components: int
    alike: bool  # all components have the same bits
    subsampled: bool

    @property
    def is_bytes(self) -> bool:
        return self.bits == 8 and not self.signed and self.alike


_CODESTREAM = b"\xff\x4f\xff\x51"


def is_jpeg2000(data: bytes) -> bool:
    return data[4:8] == b"jP  " or data.startswith(_CODESTREAM)


def jpeg2000_header(data: bytes) -> _Jpeg2000Header | None:
    """Return the header (SIZ) of a JPEG 2000 file or codestream, None if there is none."""
    place = data.find(_CODESTREAM)
    count = int.from_bytes(data[place + 40 : place + 42])
    if place < 0 or not 1 <= count <= (len(data) - place - 42) // 3:
        return None
    right, bottom, left, top = (int.from_bytes(data[place + n : place + n + 4]) for n in (8, 12, 16, 20))
    parts = data[place + 42 : place + 42 + 3 * count]
    sizes, steps = set(parts[::3]), {*parts[1::3], *parts[2::3]}
    first = parts[0]
    shape = (max(0, right - left), max(0, bottom - top))
    return _Jpeg2000Header(*shape, (first & 127) + 1, first > 127, count, len(sizes) == 1, steps != {1})


def webp_size(data: bytes) -> tuple[int, int]:
    """Return width and height of a WebP's canvas; decoders allocate it before they tell them."""
    kind, start = data[12:16], 20
    if kind == b"VP8X":
        return _little(data, start + 4, 3) + 1, _little(data, start + 7, 3) + 1
    if kind == b"VP8L":
        bits = _little(data, start + 1, 4)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return _little(data, start + 6, 2) & 0x3FFF, _little(data, start + 8, 2) & 0x3FFF


def _little(data: bytes, start: int, length: int) -> int:
    return int.from_bytes(data[start : start + length], "little")


_COLORSPACE = re.compile(rb"colr\x01..(....)", re.DOTALL)
_GRAY_OR_RGB = (16, 17)


def decode_deep_jpeg2000(data: bytes, max_pixels: int) -> Layers | None:
    """A JPEG 2000 file of other than unsigned 8 bits -> its layers; None for 8 bits, which Pillow decodes."""
    header = jpeg2000_header(data)
    if header is None or header.is_bytes:
        return None
    check_size(header.width, header.height, max_pixels)
    boxes = data[: data.find(_CODESTREAM)]
    space = _COLORSPACE.search(boxes)
    known = space is None or int.from_bytes(space[1]) in _GRAY_OR_RGB
    named = header.components in (1, 3) or (header.components in (2, 4) and b"cdef" in boxes)
    if not (known and named and header.alike) or header.subsampled or b"pclr" in boxes or header.bits > 32:
        words = f"JPEG 2000 of {header.bits} bits with components of different kinds; save it as TIFF or PNG"
        raise BadImageError(ReasonCode.UNSUPPORTED, words)
    import imagecodecs

    samples = imagecodecs.jpeg2k_decode(data)
    half = 2 ** (header.bits - 1)
    span = (-half, half - 1) if header.signed else depth(header.bits)
    return layers_of(samples.reshape(*samples.shape[:2], -1), Stored(samples, span), span[1])
