"""PNG: take the chunks that hold pixels out of the file, before any decoder sees it.

Other chunks (texts, profiles, animations) never refuse an image, whatever their size, checksum and order.
A wrong checksum in a chunk that pixels depend on (IHDR, PLTE, tRNS, IDAT) is damage. Animations give their first image.
"""

import re
import struct
import zlib
from functools import partial
from typing import NamedTuple

import numpy as np
from PIL import Image

from resnet_core.images._codecs import Layers, exif_of, exif_orientation, layers_of, load
from resnet_core.images.levels import BadImageError, Gray, Stored, check_size, depth
from resnet_core.reasons import ReasonCode

# kornia-rs decodes opaque files of 8 bits, gray or RGB, three times as fast as Pillow, and holds the GIL.
kornia = load("kornia_rs.io")

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GRAY, _RGB, _PALETTE, _GRAY_ALPHA, _RGBA = 0, 2, 3, 4, 6  # color types
_DEPTHS = {_GRAY: (1, 2, 4, 8, 16), _RGB: (8, 16), _PALETTE: (1, 2, 4, 8), _GRAY_ALPHA: (8, 16), _RGBA: (8, 16)}
_MODES = {_GRAY: "mono", _RGB: "rgb"}  # kornia's, by color type
_KEY = {_GRAY: 2, _RGB: 6}  # bytes of tRNS, by color type
_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_MAX_TEXT = 2**20  # bytes of a text, packed and unpacked, that is searched for an orientation
_MAX_CHUNKS = 1_000_000
_END = b"\0\0\0\0IEND\xaeB`\x82"
_XMP_ORIENTATION = re.compile(rb"""tiff:Orientation(?:=["']|>)([1-8])""")

_Chunks = dict[bytes, list[memoryview]]


class _Png(NamedTuple):
    """`data`: a file of the pixels alone. `orientation`: EXIF's, 1 to 8. `significant`: bits of sBIT, if stated."""

    data: bytes
    width: int
    height: int
    depth: int
    color: int
    plain: bool  # neither interlaced nor transparent
    significant: int | None
    orientation: int


def read_png(data: bytes, max_pixels: int) -> _Png:
    """Take the pixels out of a PNG file's bytes, still packed.

    Raises BadImageError for more pixels than `max_pixels`, and where header or palette is not valid. The checksums
    of the pixels are left to the decoder, or to `check_sums`: kornia computes them again, which costs 4% of a read.
    """
    if data[12:16] == b"CgBI":
        raise BadImageError(ReasonCode.UNSUPPORTED, "PNG of Apple's own kind (CgBI); save it as a standard PNG")
    if len(data) < 33:
        raise BadImageError(ReasonCode.TRUNCATED, "PNG: the file ends within its header")
    width, height, depth, color, packing, filtering, interlace = struct.unpack_from(">IIBBBBB", data, 16)
    valid = data[8:16] == b"\0\0\0\rIHDR" and zlib.crc32(data[12:29]) == int.from_bytes(data[29:33], "big")
    if not valid or packing or filtering or interlace > 1 or depth not in _DEPTHS.get(color, ()) or not width * height:
        raise _damaged("IHDR")
    check_size(width, height, max_pixels)
    chunks = _read_chunks(data)
    palette, transparency = chunks.get(b"PLTE"), chunks.get(b"tRNS")
    transparent = None
    parts = [memoryview(data)[:33]]
    if color == _PALETTE:
        if not palette or len(palette) > 1 or len(palette[0]) % 3 or not 12 < len(palette[0]) <= 12 + 3 * 256:
            raise _damaged("PLTE")
        parts += palette
    if transparency and color in (*_KEY, _PALETTE):
        if color != _PALETTE and len(transparency[0]) != 12 + _KEY[color]:
            raise _damaged("tRNS")
        transparent = transparency[0]
        parts.append(transparent)
    plain = not interlace and color in (_GRAY, _RGB, _PALETTE) and transparent is None
    bits = chunks.get(b"sBIT")
    significant = bits[0][8] if bits and len(bits[0]) > 12 and 0 < bits[0][8] <= depth else None
    picture = b"".join([*parts, *chunks[b"IDAT"], _END])
    return _Png(picture, width, height, depth, color, plain, significant, _find_orientation(chunks))


def decode_plain(png: _Png) -> Gray | None:
    """Decode opaque levels of 8 bits, gray or RGB -> uint8 [H, W]; None if Pillow must decode the file."""
    if kornia is None or png.depth != 8 or not png.plain or png.color not in _MODES:
        return None
    try:
        levels = kornia.decode_image_png_u8(png.data, (png.height, png.width), _MODES[png.color])
    except Exception:  # noqa: BLE001 kornia raises nothing finer; Pillow finds the fault
        return None
    except BaseException as error:  # a panic in Rust does not derive from Exception
        if type(error).__module__ != "pyo3_runtime":
            raise
        return None
    return levels[..., 0] if png.color == _GRAY else np.asarray(Image.fromarray(levels).convert("L"))


