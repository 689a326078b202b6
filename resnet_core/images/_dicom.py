"""DICOM: gray levels of the first frame as a viewer shows them, rescaled and windowed.

Needs pydicom, the extra `[dicom]`. The steps are those of the standard's grayscale pipeline (PS3.3, C.11.1 and
C.11.2): stored values, modality transformation, values of interest (first window or table), polarity.
Words of functional groups count for the first frame. Padding (PS3.3, C.7.5.1.1.2) is not part of the image.
imagecodecs decodes frames that Pillow cannot: lossless JPEG, 12 bits, JPEG-LS, high-throughput JPEG 2000.
"""

import io
import math
import zlib
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resnet_core.images._codecs import jpeg2000_header, jpeg_header
from resnet_core.images.levels import BadImageError, Rule, Stored, check_size, depth, measured, whole_luma
from resnet_core.reasons import ReasonCode

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


_PREAMBLE = 128  # bytes before the magic word
_MAGIC = b"DICM"
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_SYNTAX = "1.2.840.10008.1.2"
DEFLATED = f"{_SYNTAX}.1.99".encode()
_RUN_LENGTHS, _DEFLATED_FRAME = f"{_SYNTAX}.5", f"{_SYNTAX}.8.1"
_ENCAPSULATED = b"\xfe\xff\x00\xe0"
_JP2 = b"\0\0\0\x0cjP  "  # the first bytes of a JPEG 2000 file
_BYTES_A_PIXEL = 4  # limit for a file compressed as a whole, including all beside the first frame
# Functional groups whose elements take the place of the dataset's own.
_GROUPS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")
_RGB, _DESCRIPTOR, _DATA = ("Red", "Green", "Blue"), "PaletteColorLookupTableDescriptor", "PaletteColorLookupTableData"
_PADDING = ("PixelPadding", "FloatPixelPadding", "DoubleFloatPixelPadding")
# Transfer syntaxes (`_SYNTAX`.4.*) whose frames imagecodecs decodes; pydicom takes them from here.
_JPEG, _JPEG_LS, _JPEG2000 = ("51", "57", "70"), ("80", "81"), ("90", "91", "201", "202", "203")
DECODER_DEPENDENCIES = {f"{_SYNTAX}.4.{n}": ("imagecodecs",) for n in (*_JPEG, *_JPEG_LS, *_JPEG2000)}
is_available = DECODER_DEPENDENCIES.__contains__


def is_dicom(data: bytes) -> bool:
    """Tell a DICOM file by its magic word or, if the preamble is missing, by its first element."""
    if data[_PREAMBLE : _PREAMBLE + len(_MAGIC)] == _MAGIC:
        return True
    group, element, kind = data[:2], int.from_bytes(data[2:4], "little"), data[4:6]
    if group == b"\x02\0":
        return element in (0x00, 0x01, 0x02, 0x10) and kind in (b"UL", b"OB", b"UI")
    named = kind in (b"UL", b"UI", b"CS", b"DA", b"TM", b"SH")
    return group == b"\x08\0" and element <= 0x18 and (named or int.from_bytes(data[4:8], "little") <= 64)


def decode_dicom(data: bytes, max_pixels: int, rule: Rule) -> Stored:
    """A DICOM file's bytes -> levels [H, W]. Raises BadImageError, and any error of pydicom for damaged bytes."""
    try:
        import pydicom
        from pydicom.pixels.utils import pixel_array
    except ImportError:
        raise BadImageError(ReasonCode.UNSUPPORTED, "a DICOM file; it needs `pip install 'grayline[dicom]'`") from None
    _add_decoders()
    _check_inflated(data, max_pixels)
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    if not any(word in dataset for word in _PIXELS) or "Rows" not in dataset or "Columns" not in dataset:
        raise BadImageError(ReasonCode.UNSUPPORTED, "a DICOM file without an image")
    check_size(int(dataset.Columns), int(dataset.Rows), max_pixels)
    _check_boxes(dataset.get("PixelData", b""))
    _state_syntax(dataset)
    try:
        _unpack_frame(dataset)
        stored = pixel_array(dataset, index=0)
    except (RuntimeError, ValueError) as error:
        words = " ".join(str(error).split())
        raise BadImageError(_code_of(words), words) from None
    return _levels(stored, dataset, rule)


