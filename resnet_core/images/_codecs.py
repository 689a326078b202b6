"""Fast decoders of common JPEG and PNG files; all others, and all damaged files, are left to Pillow.

JPEG: simplejpeg decodes luma alone, where the file stores it.
PNG: kornia-rs decodes opaque files of 8 bits, gray or RGB, three times as fast as Pillow, and holds the GIL.
It gets the image chunks only, after their checksums have been verified here.
"""

import struct
import zlib
from importlib import import_module
from types import ModuleType

import numpy as np
from PIL import Image

from resnet_core.images.levels import Gray, check_size


def _load(module: str) -> ModuleType | None:
    """Import a decoder; on a platform without its wheel, Pillow gives the same pixels."""
    try:
        return import_module(module)
    except ImportError:
        return None


simplejpeg, kornia = _load("simplejpeg"), _load("kornia_rs.io")
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


PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Chunks that do not change levels. Orientation may be in eXIf, iTXt and "Raw profile" texts; tRNS is transparency.
_HARMLESS = frozenset([b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"bKGD", b"hIST", b"pHYs", b"tIME"])
_MODES = {0: "mono", 2: "rgb"}  # by color type
_MAX_CHUNKS = 100_000


def decode_png(data: bytes, max_pixels: int) -> Gray | None:
    """A PNG file's bytes -> uint8 [H, W], or None if Pillow must decode the file.

    Raises BadImageError for more pixels than `max_pixels`.
    """
    if data[12:16] != b"IHDR" or zlib.crc32(data[12:29]) != int.from_bytes(data[29:33], "big"):
        return None
    width, height, depth, color, *methods = struct.unpack_from(">IIBBBBB", data, 16)
    check_size(width, height, max_pixels)
    plain = not any(methods)  # standard compression and filtering, not interlaced
    if kornia is None or depth != 8 or color not in _MODES or not plain or width * height == 0:
        return None
    image = _image_chunks(data)
    if image is None:
        return None
    try:
        levels = kornia.decode_image_png_u8(PNG_SIGNATURE + b"".join(image), (height, width), _MODES[color])
    except Exception:  # noqa: BLE001 kornia raises nothing finer; Pillow finds the fault
        return None
    except BaseException as error:  # a panic in Rust does not derive from Exception
        if type(error).__module__ != "pyo3_runtime":
            raise
        return None
    return levels[..., 0] if color == 0 else np.asarray(Image.fromarray(levels).convert("L"))


def _image_chunks(data: bytes) -> list[memoryview] | None:
    """Return header, compressed levels and end, or None if a checksum is wrong or another chunk changes levels."""
    chunks = []
    view, start = memoryview(data), len(PNG_SIGNATURE)
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
