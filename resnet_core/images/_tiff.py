"""TIFF: kinds that Pillow cannot read, or reads wrongly without an error, by tifffile and imagecodecs.

Pillow spoils, among others, int8, uint32, packed big-endian floats, colors of 16 bits, and planes of them. `is_trusted`
lists what it reads right, held against libtiff, tifffile and OpenCV on their own test files (docs/formats.md).
The first page counts.
"""

import io
import logging
import math
import re
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin

from resnet_core.images._codecs import Layers, jpeg2000_header, jpeg_header, layers_of, webp_size
from resnet_core.images.levels import MARGIN, BadImageError, Pair, Stored, check_size, claim, depth
from resnet_core.reasons import ReasonCode

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

logging.getLogger("tifffile").addHandler(logging.NullHandler())

# Tags.
_KIND, _BITS, _COLORS, _DESCRIPTION, _ORIENTATION = 254, 258, 262, 270, 274
_LOWEST, _HIGHEST, _SUB_PAGES, _INKS, _FORMAT, _MAP, _NO_DATA, _DNG = 280, 281, 330, 332, 339, 320, 42113, 50706
_PREDICTOR, _TILE, _XMP = 317, 322, 700
_UNSIGNED, _UNDEFINED = 1, 4  # formats of a sample
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCC, _CAMERA = 0, 1, 2, 3, 5, 6, 32803  # color spaces
_BYTES = ("L", "LA", "P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr", "LAB")
# Pillow reads these right: its mode, and bits and format of a sample.
_TRUSTED = {
    *((mode, 8, _UNSIGNED) for mode in _BYTES),
    *((mode, bits, _UNSIGNED) for mode in ("1", "L", "P") for bits in (1, 2, 4)),
    *((mode, bits, _UNSIGNED) for mode in ("I;16", "I;16B") for bits in (12, 16)),
}
_COMPRESSIONS = {
    "raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "jpeg", "tiff_jpeg", "lzma", "zstd",
    "group3", "group4", "tiff_ccitt", "tiff_raw_16",
}  # fmt: skip
# Compressions of tifffile, by number, which it unpacks to the size that the page says; then those of whole images.
_BOUNDED = {1, 5, 8, 32946, 50013, 32773, 34925, 50000}
_JPEG, _JPEG2000, _PNG, _WEBP, _LERC, _JPEG_XR = (
    (7,),
    (33003, 33005, 34712),
    (34933,),
    (50001,),
    (34887,),
    (22610, 34934),
)
_CANON = b"CR\x02"  # where a raw file of Canon has it
_RAW = "a camera's raw file; export it as JPEG, PNG or TIFF"
_REMEDY = "save it as gray or RGB, with LZW, deflate or no compression"


def is_tiff(data: bytes) -> bool:
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def is_trusted(image: TiffImagePlugin.TiffImageFile, data: bytes) -> bool:
    """Tell whether Pillow reads the file right. `image` is opened, not loaded."""
    tags = image.tag_v2
    # Pillow's `get` takes ten times as long for a missing tag.
    bits = tags[_BITS] if _BITS in tags else (1,)  # noqa: SIM401
    formats = tags[_FORMAT] if _FORMAT in tags else (_UNSIGNED,)  # noqa: SIM401
    if not _is_known(image.mode, image.info.get("compression"), bits, formats, _TILE in tags, _PREDICTOR in tags):
        return False
    if image.mode in ("P", "PA") and max(tags.get(_MAP, (256,))) < 256:  # an old one of 8 bits, black in Pillow
        return False
    return not ((_KIND in tags and int(tags[_KIND]) & 1) or _DNG in tags or data[8:11] == _CANON)