def _code_of(words: str) -> ReasonCode:
    """Classify an error by pydicom's message; its types do not tell."""
    if "less than expected" in words:
        return ReasonCode.TRUNCATED
    unsupported = ("missing dependencies", "does not support", "is not supported")
    return ReasonCode.UNSUPPORTED if any(sign in words for sign in unsupported) else ReasonCode.DAMAGED


@cache
def _add_decoders() -> None:
    """Make imagecodecs known to pydicom, behind its own decoders."""
    from pydicom.pixels.decoders.base import get_decoder

    for syntax in DECODER_DEPENDENCIES:
        get_decoder(syntax).add_plugin("imagecodecs", (__name__, _decode_frame.__name__))


def _decode_frame(source: bytes, runner: Any) -> bytes:
    """Decode a frame for pydicom; `runner` holds the dataset's words. Raises ValueError for a frame of another size."""
    import imagecodecs

    kind = runner.transfer_syntax.rpartition(".")[2]
    header = jpeg2000_header(source) if kind in _JPEG2000 else jpeg_header(source)
    if header is None or (header.height, header.width) != (runner.rows, runner.columns):
        raise ValueError("the frame has another size than the header says")
    if kind in _JPEG2000:
        samples = imagecodecs.jpeg2k_decode(source)
        if runner.photometric_interpretation in ("YBR_ICT", "YBR_RCT"):
            runner.set_option("photometric_interpretation", "RGB")
    elif kind in _JPEG_LS:
        samples = imagecodecs.jpegls_decode(source)
    else:
        if b"\xff\xd9" not in source[-16:]:  # libjpeg fills up what is missing
            raise ValueError("the frame is truncated")
        colors = "YCBCR" if runner.photometric_interpretation.startswith("YBR") else "RGB"
        space = colors if header.components == 3 else None
        samples = imagecodecs.jpeg8_decode(source, colorspace=space, outcolorspace=space)
    runner.set_option("bits_allocated", 8 * samples.dtype.itemsize)
    if runner.samples_per_pixel > 1:
        runner.set_option("planar_configuration", 0)
    return samples.tobytes()


def _state_syntax(dataset: "Dataset") -> None:
    """Give a file without its transfer syntax the one that its elements were read by."""
    if "TransferSyntaxUID" in dataset.file_meta:
        return
    if bytes(dataset.get("PixelData", b"")[:4]) == _ENCAPSULATED:
        words = "a DICOM file that does not say how its pixels are compressed (no transfer syntax)"
        raise BadImageError(ReasonCode.UNSUPPORTED, words)
    from pydicom.uid import UID

    implicit, little = dataset.original_encoding
    dataset.file_meta.TransferSyntaxUID = UID(_SYNTAX + ("" if implicit else ".1" if little else ".2"))


def _unpack_frame(dataset: "Dataset") -> None:
    """Unpack the first frame of kinds that pydicom does not know: deflated frames, and run lengths of single bits."""
    syntax, bits = dataset.file_meta.TransferSyntaxUID, int(dataset.BitsAllocated)
    if syntax != _DEFLATED_FRAME and (syntax != _RUN_LENGTHS or bits != 1):
        return
    from pydicom.encaps import get_frame
    from pydicom.uid import ExplicitVRLittleEndian

    frame = get_frame(dataset.PixelData, 0, number_of_frames=int(dataset.get("NumberOfFrames") or 1))
    size = math.ceil(dataset.Rows * dataset.Columns * dataset.SamplesPerPixel * bits / 8)
    if syntax == _DEFLATED_FRAME:
        pixels = zlib.decompressobj(-zlib.MAX_WBITS).decompress(frame, size)
    else:
        import imagecodecs

        if int.from_bytes(frame[:4], "little") != 1:
            raise ValueError("DICOM: a frame of single bits has several segments")
        start = int.from_bytes(frame[4:8], "little")
        pixels = bytes(imagecodecs.packbits_decode(frame[start:], out=size + 128)[:size])
    if len(pixels) < size:
        raise BadImageError(ReasonCode.TRUNCATED, f"DICOM: the frame has {len(pixels):,} bytes of {size:,}")
    dataset.PixelData, dataset.NumberOfFrames = pixels + b"\0" * (size % 2), 1
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian


def _levels(stored: NDArray[Any], dataset: "Dataset", rule: Rule) -> Stored:
    """Stored values [H, W] or RGB [H, W, 3] -> levels [H, W]."""
    kind = dataset.PhotometricInterpretation
    if kind == "PALETTE COLOR":
        return _colored(stored, dataset)
    if stored.ndim == 3:
        return Stored(whole_luma(stored), stated=depth(int(dataset.BitsStored)))
    padding = _padding(stored, dataset)
    if stored.dtype.kind == "f":
        return Stored(stored, inverted=kind == "MONOCHROME1", padding=padding)
    found = _windowed(Stored(stored, padding=padding), dataset, rule)
    if dataset.get("PixelPresentation") in ("COLOR", "MIXED") and f"Red{_DESCRIPTOR}" in dataset:
        found = _supplemented(found, stored, dataset)
    return found._replace(inverted=kind == "MONOCHROME1", padding=padding)


def _padding(stored: NDArray[Any], dataset: "Dataset") -> NDArray[np.bool_] | None:
    """Return which stored values [H, W] are padding; None without a padding value."""
    for name in _PADDING:
        value = dataset.get(f"{name}Value")
        if value is None or isinstance(value, bytes):
            continue
        other = dataset.get(f"{name}RangeLimit", value)
        # Many files give the value of signed pixels without its sign.
        ends = np.array([value, other]).astype(stored.dtype) if stored.dtype.kind in "iu" else (value, other)
        return (stored >= min(ends)) & (stored <= max(ends))
    return None


def _words(dataset: "Dataset") -> Iterator["Dataset"]:
    """Yield the places of rescaling and window, the first frame's own first, the dataset itself last."""
    for name in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        for frame in (dataset.get(name) or ())[:1]:
            for group in _GROUPS:
                yield from (frame.get(group) or ())[:1]
    yield dataset


def _with(dataset: "Dataset", name: str) -> "Dataset | None":
    """Return the first of `_words` that states an element."""
    return next((words for words in _words(dataset) if words.get(name) not in (None, "", [])), None)


def _windowed(stored: Stored, dataset: "Dataset", rule: Rule) -> Stored:
    """Stored values [H, W] -> values through the modality, and the first window.

    Without a window, 8 bits are used as they are. Deeper images often use a few hundred of their values: BitsStored
    is a claim.
    """
    values, span = _rescaled(stored.levels, dataset)
    if tables := _with(dataset, "VOILUTSequence"):
        return _looked_up(values, tables.VOILUTSequence[0], dataset)
    if (window := _with(dataset, "WindowWidth")) and window.get("WindowCenter") is not None:
        center, width = _first(window.WindowCenter), _first(window.WindowWidth)
        return _window(values, center, width, window.get("VOILUTFunction", "LINEAR"))
    if "ModalityLUTSequence" in dataset or dataset.BitsStored <= 8:
        return Stored(values, stated=span)
    if rule.decided is None:  # the rule of older releases: each file's own range
        found = measured(stored._replace(levels=values))
        return Stored(values, stated=(found.low, found.high))
    return Stored(values, claimed=span if dataset.BitsStored < dataset.BitsAllocated else None)


