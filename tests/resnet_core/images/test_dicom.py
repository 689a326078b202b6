"""DICOM: what a viewer shows, on the real files that pydicom's wheel brings, and a reason for all others."""

import io
import struct
import subprocess
import sys
import warnings
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest

from resnet_core.images._dicom import decode_dicom, is_dicom, transfer_syntax
from resnet_core.images.decode import decode
from resnet_core.images.levels import BadImageError, Decided, Rule, luma

pydicom = pytest.importorskip("pydicom")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

FILES = Path(pydicom.__file__).parent / "data" / "test_files"


def bytes_of(name: str) -> bytes:
    return (FILES / name).read_bytes()


def changed(name: str, **elements: Any) -> bytes:
    """The file with some elements set, or removed when None."""
    dataset = pydicom.dcmread(FILES / name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for keyword, value in elements.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
        sink = io.BytesIO()
        dataset.save_as(sink)
    return sink.getvalue()


def stored(name: str) -> np.ndarray:
    return pydicom.dcmread(FILES / name).pixel_array.astype(np.float64)


def test_the_window_is_applied() -> None:
    gray = decode(bytes_of("MR_small.dcm"))  # centre 600, width 1600
    wanted = ((stored("MR_small.dcm") - 599.5) / 1599 + 0.5).clip(0, 1) * 255
    assert np.abs(gray - wanted).max() <= 0.5 + 1e-9


def test_the_first_of_several_windows_is_the_one() -> None:
    several = changed("MR_small.dcm", WindowCenter=[600, 10], WindowWidth=[1600, 10])
    assert np.array_equal(decode(several), decode(bytes_of("MR_small.dcm")))


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        ("LINEAR_EXACT", lambda x: ((x - 600) / 1600 + 0.5).clip(0, 1)),
        ("SIGMOID", lambda x: 1 / (1 + np.exp(-4 * (x - 600) / 1600))),
    ],
)
def test_windows_of_other_shapes(function: str, wanted: Any) -> None:
    gray = decode(changed("MR_small.dcm", VOILUTFunction=function))
    assert np.abs(gray - wanted(stored("MR_small.dcm")) * 255).max() <= 0.5 + 1e-9


def test_the_window_is_one_of_rescaled_values() -> None:
    moved = changed("MR_small.dcm", RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=200, WindowWidth=3199)
    gray, wanted = decode(moved), ((2 * stored("MR_small.dcm") - 1199.5) / 3198 + 0.5).clip(0, 1) * 255
    assert np.abs(gray - wanted).max() <= 0.5 + 1e-9


def test_monochrome1_is_inverted() -> None:
    inverted = decode(changed("MR_small.dcm", PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(inverted, 255 - decode(bytes_of("MR_small.dcm")))


def test_without_a_window_the_range_of_the_image_is_stretched() -> None:
    values = stored("CT_small.dcm")  # 16 bits, of which it uses a few hundred values
    wanted = (values - values.min()) / (values.max() - values.min()) * 255
    assert np.abs(decode(bytes_of("CT_small.dcm")) - wanted).max() <= 0.5 + 1e-9


def test_eight_bits_are_taken_as_they_are() -> None:
    assert np.array_equal(decode(bytes_of("image_dfl.dcm")), stored("image_dfl.dcm"))


@pytest.mark.parametrize(
    "name", ["MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_jp2klossless.dcm"]
)
def test_every_encoding_gives_the_same_gray(name: str) -> None:
    assert np.array_equal(decode(bytes_of(name)), decode(bytes_of("MR_small.dcm")))


@pytest.mark.parametrize("name", ["examples_rgb_color.dcm", "SC_rgb_rle.dcm", "examples_palette.dcm"])
def test_colours_become_luma(name: str) -> None:
    dataset = pydicom.dcmread(FILES / name)
    rgb = dataset.pixel_array
    if name == "examples_palette.dcm":
        rgb = pydicom.pixels.apply_color_lut(rgb, dataset) / 257
    assert np.abs(decode(bytes_of(name)) - luma(rgb)).max() <= 1


def test_ybr_is_converted() -> None:
    name = "SC_ybr_full_422_uncompressed.dcm"
    rgb = pydicom.pixels.pixel_array(FILES / name)
    assert np.abs(decode(bytes_of(name)) - luma(rgb)).max() <= 1


def test_the_first_of_many_frames() -> None:
    frames = pydicom.dcmread(FILES / "SC_rgb_rle_2frame.dcm").pixel_array
    assert np.abs(decode(bytes_of("SC_rgb_rle_2frame.dcm")) - luma(frames[0])).max() <= 1
    assert decode(bytes_of("examples_ybr_color.dcm")).shape == (240, 320)  # of 30 frames


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("MR_truncated.dcm", "truncated"),
        ("rtplan.dcm", "unsupported"),
        ("test-SR.dcm", "unsupported"),
        ("JPEG2000-embedded-sequence-delimiter.dcm", "damaged"),
    ],
)
def test_what_gives_no_image_says_why(name: str, code: str) -> None:
    with pytest.raises(BadImageError) as caught:
        decode(bytes_of(name))
    assert caught.value.reason.code == code
    assert "\n" not in caught.value.reason.text