@lru_cache(maxsize=256)
def _is_known(
    mode: str, compression: str | None, bits: tuple[int, ...], formats: tuple[int, ...], tiled: bool, predicted: bool
) -> bool:
    """Tell whether Pillow reads such files right."""
    if compression not in _COMPRESSIONS:
        return False
    # Pillow takes the part of an uncompressed tile beyond the image for an error, and leaves out predictors there.
    if compression == "raw" and (tiled or predicted):
        return False
    if compression in ("jpeg", "tiff_jpeg") and set(bits) != {8}:
        return False
    kinds = {_UNSIGNED if number == _UNDEFINED else number for number in formats}
    return all((mode, one, kind) in _TRUSTED for one in bits for kind in kinds)


def plain_levels(image: TiffImagePlugin.TiffImageFile, data: bytes) -> NDArray[np.uint8] | None:
    """Return the levels [H, W] of a trusted file of 8 bits without compression; None for others, cut ones too.

    Pillow would copy them three times. `image` is opened, not loaded.
    """
    tags = image.tag_v2
    if image.mode != "L" or not image.tile or _XMP in tags:  # XMP may turn an image
        return None
    if _ORIENTATION in tags and tags[_ORIENTATION] != 1:  # `size` is that of the turned image
        return None
    (width, height), first = image.size, image.tile[0].offset
    for codec, box, offset, args in image.tile:
        if box is None or (codec, box[0], args, offset) != ("raw", 0, ("L", 0, 1), first + box[1] * width):
            return None
    if first + width * height > len(data):
        return None
    return np.frombuffer(data, np.uint8, width * height, first).reshape(height, width)


def said_by(tags: Any, levels: NDArray[Any], *, scaled: bool = False) -> Stored:
    """Levels [H, W] with what the tags say of them.

    tags: values by number, with `get`. scaled: a decoder has made 8 bits of them, from black to white.
    """
    if scaled and _NO_DATA not in tags:
        return Stored(levels)
    bits = tags.get(_BITS, 1)
    bits = bits if isinstance(bits, int) else bits[0]
    if scaled:
        return Stored(levels, padding=_no_data(tags) if bits == 8 and tags.get(_COLORS) != _WHITE_IS_ZERO else None)
    stated = depth(bits) if levels.dtype.kind == "u" and bits not in (8, 16, 32, 64) else None
    inverted = tags.get(_COLORS) == _WHITE_IS_ZERO
    return Stored(levels, stated, _claimed(tags, bits), inverted=inverted, padding=_no_data(tags))


def decode_tiff(data: bytes, max_pixels: int) -> tuple[Layers, int]:
    """A TIFF file's bytes -> the layers of its first page, and its orientation.

    Raises BadImageError, and any error of tifffile for damaged bytes.
    """
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = _first_page(file)
        if data[8:11] == _CANON:
            raise BadImageError(ReasonCode.UNSUPPORTED, _RAW)
        tags = {tag.code: tag.value for tag in page.tags if tag.count < 2**20}
        _check_cost(page, data, max_pixels)
        layers = _to_layers(_samples(page), page, tags)
    orientation = tags.get(_ORIENTATION, 1)
    return layers, orientation if orientation in range(1, 9) else 1


def _first_page(file: "TiffFile") -> "TiffPage":
    """Return the first page that is not a reduced copy of another one, such as a preview."""
    page: Any = file.pages.first
    if _DNG in page.tags or page.photometric == _CAMERA:
        raise BadImageError(ReasonCode.UNSUPPORTED, _RAW)
    if not page.is_reduced:
        return page
    if _SUB_PAGES in page.tags:
        raise BadImageError(ReasonCode.UNSUPPORTED, _RAW)
    for number in range(1, min(len(file.pages), 100)):
        other: Any = file.pages[number]
        if not other.is_reduced:
            return other
    return page


