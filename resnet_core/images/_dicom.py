"""DICOM: gray levels of the first frame as a viewer shows them, rescaled and windowed.

Needs pydicom, the extra `[dicom]`. The steps are those of the standard's grayscale pipeline (PS3.3, C.11.1 and
C.11.2): stored values, modality transformation, values of interest (first window or table), polarity.
"""

import io
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resnet_core.images.levels import BadImageError, Rule, Stored, check_size, depth, measured, whole_luma
from resnet_core.reasons import ReasonCode

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


_PREAMBLE = 128  # bytes before the magic word
_MAGIC = b"DICM"
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
DEFLATED = b"1.2.840.10008.1.2.1.99"
_JP2 = b"\0\0\0\x0cjP  "  # the first bytes of a JPEG 2000 file
_BYTES_A_PIXEL = 4  # limit for a file compressed as a whole, including all beside the first frame


def is_dicom(data: bytes) -> bool:
    return data[_PREAMBLE : _PREAMBLE + len(_MAGIC)] == _MAGIC


def decode_dicom(data: bytes, max_pixels: int, rule: Rule) -> Stored:
    """A DICOM file's bytes -> levels [H, W]. Raises BadImageError, and any error of pydicom for damaged bytes."""
    try:
        import pydicom
        from pydicom.pixels.utils import pixel_array
    except ImportError:
        raise BadImageError(ReasonCode.UNSUPPORTED, "a DICOM file; it needs `pip install 'grayline[dicom]'`") from None
    _check_inflated(data, max_pixels)
    dataset = pydicom.dcmread(io.BytesIO(data))
    if not any(word in dataset for word in _PIXELS) or "Rows" not in dataset or "Columns" not in dataset:
        raise BadImageError(ReasonCode.UNSUPPORTED, "a DICOM file without an image")
    check_size(int(dataset.Columns), int(dataset.Rows), max_pixels)
    _check_boxes(dataset.get("PixelData", b""))
    try:
        stored = pixel_array(dataset, index=0)
    except (RuntimeError, ValueError) as error:
        words = " ".join(str(error).split())
        raise BadImageError(_code_of(words), words) from None
    return _levels(stored, dataset, rule)


def _code_of(words: str) -> ReasonCode:
    """Classify an error by pydicom's message; its types do not tell."""
    if "less than expected" in words:
        return ReasonCode.TRUNCATED
    unsupported = "missing dependencies" in words or "does not support" in words
    return ReasonCode.UNSUPPORTED if unsupported else ReasonCode.DAMAGED


def _levels(stored: NDArray[Any], dataset: "Dataset", rule: Rule) -> Stored:
    """Stored values [H, W] or RGB [H, W, 3] -> levels [H, W]."""
    from pydicom.pixels.processing import apply_color_lut

    kind = dataset.PhotometricInterpretation
    if kind == "PALETTE COLOR":
        levels = whole_luma(apply_color_lut(stored, dataset))
        return Stored(levels, stated=depth(8 * levels.dtype.itemsize))
    if stored.ndim == 3:
        return Stored(whole_luma(stored), stated=depth(int(dataset.BitsStored)))
    found = Stored(stored) if stored.dtype.kind == "f" else _windowed(stored, dataset, rule)
    return found._replace(inverted=kind == "MONOCHROME1")


def _windowed(stored: NDArray[Any], dataset: "Dataset", rule: Rule) -> Stored:
    """Stored values [H, W] -> values through the modality, and the first window.

    Without a window, 8 bits are used as they are. Deeper images often use a few hundred of their values: BitsStored
    is a claim.
    """
    from pydicom.pixels.processing import apply_modality_lut, apply_voi

    values = apply_modality_lut(stored, dataset)
    if "VOILUTSequence" in dataset:
        bits = dataset.VOILUTSequence[0].LUTDescriptor[2]
        return Stored(apply_voi(values, dataset), stated=depth(bits))
    if dataset.get("WindowWidth") and dataset.get("WindowCenter") is not None:
        center, width = _first(dataset.WindowCenter), _first(dataset.WindowWidth)
        return _window(values, center, width, dataset.get("VOILUTFunction", "LINEAR"))
    if "ModalityLUTSequence" in dataset:
        return Stored(values, stated=depth(dataset.ModalityLUTSequence[0].LUTDescriptor[2]))
    slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    half = 2 ** (int(dataset.BitsStored) - 1)
    low, high = (-half, half - 1) if dataset.PixelRepresentation else (0, 2 * half - 1)
    span = (low * slope + intercept, high * slope + intercept)
    if dataset.BitsStored <= 8:
        return Stored(values, stated=span)
    if rule.decided is None:  # the rule of older releases: each file's own range
        found = measured(Stored(values))
        return Stored(values, stated=(found.low, found.high))
    return Stored(values, claimed=span if dataset.BitsStored < dataset.BitsAllocated else None)


def _window(values: NDArray[Any], center: float, width: float, function: str) -> Stored:
    """Apply a window (PS3.3, C.11.2.1.2 and C.11.2.1.3) to values [H, W]."""
    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            return Stored(1 / (1 + np.exp(-4 * (values - center) / width)), stated=(0, 1))
    if function == "LINEAR":
        center, width = center - 0.5, max(width - 1, 1e-9)
    return Stored(values, stated=(center - width / 2, center + width / 2))


def _check_inflated(data: bytes, max_pixels: int) -> None:
    """Raise BadImageError for a file, compressed as a whole, that pydicom would unpack to an excessive size."""
    syntax, start = transfer_syntax(data)
    if syntax != DEFLATED:
        return
    limit = _BYTES_A_PIXEL * max_pixels
    inflate, rest, size = zlib.decompressobj(-zlib.MAX_WBITS), data[start:], 0
    while rest and size <= limit:
        size += len(inflate.decompress(rest, 2**20))
        rest = inflate.unconsumed_tail
    if size > limit:
        raise BadImageError(ReasonCode.TOO_LARGE, f"unpacks to more than {limit:,} bytes")


def _check_boxes(pixels: bytes) -> None:
    """Raise BadImageError for a box of 0 bytes, which sends pydicom 3.0 into an endless loop."""
    place = pixels.find(_JP2)
    while 0 <= place < len(pixels) and pixels[place + 4 : place + 8] != b"jp2c":
        length = int.from_bytes(pixels[place : place + 4], "big")
        if length == 0:
            raise BadImageError(ReasonCode.DAMAGED, "JPEG 2000: a box of 0 bytes before the codestream")
        place += length


def transfer_syntax(data: bytes) -> tuple[bytes, int]:
    """Return how the file is encoded, and the end of its file meta information, group 2 (PS3.10, 7.1)."""
    syntax, place = b"", _PREAMBLE + len(_MAGIC)
    while data[place : place + 2] == b"\x02\x00":
        element, kind = data[place + 2 : place + 4], data[place + 4 : place + 6]
        long = kind in (b"OB", b"OW", b"SQ", b"UN", b"UT")
        start = place + (12 if long else 8)
        end = start + int.from_bytes(data[place + 8 : start] if long else data[place + 6 : start], "little")
        if element == b"\x10\x00":
            syntax = data[start:end].rstrip(b"\0 ")
        place = end
    return syntax, place


def _first(value: Any) -> float:
    """Return the value of the first window, which is the one to show."""
    return float(value if isinstance(value, str | float | int) else value[0])