def _rescaled(stored: NDArray[Any], dataset: "Dataset") -> tuple[NDArray[Any], tuple[float, float]]:
    """Apply the modality's table, or slope and intercept, to stored values [H, W]; also return the possible range."""
    if dataset.get("ModalityLUTSequence"):
        found = _looked_up(stored, dataset.ModalityLUTSequence[0], dataset)
        return found.levels, found.stated or (0, 65535)
    half = 2 ** (int(dataset.BitsStored) - 1)
    low, high = (-half, half - 1) if dataset.PixelRepresentation else (0, 2 * half - 1)
    words = _with(dataset, "RescaleSlope")
    slope = float(words.RescaleSlope) if words else 1.0
    intercept = float(words.get("RescaleIntercept") or 0) if words else 0.0
    if slope == 1 and intercept == 0:
        return stored, (low, high)
    values = stored * slope + intercept
    ends = sorted((low * slope + intercept, high * slope + intercept))
    whole = slope.is_integer() and intercept.is_integer() and max(map(abs, ends)) < 2**31
    return values.astype(np.int32) if whole else values, (ends[0], ends[1])


def _looked_up(values: NDArray[Any], item: "Dataset", dataset: "Dataset") -> Stored:
    """Look values [H, W] up in a table (PS3.3, C.11.1.1 and C.11.2.1.1); those beyond get its ends."""
    levels, bits = _entries(values, item.LUTDescriptor, item.LUTData, dataset)
    return Stored(levels, stated=depth(max(int(item.LUTDescriptor[2]), bits)))


def _entries(values: NDArray[Any], descriptor: Any, data: Any, dataset: "Dataset") -> tuple[NDArray[np.uint16], int]:
    """Return a table's entries for values [H, W], and the bits of its largest. descriptor: count, first value, bits."""
    count, first = int(descriptor[0]) or 2**16, int(descriptor[1])
    order = "<" if dataset.original_encoding[1] is not False else ">"
    if not isinstance(data, bytes):
        data = np.atleast_1d(np.asarray(data)).astype(f"{order}u2").tobytes()
    if len(data) < 2 * count:  # two entries a word
        table = np.frombuffer(data[: len(data) // 2 * 2], f"{order}u2").astype("<u2").view(np.uint8)[:count]
    else:
        table = np.frombuffer(data, f"{order}u2")[:count]
    if len(table) < count:
        raise BadImageError(ReasonCode.DAMAGED, "DICOM: a table of levels is shorter than it says")
    places = (np.rint(values).astype(np.int64) - first).clip(0, count - 1)
    return table.astype(np.uint16)[places], int(table.max()).bit_length()


def _colored(values: NDArray[Any], dataset: "Dataset") -> Stored:
    """Look values [H, W] up in the palette (PS3.3, C.7.6.3.1.5 and C.7.6.3.1.6) -> their luma."""
    if f"Red{_DATA}" in dataset:
        tables = [(dataset[f"{color}{_DESCRIPTOR}"].value, dataset[f"{color}{_DATA}"].value) for color in _RGB]
        colors, bits = zip(*(_entries(values, *table, dataset) for table in tables), strict=True)
        return Stored(whole_luma(np.stack(colors, axis=-1)), stated=depth(16 if max(bits) > 8 else 8))
    from pydicom.pixels.processing import apply_color_lut

    count, first, bits = dataset[f"Red{_DESCRIPTOR}"].value
    if bits == 8 and not 0 < count <= 256:  # pydicom 3.0 wraps their places
        raise BadImageError(ReasonCode.UNSUPPORTED, "a DICOM palette in segments, of 8 bits, with over 256 colors")
    levels = whole_luma(apply_color_lut(values.clip(first, first + (count or 2**16) - 1), dataset))
    return Stored(levels, stated=depth(8 * levels.dtype.itemsize))


def _supplemented(gray: Stored, values: NDArray[Any], dataset: "Dataset") -> Stored:
    """Put the colors of a supplemental palette, from its first value on, in place of gray (PS3.3, C.7.6.19)."""
    if gray.stated is None:
        raise BadImageError(ReasonCode.UNSUPPORTED, "a DICOM image of colors over gray levels without a window")
    black, white = gray.stated
    shares = ((gray.levels - black) / (white - black)).clip(0, 1)
    colors = _colored(values, dataset)
    assert colors.stated
    is_color = values >= int(dataset[f"Red{_DESCRIPTOR}"].value[1])
    return Stored(np.where(is_color, colors.levels / colors.stated[1], shares), stated=(0, 1))


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