def _check_cost(page: "TiffPage", data: bytes, max_pixels: int) -> None:
    """Raise BadImageError where decoding would take more than the limit allows, or bytes are missing."""
    planes, layers, height, width, samples = page.shaped
    count = math.ceil(planes * samples / 4) * layers
    check_size(width, height * count, max_pixels)
    if page.is_tiled:
        check_size(page.tilewidth, page.tilelength * page.tiledepth * math.ceil(samples / 4), max_pixels)
    inner = next((size_of for numbers, size_of in _INNER.items() if page.compression in numbers), None)
    if page.compression not in _BOUNDED and inner is None:
        name = getattr(page.compression, "name", page.compression)
        raise BadImageError(ReasonCode.UNSUPPORTED, f"TIFF with the compression {name}; {_REMEDY}")
    if page.compression == 1 and page.predictor != 1:
        words = f"TIFF without compression but with a predictor, which decoders read in two ways; {_REMEDY}"
        raise BadImageError(ReasonCode.UNSUPPORTED, words)
    places = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    if any(start + size > len(data) for start, size in places):
        raise BadImageError(ReasonCode.TRUNCATED, "TIFF: the file ends within its pixels")
    if not places or not all(start and size for start, size in places):
        raise BadImageError(ReasonCode.DAMAGED, "TIFF: some strips or tiles have no bytes")
    for start, size in places if inner else ():
        part = data[start : start + size]
        if inner is None or (sides := inner(part)) is None:
            raise BadImageError(ReasonCode.DAMAGED, "TIFF: a strip or tile within it is not valid")
        check_size(*sides, max_pixels)
        if page.compression in _JPEG and b"\xff\xd9" not in part[-16:]:  # libjpeg fills up what is missing
            raise BadImageError(ReasonCode.TRUNCATED, "TIFF: a strip or tile within it has no end")