@pytest.mark.parametrize(
    ("packed", "plain"),
    [
        ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"),
        ("SC_rgb_jpeg_gdcm.dcm", "SC_rgb_rle.dcm"),  # lossless JPEG
    ],
)
def test_lossless_frames_that_only_imagecodecs_decodes(packed: str, plain: str) -> None:
    assert np.array_equal(decode(bytes_of(packed)), decode(bytes_of(plain)))


def test_twelve_bits_of_jpeg_and_nearly_lossless_frames() -> None:
    gray = decode(bytes_of("JPGExtended.dcm"))  # pylibjpeg: 0 to 264, off by one at most
    assert (gray.shape, gray.min(), gray.max()) == ((1024, 256), 0, 255)
    lossy = decode(bytes_of("SC_rgb_jls_lossy_line.dcm"))
    assert np.abs(lossy.astype(int) - decode(bytes_of("SC_rgb_rle.dcm"))).max() <= 5
    assert np.array_equal(lossy, decode(bytes_of("SC_rgb_jls_lossy_sample.dcm")))


def drawn(levels: np.ndarray, **elements: Any) -> bytes:
    """An explicit little-endian file of uint16 or int16 [H, W]."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = levels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.PixelRepresentation = int(levels.dtype.kind == "i")
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelData = levels.tobytes()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    sink = io.BytesIO()
    dataset.save_as(sink, enforce_file_format=True)
    return sink.getvalue()


def items(**elements: Any) -> Any:
    item = pydicom.Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return pydicom.Sequence([item])


RAMP = (np.arange(256, dtype=np.uint16) * 16).reshape(16, 16)


@pytest.mark.parametrize(
    "padding", [{"PixelPaddingValue": 65535}, {"PixelPaddingValue": 60000, "PixelPaddingRangeLimit": 65535}]
)
@pytest.mark.parametrize("window", [{}, {"WindowCenter": 2041, "WindowWidth": 4081}])
def test_padding_is_not_part_of_the_image(padding: dict[str, int], window: dict[str, int]) -> None:
    stored = RAMP.copy()
    stored[:2] = 65535
    gray = decode(drawn(stored, **padding, **window), Rule(background=7))
    assert (gray[:2] == 7).all()
    wanted = (stored[2:] - (0 if window else 512.0)) / (4080 if window else 3568) * 255
    assert np.abs(gray[2:] - wanted).max() <= 0.5 + 1e-9


def test_padding_of_signed_pixels_may_lack_its_sign() -> None:
    stored = RAMP.astype(np.int16)
    stored[0] = -2000
    data = drawn(stored, PixelPaddingValue=-2000, PhotometricInterpretation="MONOCHROME1")
    gray = decode(data, Rule(background=9))
    assert (gray[0] == 9).all()
    assert (gray[1, 0], gray[-1, -1]) == (255, 0)
    tag = b"\x28\0\x20\x01SS\2\0"
    assert np.array_equal(decode(data.replace(tag, tag.replace(b"SS", b"US")), Rule(background=9)), gray)


def test_windows_and_rescaling_of_functional_groups() -> None:
    window = items(WindowCenter=1000, WindowWidth=2001)
    flat = decode(drawn(RAMP, RescaleSlope=2, RescaleIntercept=-100, WindowCenter=1000, WindowWidth=2001))
    rescaling = items(RescaleSlope=2, RescaleIntercept=-100, RescaleType="US")
    shared = items(PixelValueTransformationSequence=rescaling, FrameVOILUTSequence=items(WindowCenter=1, WindowWidth=5))
    own = items(FrameVOILUTSequence=window)
    data = drawn(RAMP, SharedFunctionalGroupsSequence=shared, PerFrameFunctionalGroupsSequence=own)
    wanted = ((RAMP * 2.0 - 100 - 999.5) / 2000 + 0.5).clip(0, 1) * 255
    assert np.abs(flat - wanted).max() <= 0.5 + 1e-9
    assert np.array_equal(decode(data), flat)


@pytest.mark.parametrize("sequence", ["VOILUTSequence", "ModalityLUTSequence"])
@pytest.mark.parametrize("packing", [np.uint8, np.uint16])
def test_a_table_of_eight_bits_for_twelve(sequence: str, packing: Any) -> None:
    data = (255 - np.arange(4096) // 16).astype(packing).tobytes()
    item = items(LUTDescriptor=[4096, 0, 8], LUTData=data, ModalityLUTType="US")
    assert np.array_equal(decode(drawn(RAMP, **{sequence: item})), 255 - RAMP // 16)


def palette(bits: int, packing: str, count: int = 256) -> dict[str, Any]:
    """Red, green and blue that fall, in a table of `count` entries."""
    entries = (np.arange(count)[::-1] * (2**bits - 1) / (count - 1)).round().astype(packing).tobytes()
    names = [f"{color}PaletteColorLookupTable" for color in ("Red", "Green", "Blue")]
    return {f"{name}Descriptor": [count, 0, bits] for name in names} | {f"{name}Data": entries for name in names}


@pytest.mark.parametrize("table", [(16, "<u2"), (8, "u1"), (8, "<u2"), (16, "<u2", 4096), (8, "u1", 4096)])
def test_palettes_of_every_packing(table: Any) -> None:
    count = table[2] if len(table) > 2 else 256
    places = RAMP // 16 * (count - 1) // 255
    gray = decode(drawn(places, PhotometricInterpretation="PALETTE COLOR", **palette(*table)))
    assert np.abs(gray - (1 - places / (count - 1)) * 255).max() <= 1


@pytest.mark.parametrize(("bits", "packing"), [(16, "u2"), (8, "u1"), (8, "u2")])
def test_a_palette_in_the_other_byte_order(bits: int, packing: str) -> None:
    dataset = pydicom.dcmread(FILES / "MR_small_bigendian.dcm")
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    for key, value in palette(bits, f">{packing}", 4096).items():
        swapped = packing == "u1" and isinstance(value, bytes)  # two entries in a word
        setattr(dataset, key, np.frombuffer(value, ">u2").astype("<u2").tobytes() if swapped else value)
        dataset[key].VR = "OW" if isinstance(value, bytes) else "SS"
    sink = io.BytesIO()
    dataset.save_as(sink)
    wanted = (1 - stored("MR_small.dcm").clip(0, 4095) / 4095) * 255
    assert np.abs(decode(sink.getvalue()) - wanted).max() <= 1


def test_colors_over_gray() -> None:
    table = palette(16, "<u2")
    table |= {key: [256, 3000, 16] for key in table if key.endswith("Descriptor")}
    gray = decode(drawn(RAMP, WindowCenter=1500, WindowWidth=3001, PixelPresentation="COLOR", **table))
    below = RAMP < 3000
    assert np.abs(gray[below] - RAMP[below] / 3000 * 255).max() <= 0.6
    assert np.abs(gray[~below] - (255 - (RAMP[~below] - 3000.0)).clip(0)).max() <= 1
    with pytest.raises(BadImageError, match="without a window"):
        decode(drawn(RAMP, PixelPresentation="COLOR", **table), Rule(decided=Decided()))


def test_single_bits_in_run_lengths_and_deflated_frames() -> None:
    bits = np.random.default_rng(3).integers(0, 2, (13, 11), dtype=np.uint8)
    packed = np.packbits(bits, axis=None, bitorder="little").tobytes()
    segment = imagecodecs.packbits_encode(packed)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    frames = {
        "1.2.840.10008.1.2.5": struct.pack("<16L", 1, 64, *[0] * 14) + segment,
        "1.2.840.10008.1.2.8.1": deflate.compress(packed) + deflate.flush(),
    }
    for syntax, frame in frames.items():
        for wanted, part in (("", frame), ("truncated: DICOM: the frame has", frame[: len(frame) // 2])):
            data = encapsulated(bits, syntax, [part, part])
            if wanted:
                with pytest.raises(BadImageError, match=wanted):
                    decode(data)
            else:
                assert np.array_equal(decode(data), bits * 255)


def encapsulated(levels: np.ndarray, syntax: str, frames: list[bytes]) -> bytes:
    """A file of single bits whose frames are packed."""
    dataset = pydicom.dcmread(io.BytesIO(drawn(levels.astype(np.uint16))))
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.NumberOfFrames = 1, 1, 0, len(frames)
    dataset.PixelData = pydicom.encaps.encapsulate([frame + b"\0" * (len(frame) % 2) for frame in frames])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.5"
    sink = io.BytesIO()
    dataset.save_as(sink, enforce_file_format=True)
    written = sink.getvalue()
    if syntax.endswith(".5"):
        return written
    # pydicom does not write deflated frames: the name of their syntax is longer by two bytes.
    old, new = b"\x14\0" + b"1.2.840.10008.1.2.5\0", b"\x16\0" + syntax.encode() + b"\0"
    (length,) = struct.unpack_from("<L", written, 140)
    return written[:140] + struct.pack("<L", length + 2) + written[144:].replace(old, new)


@pytest.mark.parametrize("name", ["MR_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm"])
def test_a_file_without_preamble(name: str) -> None:
    whole = bytes_of(name)
    _, start = transfer_syntax(whole)
    assert np.array_equal(decode(whole[132:]), decode(whole))
    if "big" not in name:  # nor the group that says how it is encoded
        assert np.array_equal(decode(whole[start:]), decode(whole))


def test_every_file_is_an_image_or_has_a_reason(capfd: pytest.CaptureFixture[str]) -> None:
    data = [path.read_bytes() for path in sorted(FILES.rglob("*")) if path.is_file()]
    images = 0
    for file in filter(is_dicom, data):
        with suppress(BadImageError):
            images += decode(file).ndim == 2
    assert images > 75
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["MR_small.dcm", "MR_small_RLE.dcm", "image_dfl.dcm", "SC_rgb_small_odd_jpeg.dcm"])
def test_damage_is_a_reason(name: str) -> None:
    whole = bytes_of(name)
    for tenth in range(1, 10):
        cut = whole[: len(whole) * tenth // 10]
        if not is_dicom(cut):
            continue
        with pytest.raises(BadImageError):
            decode(cut)


def test_a_box_without_a_length_does_not_hang() -> None:
    whole = bytes_of("GDCMJ2K_TextGBR.dcm")  # JPEG 2000 in boxes
    place = whole.index(b"ftypjp2 ") - 4
    with pytest.raises(BadImageError, match="0 bytes"):
        decode(whole[:place] + bytes(4) + whole[place + 4 :])


def test_the_pixel_limit_holds_before_anything_is_unpacked() -> None:
    with pytest.raises(BadImageError, match=r"too large: 60000 x 60000 pixels"):
        decode(changed("MR_small.dcm", Rows=60_000, Columns=60_000))


def test_a_bomb_in_a_deflated_file_is_too_large() -> None:
    whole = bytes_of("image_dfl.dcm")
    _, start = transfer_syntax(whole)
    elements = zlib.decompress(whole[start:], -zlib.MAX_WBITS)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = whole[:start] + deflate.compress(elements + bytes(2**24)) + deflate.flush()
    assert len(bomb) < 2**19
    with pytest.raises(BadImageError, match="too large: unpacks to more than"):
        decode_dicom(bomb, 2**20, Rule())


def test_without_pydicom_it_says_what_to_install() -> None:
    code = """
import sys
sys.modules["pydicom"] = None  # what an installation without the extra comes to
from resnet_core.images.decode import decode
from resnet_core.images.levels import BadImageError
try:
    decode(sys.stdin.buffer.read())
except BadImageError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", code], input=bytes_of("MR_small.dcm"), capture_output=True, check=True)
    assert ran.stdout.decode().strip() == "unsupported: a DICOM file; it needs `pip install 'grayline[dicom]'`"


def test_pydicom_is_imported_for_dicom_only() -> None:
    code = """
import sys
from resnet_core.images.decode import decode
from resnet_core.images.levels import BadImageError
try:
    decode(b"no image")
except BadImageError:
    print([name for name in ("pydicom", "torch", "cv2") if name in sys.modules])
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert ran.stdout.decode().strip() == "[]"
