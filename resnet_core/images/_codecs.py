"""The common PNG files, three times as fast as by Pillow: 8 bits, gray or RGB, whole, nothing transparent.

Rust's `png` crate decodes them, through kornia-rs, which holds the GIL meanwhile: it is processes that
gain by it most. It sees the image and nothing else of the file, and only when the checksums are right.
Everything else is Pillow's, and so is a file that is damaged in any way: Pillow's verdict and
Pillow's words are those that count.
"""

import struct
import zlib
from importlib import import_module
from types import ModuleType

import numpy as np
from PIL import Image

from resnet_core.images._levels import Gray, check_size

simplejpeg: ModuleType | None
try:
    simplejpeg = import_module("simplejpeg")
except ImportError:  # no wheel for this platform: Pillow gives the same pixels
    simplejpeg = None

# Where luma is stored as such. In RGB, CMYK and YCCK it is not.
_WITH_LUMA = ("YCbCr", "Gray")


def decode_luma(data: bytes, shrink: int) -> Gray | None:
    """A JPEG file's bytes -> uint8 [ceil(H / shrink), ceil(W / shrink)], `shrink` being 1, 2, 4 or 8: more
    than 1 is done in the DCT domain. None when Pillow has to look at the file."""
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


kornia: ModuleType | None
try:
    kornia = import_module("kornia_rs.io")
except ImportError:  # no wheel for this platform: Pillow gives the same pixels
    kornia = None

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Chunks that change no level. Orientation hides in eXIf, iTXt and some kinds of text; tRNS is transparency.
_HARMLESS = frozenset([b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"bKGD", b"hIST", b"pHYs", b"tIME"])
_MODES = {0: "mono", 2: "rgb"}  # by colour type
_MAX_CHUNKS = 100_000


def decode_png(data: bytes, max_pixels: int) -> Gray | None:
    """A PNG file's bytes -> uint8 [H, W], or None when Pillow has to look at it. Raises BadImageError when
    there are more pixels than `max_pixels`."""
    if data[12:16] != b"IHDR" or zlib.crc32(data[12:29]) != int.from_bytes(data[29:33], "big"):
        return None
    width, height, depth, colour, *ways = struct.unpack_from(">IIBBBBB", data, 16)
    check_size(width, height, max_pixels)
    plain = not any(ways)  # the only compression, the only filtering, not interlaced
    if kornia is None or depth != 8 or colour not in _MODES or not plain or width * height == 0:
        return None
    image = _image_chunks(data)
    if image is None:
        return None
    try:
        levels = kornia.decode_image_png_u8(SIGNATURE + b"".join(image), (height, width), _MODES[colour])
    except Exception:  # noqa: BLE001 it knows no finer one; Pillow says what is wrong
        return None
    except BaseException as error:  # a panic in Rust is no Exception
        if type(error).__module__ != "pyo3_runtime":
            raise
        return None
    return levels[..., 0] if colour == 0 else np.asarray(Image.fromarray(levels).convert("L"))


def _image_chunks(data: bytes) -> list[memoryview] | None:
    """The header, the compressed levels and the end, or None if a checksum is wrong or another chunk matters."""
    chunks = []
    view, start = memoryview(data), len(SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        if start + 12 > len(data):
            return None
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + length + 12
        if kind in (b"IHDR", b"IDAT", b"IEND"):
            if end > len(data) or zlib.crc32(view[start + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
                return None
            chunks.append(view[start:end])
            if kind == b"IEND":
                return chunks
        elif kind not in _HARMLESS and not (kind == b"tEXt" and data[start + 8 : start + 19] != b"Raw profile"):
            return None
        start = end
    return None