def _lerc_size(part: bytes) -> tuple[int, int] | None:
    """Return the size of an image in LERC; its bands as if below each other."""
    if not part.startswith(b"Lerc2 "):
        words = f"TIFF with the compression LERC of an old kind, or packed twice; {_REMEDY}"
        raise BadImageError(ReasonCode.UNSUPPORTED, words)
    version, _, height, width, values, valid = struct.unpack_from("<6i", part, 6)
    if version < 4:
        values, valid = 1, values
    if valid != height * width:
        words = f"TIFF with the compression LERC and pixels without a measurement; {_REMEDY}"
        raise BadImageError(ReasonCode.UNSUPPORTED, words)
    return width, height * part.count(b"Lerc2 ") * max(1, values // 4)


def _jpeg_xr_size(part: bytes) -> tuple[int, int] | None:
    """Return the size of the largest image in a file of JPEG XR: colors, or their opacity."""
    sizes = []
    for match in re.finditer(rb"WMPHOTO\0..(.).", part, re.DOTALL):
        wide, high = struct.unpack_from(">HH" if match[1][0] >= 128 else ">II", part, match.end())
        sizes.append((wide + 1, high + 1))
    return max(sizes, key=math.prod, default=None)


_INNER: dict[tuple[int, ...], Callable[[bytes], tuple[int, int] | None]] = {
    _JPEG: lambda part: (header := jpeg_header(part)) and (header.width, header.height),
    _JPEG2000: lambda part: (header := jpeg2000_header(part)) and (header.width, header.height),
    _PNG: lambda part: struct.unpack_from(">II", part, 16) if part.startswith(b"\x89PNG") else None,
    _WEBP: lambda part: webp_size(part) if part[8:12] == b"WEBP" else None,
    _LERC: _lerc_size,
    _JPEG_XR: _jpeg_xr_size,
}


def _samples(page: "TiffPage") -> NDArray[Any]:
    """Decode a page -> [H, W, samples]; of a volume, the first layer."""
    samples = page.asarray(maxworkers=1).reshape(page.shaped)[:, 0]
    # Planes are a dimension of their own.
    return samples[0] if samples.shape[0] == 1 else np.moveaxis(samples[..., 0], 0, -1)


def _to_layers(samples: NDArray[Any], page: "TiffPage", tags: dict[int, Any]) -> Layers:
    """Samples [H, W, samples] of any color space -> layers."""
    colors, bits = page.photometric, int(page.bitspersample)
    if 16 < bits < 32 and page.parent.byteorder == ">":  # tifffile 2026.3 swaps their bytes
        raise BadImageError(ReasonCode.UNSUPPORTED, f"TIFF of {bits} bits, big-endian; {_REMEDY}")
    if samples.dtype.kind not in "buif":
        raise BadImageError(ReasonCode.UNSUPPORTED, f"TIFF of {samples.dtype} numbers; {_REMEDY}")
    samples = samples.astype({"bool": np.uint8, "float16": np.float32}.get(samples.dtype.name, samples.dtype))
    white = 1.0 if samples.dtype.kind == "f" else float(2 ** (bits - (samples.dtype.kind == "i")) - 1)
    if colors == _PALETTE:
        table = np.asarray(page.colormap)
        eight = table.max() < 256  # as old programs wrote it
        rgb = np.moveaxis(table, 0, -1)[samples[..., 0]]
        samples, white = np.concatenate([rgb, samples[..., 1:]], axis=-1), float(white)
        stored = Stored(rgb, depth(8 if eight else 16))
        return layers_of(samples[..., :3], stored, white)
    if colors == _CMYK and samples.shape[-1] >= 4 and tags.get(_INKS, 1) == 1 and samples.dtype.kind == "u":
        ink = samples[..., :4].astype(np.float64)
        rgb = np.rint((white - ink[..., :3]) * (white - ink[..., 3:]) / white).astype(samples.dtype)
        return layers_of(rgb, Stored(rgb, (0, white)), white)
    jpeg = colors == _YCC and page.compression in _JPEG and page.planarconfig == 1  # tifffile makes RGB of it
    count = 1 if colors in (_WHITE_IS_ZERO, _BLACK_IS_ZERO) else 3 if colors == _RGB or jpeg else 0
    unnamed = count == 1 and samples.shape[-1] > 1 + len(page.extrasamples)
    if not count or samples.shape[-1] < count or unnamed:
        name = getattr(colors, "name", colors)
        raise BadImageError(ReasonCode.UNSUPPORTED, f"TIFF in the color space {name}; {_REMEDY}")
    extra = int(page.extrasamples[0]) if page.extrasamples and samples.shape[-1] > count else 0
    stored = said_by({**tags, _BITS: bits}, samples)
    if extra not in (1, 2):
        return layers_of(samples[..., :count], stored, white)
    samples = samples[..., : count + 1]
    is_float = samples.dtype.kind == "f"
    if is_float and float(samples[..., -1].max()) > 1 + MARGIN:
        raise BadImageError(ReasonCode.UNSUPPORTED, f"TIFF of floats with an opacity beyond 1; {_REMEDY}")
    if extra == 1:  # the colors are multiplied by their opacity
        opacity = samples[..., -1:].astype(np.float64)
        plain = np.divide(samples[..., :-1] * white, opacity, out=np.zeros(samples[..., :-1].shape), where=opacity > 0)
        plain = (plain if is_float else np.rint(plain.clip(0, white))).astype(samples.dtype)
        samples = np.concatenate([plain, samples[..., -1:]], axis=-1)
    return layers_of(samples, stored, white)


def _claimed(tags: Any, bits: int) -> Pair | None:
    """Return the depth that a field claims: MaxSampleValue, OME's SignificantBits, ImageJ's display range."""
    words = str(tags.get(_DESCRIPTION, ""))[: 2**16]
    if match := re.search(r'SignificantBits="(\d{1,2})"', words):
        return depth(int(match[1]))
    if words.startswith("ImageJ=") and (match := re.search(r"^max=(\d+)", words, re.MULTILINE)):
        low = re.search(r"^min=(\d+)", words, re.MULTILINE)
        return claim(float(low[1]) if low else 0, float(match[1]))
    highest, lowest = tags.get(_HIGHEST), tags.get(_LOWEST, 0)
    highest, lowest = (value[0] if isinstance(value, tuple) else value for value in (highest, lowest))
    return claim(lowest, highest) if highest and highest < 2**bits else None


def _no_data(tags: Any) -> float | None:
    """Return the level that GDAL states for pixels without a measurement."""
    try:
        return float(tags[_NO_DATA]) if _NO_DATA in tags else None
    except (TypeError, ValueError):
        return None