def check_sums(png: _Png) -> None:
    """Raise BadImageError where a checksum of what the pixels are decoded from is wrong."""
    view, start = memoryview(png.data), len(SIGNATURE)
    while start < len(view):
        length, kind = struct.unpack_from(">I4s", view, start)
        end = start + length + 12
        if zlib.crc32(view[start + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise BadImageError(ReasonCode.DAMAGED, f"PNG: wrong checksum in the chunk {kind.decode()}")
        start = end


def decode_deep(png: _Png) -> Layers:
    """Decode levels of 16 bits, of which Pillow drops 8 in colors. Raises imagecodecs' error for damaged bytes."""
    import imagecodecs

    samples = imagecodecs.png_decode(png.data)
    claimed = depth(png.significant) if png.significant and png.significant < 16 else None
    return layers_of(samples.reshape(png.height, png.width, -1), Stored(samples, claimed=claimed), 65535)


def _damaged(kind: str) -> BadImageError:
    return BadImageError(ReasonCode.DAMAGED, f"PNG: the chunk {kind} is missing or not valid")


def _read_chunks(data: bytes) -> _Chunks:
    """Return the chunks by kind, whole; IDAT at least once."""
    chunks: _Chunks = {}
    view, start = memoryview(data), len(SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        if start + 12 > len(data):
            break  # an end without IEND: the pixels may be whole
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + length + 12
        if not (kind.isalpha() and kind.isascii()):
            raise BadImageError(ReasonCode.DAMAGED, f"PNG: no chunk begins at byte {start}")
        if end > len(data):
            if kind in _PIXELS:
                raise BadImageError(ReasonCode.TRUNCATED, "PNG: the file ends within its pixels")
            break
        if kind == b"IEND":
            break
        if kind not in _PIXELS and kind[0] < ord("a"):
            words = f"PNG with a chunk {kind.decode()} that no standard defines; save it as a standard PNG"
            raise BadImageError(ReasonCode.UNSUPPORTED, words)
        chunks.setdefault(kind, []).append(view[start:end])
        start = end
    if b"IDAT" not in chunks:
        raise BadImageError(ReasonCode.TRUNCATED, "PNG: the file ends before its pixels")
    if len(chunks[b"IHDR"]) > 1:
        raise _damaged("IHDR")
    return chunks


def _find_orientation(chunks: _Chunks) -> int:
    """Return the orientation that eXIf, a text with EXIF's bytes or XMP states; 1 where they are not valid."""
    texts = [chunk for kind in _TEXTS for chunk in chunks.get(kind, ()) if len(chunk) <= _MAX_TEXT]
    exifs = [bytes(chunk[8:-4]) for chunk in chunks.get(b"eXIf", ()) if _is_intact(chunk)]
    exifs += [exif for chunk in texts if (exif := _packed_exif(chunk)) is not None]
    for exif in exifs:
        if (orientation := exif_orientation(partial(exif_of, exif))) != 1:
            return orientation
    for chunk in texts:
        keyword, _, text = bytes(chunk[8:-4]).partition(b"\0")
        if keyword == b"XML:com.adobe.xmp" and bytes(chunk[4:8]) == b"iTXt" and _is_intact(chunk):
            text = text.split(b"\0", 3)[-1] if text[:1] == b"\0" else _inflate(text.split(b"\0", 3)[-1])
            if match := _XMP_ORIENTATION.search(text):
                return int(match[1])
    return 1


def _packed_exif(chunk: memoryview) -> bytes | None:
    """Return EXIF's bytes from a text of ImageMagick: a name, the length, and digits in hex."""
    keyword, _, text = bytes(chunk[8:-4]).partition(b"\0")
    if keyword not in (b"Raw profile type exif", b"Raw profile type APP1") or not _is_intact(chunk):
        return None
    if bytes(chunk[4:8]) == b"zTXt":
        text = _inflate(text[1:])
    try:
        return bytes.fromhex("".join(text.decode("ascii").split("\n")[3:]))
    except ValueError:
        return None


def _inflate(packed: bytes) -> bytes:
    """Unpack at most _MAX_TEXT bytes; none if they are damaged."""
    try:
        return zlib.decompressobj().decompress(packed, _MAX_TEXT)
    except zlib.error:
        return b""


def _is_intact(chunk: memoryview) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
