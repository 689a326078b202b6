"""Kinds of files that decoders spoil without an error, held against the numbers they are drawn from."""

import io
import itertools
import random
import struct
import zlib
from contextlib import suppress
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from resnet_core.images import _tiff
from resnet_core.images import decode as decoder
from resnet_core.images.decode import decode
from resnet_core.images.levels import BadImageError, Decided, Rule, luma

LEVELS = {
    "u1": (0, 255), "u2": (0, 65535), "u4": (0, 2**32 - 1), "u8": (0, 2**53),
    "i1": (-128, 127), "i2": (-32768, 32767), "i4": (-(2**31), 2**31 - 1),
    "f2": (-2, 3), "f4": (-2, 3), "f8": (-2, 3),
}  # fmt: skip
COMPRESSIONS = [None, "zlib", "lzw", "packbits", "lzma", "zstd"]


def numbers(kind: str, *shape: int) -> np.ndarray:
    """All over the range of a type, both ends among them."""
    low, high = LEVELS[kind]
    drawn = np.random.default_rng(7).random(shape) * (high - low) + low
    drawn.ravel()[:2] = low, high
    return drawn.astype(kind) if kind[0] == "f" else drawn.clip(low, high).round().astype(kind)


def tiff(samples: np.ndarray, **how: Any) -> bytes:
    sink = io.BytesIO()
    tifffile.imwrite(sink, samples, **how)
    return sink.getvalue()


def over(low: float, high: float, background: int = 0) -> Rule:
    return Rule(setting=(low, high), decided=Decided(), background=background)


def check(data: bytes, wanted: np.ndarray, kind: str) -> None:
    """wanted: levels [H, W] as numbers of that kind."""
    low, high = LEVELS[kind]
    gray = decode(data, over(low, high))
    ideal = (wanted.astype(np.float64) - low) / (high - low) * 255
    assert gray.shape == wanted.shape
    assert np.abs(gray - ideal).max() <= (1.0 if kind[1] == "1" else 0.51)


@pytest.mark.parametrize("layout", ["gray", "rgb", "planes"])
@pytest.mark.parametrize("kind", LEVELS)
def test_tiffs_of_every_kind_that_tifffile_writes(kind: str, layout: str) -> None:
    samples = numbers(kind, 37, 43) if layout == "gray" else numbers(kind, 37, 43, 3)
    wanted = samples if layout == "gray" else luma(samples)
    how: dict[str, Any] = {"photometric": "minisblack" if layout == "gray" else "rgb"}
    if layout == "planes":
        samples, how["planarconfig"] = samples.transpose(2, 0, 1).copy(), "separate"
    parts: list[dict[str, Any]] = [{"rowsperstrip": 7}, {"tile": (16, 32)}, {}]
    for order, compression, part in itertools.product("<>", COMPRESSIONS, parts):
        predictors = [False, True] if compression in ("zlib", "lzw", "zstd") and kind != "u8" else [False]
        for predictor in predictors:
            data = tiff(samples, byteorder=order, compression=compression, predictor=predictor, **part, **how)
            check(data, wanted, kind)
    check(tiff(samples, bigtiff=True, byteorder=">", **how), wanted, kind)


@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "i1", "i2", "f4"])
def test_white_is_zero(kind: str) -> None:
    low, high = LEVELS[kind]
    samples = numbers(kind, 9, 11)
    check(tiff(samples, photometric="miniswhite"), low + high - samples.astype(np.float64), kind)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_any_number_of_bits_states_its_white(bits: int, white_is_zero: bool) -> None:
    levels = np.linspace(0, 2**bits - 1, 80).round().astype(np.uint32).reshape(5, 16)
    packed = (levels[..., None] >> np.arange(bits - 1, -1, -1) & 1).astype(np.uint8).reshape(5, -1)
    gray = decode(tiff_of(5, 16, np.packbits(packed, axis=1).tobytes(), {258: bits, 262: 0 if white_is_zero else 1}))
    ideal = levels / (2**bits - 1) * 255
    assert np.abs(gray - (255 - ideal if white_is_zero else ideal)).max() <= 0.51


def tiff_of(height: int, width: int, strip: bytes, tags: dict[int, int]) -> bytes:
    """A big-endian TIFF of one uncompressed strip."""
    tags = {256: width, 257: height, 259: 1, 273: 0, 277: 1, 278: height, 279: len(strip), **tags}
    start = 8 + 2 + 12 * len(tags) + 4
    entries = (struct.pack(">HHII", tag, 4, 1, start if tag == 273 else tags[tag]) for tag in sorted(tags))
    return b"MM\0*" + struct.pack(">IH", 8, len(tags)) + b"".join(entries) + bytes(4) + strip


@pytest.mark.parametrize("planes", [False, True])
def test_ink_of_sixteen_bits(planes: bool) -> None:
    ink = numbers("u2", 9, 11, 4)
    wanted = luma((65535.0 - ink[..., :3]) * (65535 - ink[..., 3:]) / 65535)
    samples = ink.transpose(2, 0, 1).copy() if planes else ink
    data = tiff(samples, photometric="separated", planarconfig="separate" if planes else "contig")
    assert np.abs(decode(data) - wanted / 257).max() <= 0.51


@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize("multiplied", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_opacity_shows_the_background(kind: str, multiplied: bool, count: int) -> None:
    white, background = LEVELS[kind][1], 40
    samples = numbers(kind, 12, 12, count + 1)
    samples[0, :, -1] = 0
    if multiplied:
        samples[..., :-1] = (samples[..., :-1].astype(np.float64) * samples[..., -1:] / white).round()
    opacity = samples[..., -1] / white
    level = (luma(samples) if count == 3 else samples[..., 0]) / white * 255
    wanted = (level if multiplied else level * opacity) + (1 - opacity) * background
    how = {"photometric": "rgb" if count == 3 else "minisblack", "planarconfig": "contig"}
    data = tiff(samples, extrasamples=["assocalpha" if multiplied else "unassalpha"], **how)
    gray = decode(data, over(0, white, background))
    assert np.abs(gray - wanted).max() <= (2 if kind == "u1" else 1)


def test_a_palette_of_sixteen_bits() -> None:
    colors, places = numbers("u2", 3, 65536), np.arange(65536, dtype=np.uint16).reshape(256, 256)
    data = tiff(places, photometric="palette", colormap=colors)
    assert np.abs(decode(data) - luma(colors.T)[places] / 257).max() <= 0.51


def test_a_palette_of_eight_bits_as_old_programs_wrote_it() -> None:
    colors, places = numbers("u1", 3, 256).astype(np.uint16), numbers("u1", 9, 11)
    gray = decode(tiff(places, photometric="palette", colormap=colors))
    assert np.abs(gray - luma(colors.T)[places]).max() <= 0.51


def test_of_a_volume_a_stack_and_a_pyramid_the_first_image() -> None:
    samples = numbers("u2", 5, 32, 48)
    for data in (
        tiff(samples, volumetric=True, tile=(16, 16, 16)),
        tiff(samples, photometric="minisblack"),
        tiff(samples[:4].reshape(2, 2, 32, 48), imagej=True, metadata={"axes": "TZYX"}),
        tiff(samples[None], ome=True, metadata={"axes": "TZYX"}),
    ):
        check(data, samples[0], "u2")
    sink = io.BytesIO()
    with tifffile.TiffWriter(sink) as writer:
        writer.write(samples[0], subifds=1)
        writer.write(samples[0, ::2, ::2], subfiletype=1)
    check(sink.getvalue(), samples[0], "u2")


@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_a_preview_before_the_image_is_passed_over(kind: str) -> None:
    samples, sink = numbers(kind, 32, 48), io.BytesIO()
    with tifffile.TiffWriter(sink) as writer:
        writer.write(samples[::4, ::4], subfiletype=1)
        writer.write(samples)
    check(sink.getvalue(), samples, kind)


@pytest.mark.parametrize("how", [{"subfiletype": 1, "subifds": 1}, {"extratags": [(50706, 1, 4, (1, 4, 0, 0), True)]}])
def test_a_cameras_raw_file_is_not_its_preview(how: dict[str, Any]) -> None:
    sink = io.BytesIO()
    with tifffile.TiffWriter(sink) as writer:
        writer.write(numbers("u1", 16, 16), **how)
        if "subifds" in how:
            writer.write(numbers("u2", 64, 64))
    with pytest.raises(BadImageError, match="unsupported: a camera's raw file"):
        decode(sink.getvalue())


def test_no_data_of_a_map_is_padding() -> None:
    samples = np.linspace(0, 1000, 64, dtype=np.float32).reshape(8, 8)
    samples[0] = -9999
    gray = decode(tiff(samples, extratags=[(42113, 2, 6, "-9999", True)]), over(0, 1000, 5))
    assert (gray[0] == 5).all()
    assert np.abs(gray[1:] - samples[1:] / 1000 * 255).max() <= 0.51


_HOLE = (struct.pack("<4i", 16, 16, 1, 256), struct.pack("<4i", 16, 16, 1, 255))  # rows, columns, values, valid ones


@pytest.mark.parametrize("name", ["complex64", "predictor", "cielab", "24 bits", "lerc with holes"])
def test_a_tiff_without_gray_levels_says_so(name: str) -> None:
    data = {
        "complex64": lambda: tiff(np.ones((4, 4), np.complex64)),
        "predictor": lambda: tiff_of(1, 4, bytes(4), {258: 8, 262: 1, 317: 2}),
        "lerc with holes": lambda: tiff(numbers("u1", 16, 16), compression="lerc").replace(*_HOLE),
        "cielab": lambda: tiff(numbers("u2", 16, 16, 3), photometric="cielab"),
        "24 bits": lambda: tiff_of(1, 4, bytes(12), {258: 24, 262: 1}),
    }[name]()
    with pytest.raises(BadImageError, match=r"unsupported: TIFF .*save it as gray or RGB"):
        decode(data)


WHOLE = [("png", "u1"), ("png", "u2"), ("webp", "u1"), ("lerc", "u1"), ("lerc", "u2"), ("lerc", "f4"), ("jpegxr", "u1")]


@pytest.mark.parametrize("part", [{}, {"tile": (16, 32)}])
@pytest.mark.parametrize(("compression", "kind"), WHOLE)
def test_strips_and_tiles_that_are_images(compression: str, kind: str, part: dict[str, Any]) -> None:
    low, high = LEVELS[kind]
    smooth = (np.add.outer(np.arange(37), np.arange(43))[..., None] + [0, 20, 40]) / 118 * (high - low) + low
    samples = smooth.astype(kind) if kind[0] == "f" else smooth.round().astype(kind)
    how = (
        {}
        if compression in ("png", "jpegxr")
        else {"compressionargs": {"lossless": True} if compression == "webp" else {}}
    )
    data = tiff(samples, photometric="rgb", compression=compression, **part, **how)
    gray = decode(data, over(low, high))
    assert np.abs(gray - (luma(samples) - low) / (high - low) * 255).max() <= (4 if compression == "jpegxr" else 1)
    with pytest.raises(BadImageError, match="too large"):
        decode(data, over(low, high), max_pixels=32 * 32 if part else 37 * 42)


_INNER = {  # where a strip has its height
    "png": (b"IHDR" + struct.pack(">II", 43, 37), b"IHDR" + struct.pack(">II", 43, 60_000)),
    "lerc": (struct.pack("<2i", 37, 43), struct.pack("<2i", 60_000, 43)),
    "jpegxr": (struct.pack(">HH", 42, 36), struct.pack(">HH", 42, 60_000)),
}


@pytest.mark.parametrize("compression", _INNER)
def test_a_strip_larger_than_its_page_says_is_not_unpacked(compression: str) -> None:
    data = tiff(numbers("u1", 37, 43), compression=compression)
    old, new = _INNER[compression]
    at = data.rindex(old)
    with pytest.raises(BadImageError, match=r"too large: 43 x 6000|unsupported: .*without a measurement"):
        decode(data[:at] + new + data[at + len(old) :], max_pixels=100_000)


def test_colors_of_few_bits_keep_their_luma() -> None:
    rgb = np.random.default_rng(1).integers(0, 16, (6, 8, 3), dtype=np.uint8)
    nibbles = (rgb.reshape(6, -1)[:, ::2] << 4 | rgb.reshape(6, -1)[:, 1::2]).tobytes()
    data = tiff_of(6, 8, nibbles, {258: 4, 262: 2, 277: 3})
    assert np.abs(decode(data) - luma(rgb) * 17).max() <= 0.51


def test_floats_with_opacity_keep_their_range() -> None:
    samples = np.concatenate([numbers("f4", 5, 7, 3), np.ones((5, 7, 1), np.float32)], axis=-1)
    for kind in ("assocalpha", "unassalpha"):
        check(tiff(samples, photometric="rgb", extrasamples=[kind]), luma(samples), "f4")
        with pytest.raises(BadImageError, match="opacity beyond 1"):
            decode(tiff(samples * np.float32(255), photometric="rgb", extrasamples=[kind]), over(0, 255))


def test_jpeg_of_twelve_bits_and_lossless() -> None:
    ramp = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint16)
    deep = imagecodecs.jpeg8_encode(ramp * 32, lossless=True, bitspersample=12)
    assert np.abs(decode(deep) - ramp * 32 / 4095 * 255).max() <= 0.51
    shallow = imagecodecs.jpeg8_encode(ramp.astype(np.uint8), lossless=True)
    assert np.array_equal(decode(shallow), ramp)
    with pytest.raises(BadImageError, match="truncated"):
        decode(deep[:-20])
    with pytest.raises(BadImageError, match="too large: 64 x 64 pixels"):
        decode(deep, max_pixels=4095)


@pytest.mark.parametrize("bits", [4, 8, 9, 12, 16])
@pytest.mark.parametrize("count", [1, 3])
def test_jpeg_2000_of_any_depth(bits: int, count: int) -> None:
    white = 2**bits - 1
    levels = (
        (np.random.default_rng(1).random((40, 24, count)) * white).round().astype(np.uint8 if bits <= 8 else np.uint16)
    )
    levels[0, 0], levels[0, 1] = 0, white
    data = imagecodecs.jpeg2k_encode(levels.squeeze(), level=0, bitspersample=bits, reversible=True)
    wanted = levels[..., 0] if count == 1 else luma(levels)
    gray = decode(data)
    assert np.abs(gray - wanted / white * 255).max() <= (1.0 if bits == 8 else 0.5 + 128 / white)
    if bits != 8:
        with pytest.raises(BadImageError):
            decode(data[: len(data) // 2])


def chunk(kind: bytes, body: bytes, wrong: int = 0) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ wrong)


PNGS = {
    "gray": Image.fromarray(numbers("u1", 21, 13)),
    "rgb": Image.fromarray(numbers("u1", 21, 13, 3)),
    "gray-alpha": Image.fromarray(numbers("u1", 21, 13, 2), "LA"),
    "rgba": Image.fromarray(numbers("u1", 21, 13, 4)),
    "palette": Image.fromarray(numbers("u1", 21, 13, 3)).quantize(16),
    "one-bit": Image.fromarray(numbers("u1", 21, 13)).convert("1"),
    "deep": Image.fromarray(numbers("u2", 21, 13)),
}


def png(name: str) -> bytes:
    if name in ("deep-rgb", "deep-rgba", "deep-gray-alpha"):
        count = {"deep-rgb": 3, "deep-rgba": 4, "deep-gray-alpha": 2}[name]
        return imagecodecs.png_encode(np.ascontiguousarray(numbers("u2", 21, 13, count)))
    sink = io.BytesIO()
    PNGS[name].save(sink, "PNG")
    return sink.getvalue()


BIG = zlib.compress(bytes(30_000_000))
BESIDE = {
    "huge profile": chunk(b"iCCP", b"p\0\0" + BIG),
    "broken profile": chunk(b"iCCP", b"no profile"),
    "text bomb": chunk(b"zTXt", b"Comment\0\0" + BIG),
    "international text bomb": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BIG),
    "long text": chunk(b"tEXt", b"Comment\0" + b"x" * 3_000_000),
    "many texts": chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(900_000))) * 100,
    "profile of ImageMagick": chunk(b"zTXt", b"Raw profile type exif\0\0" + BIG),
    "text without end": chunk(b"tEXt", b"Comment"),
    "wrong sums": chunk(b"tEXt", b"Comment\0a", 1) + chunk(b"gAMA", b"\0\1\x86\xa0", 1) + chunk(b"eXIf", b"II*\0", 1),
    "short fields": chunk(b"gAMA", b"1") + chunk(b"cHRM", b"2") + chunk(b"pHYs", b"") + chunk(b"sRGB", b""),
    "significant bits": chunk(b"sBIT", b"") + chunk(b"sBIT", b"\x63" * 9),
    "broken EXIF": chunk(b"eXIf", b"II*\0\xff\xff\xff\xff" + bytes(40)),
    "animation": chunk(b"acTL", bytes(3)) + chunk(b"fcTL", bytes(2)) + chunk(b"fdAT", b"x"),
    "private": chunk(b"prVt", b"anything") * 3 + chunk(b"vpAg", b""),
    "twice": chunk(b"tIME", bytes(7)) * 2 + chunk(b"bKGD", bytes(1)) * 2,
}


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("name", [*PNGS, "deep-rgba"])
def test_a_png_is_its_pixels_alone(name: str, beside: str) -> None:
    plain = png(name)
    wanted = decode(plain)
    end = len(plain) - 12
    for place in (33, end):  # after the header; after the pixels, which is a wrong place for most chunks
        assert np.array_equal(decode(plain[:place] + BESIDE[beside] + plain[place:]), wanted)
    for tail in (b"trailing bytes", plain, bytes(1000)):
        assert np.array_equal(decode(plain + tail), wanted)
    assert np.array_equal(decode(plain[:end]), wanted)  # without its last chunk


@pytest.mark.parametrize("name", [*PNGS, "deep-rgb", "deep-rgba", "deep-gray-alpha"])
def test_damage_in_the_pixels_of_a_png_is_damage(name: str) -> None:
    plain = png(name)
    pixels = plain.index(b"IDAT")
    for place in (20, 30, pixels + 6, len(plain) - 15):
        damaged = bytearray(plain)
        damaged[place] ^= 1
        with pytest.raises(BadImageError) as caught:
            decode(bytes(damaged))
        assert caught.value.reason.code in ("damaged", "unsupported"), place
        assert "PNG: " in caught.value.reason.text
    for cut in (13, 20, len(plain) // 2):
        with pytest.raises(BadImageError) as caught:
            decode(plain[:-cut])
        assert caught.value.reason.code == "truncated"


@pytest.mark.parametrize("count", [2, 3, 4])
def test_png_of_sixteen_bits_keeps_them(count: int) -> None:
    samples = numbers("u2", 21, 13, count)
    data = imagecodecs.png_encode(samples)
    opacity = samples[..., -1] / 65535 if count in (2, 4) else np.ones((21, 13))
    level = (luma(samples) if count > 2 else samples[..., 0]) / 257
    assert np.abs(decode(data, Rule(background=90)) - (level * opacity + (1 - opacity) * 90)).max() <= 1
    faint = np.full((8, 8, 3), 256, np.uint16) + np.arange(64, dtype=np.uint16).reshape(8, 8, 1)
    assert len(np.unique(decode(imagecodecs.png_encode(faint), over(256, 319)))) == 64


@pytest.mark.parametrize("depth", [8, 16])
def test_a_transparent_color_of_an_rgb_png(depth: int) -> None:
    samples = numbers("u1", 8, 8, 3) if depth == 8 else numbers("u2", 8, 8, 3)
    plain = imagecodecs.png_encode(samples)
    key = chunk(b"tRNS", struct.pack(">HHH", *map(int, samples[3, 4])))
    gray = decode(plain[:33] + key + plain[33:], Rule(background=77))
    wanted = decode(plain)
    wanted[(samples == samples[3, 4]).all(-1)] = 77
    assert np.abs(gray.astype(int) - wanted).max() <= 1
    with pytest.raises(BadImageError, match="tRNS"):  # pixels depend on it
        decode(plain[:33] + chunk(b"tRNS", key[8:-4], 1) + plain[33:])


@pytest.mark.parametrize("how", ["eXIf", "ImageMagick", "XMP", "packed XMP"])
def test_orientation_of_a_png(how: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    digits = b"\nexif\n%8d\n" % len(exif.tobytes()) + exif.tobytes().hex().encode()
    note = {
        "eXIf": chunk(b"eXIf", exif.tobytes()[6:]),
        "ImageMagick": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(digits)),
        "XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
        "packed XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp)),
    }[how]
    for name in ("gray", "rgba", "deep"):
        plain = png(name)
        assert np.array_equal(decode(plain[:33] + note + plain[33:]), np.rot90(decode(plain), -1))


def test_a_png_of_another_standard_is_refused() -> None:
    plain = png("gray")
    apple = plain[:8] + chunk(b"CgBI", bytes(4)) + plain[8:]
    for data in (apple, plain[:33] + chunk(b"NEWc", b"") + plain[33:]):
        with pytest.raises(BadImageError, match=r"unsupported: PNG .*save it as a standard PNG"):
            decode(data)


@pytest.mark.parametrize("note", ["EXIF", "profile", "large", "multi-picture", "lengths"])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_notes_of_a_jpeg_do_not_refuse_it(note: str, mode: str) -> None:
    sink = io.BytesIO()
    Image.fromarray(numbers("u1", 24, 32, 3)).convert(mode).save(sink, "JPEG")
    data = sink.getvalue()
    body = {
        "EXIF": b"\xe1Exif\0\0MM\0*\xff\xff\xff\xff" + b"\xff\xfe" * 40,
        "profile": b"\xe2ICC_PROFILE\0\7\2broken",
        "large": b"\xe9" + bytes(65_000),
        "multi-picture": b"\xe2MPF\0II*\0\xff\xff\0\0",
        "lengths": b"\xe1Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\2\0\xff\xff\xff\xff\1\0",
    }[note]
    marked = data[:2] + b"\xff" + body[:1] + struct.pack(">H", len(body) + 1) + body[1:] + data[2:]
    assert np.array_equal(decode(marked), decode(data))


@pytest.mark.parametrize(("alpha", "wanted"), [(0, [[10, 200]]), (255, [[10, 200]]), (None, [[10, 30]])])
def test_the_fourth_byte_of_a_bitmap(alpha: int | None, wanted: list[list[int]]) -> None:
    pixels = np.array(
        [[[10] * 3 + [alpha], [200] * 3 + [alpha]]] if alpha is not None else [[[10] * 3 + [255], [200] * 3 + [0]]]
    )
    header = struct.pack("<IiiHHIIiiIIIIII", 108, 2, -1, 1, 32, 3, 8, 0, 0, 0, 0, 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header += b"BGRs" + bytes(48)
    data = (
        b"BM"
        + struct.pack("<IHHI", 14 + 108 + 8, 0, 0, 122)
        + header
        + pixels.astype(np.uint8)[..., [2, 1, 0, 3]].tobytes()
    )
    assert decode(data, Rule(background=30)).tolist() == wanted


FOREIGN = {
    "HEIC.*heif-convert": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99),
    "Git LFS pointer.*git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "git-annex pointer": b"/annex/objects/SHA256E-s12--ab.png\n",
    "PDF document": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
    "video .MP4": b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + bytes(99),
    "video .QuickTime": b"\0\0\1\0moov" + bytes(99),
    "NumPy array": b"\x93NUMPY\1\0v\0{'descr': '|u1'}" + bytes(99),
    "zip archive": b"PK\3\4\x14\0\0\0" + bytes(99),
    "web page.*log in": b"\n <!DOCTYPE html>\n<html><title>Sign in</title>",
    "drawing .SVG": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "a text file": b"path,label\na.png,cat\n",
    "a text file ": b"BMW,3,4\nand more of it",  # as if it began a bitmap
    "a text file  ": b"P6 is what this line begins with\n",
    "a text file   ": "Größe;Länge\r\n1;2\r\n".encode("cp1252"),
    "a text file    ": "\ufeffa\tb\n".encode("utf-16-le"),
    "a text file     ": b"GIF is not here: " + "é".encode() * 3000,
    "zero bytes only": bytes(5000),
    "camera's raw file": b"II*\0\x10\0\0\0CR\2\0" + bytes(40),
    "tar archive": bytes(257) + b"ustar" + bytes(300),
    "Photoshop document": b"8BPS\0\1" + bytes(30),
}


@pytest.mark.parametrize("words", FOREIGN)
def test_a_file_of_another_kind_is_named(words: str) -> None:
    with pytest.raises(BadImageError, match=f"^(unsupported|not an image|damaged): .*{words.strip()}") as caught:
        decode(FOREIGN[words])
    assert not any(sign in str(caught.value) for sign in ("PPM", "BMP", "Non-decimal", "codec", "header"))


def test_a_picture_written_as_text_is_a_picture() -> None:
    assert decode(b"P2\n# by hand\n2 1\n10\n0 10\n").tolist() == [[0, 255]]


DAMAGED = {
    "planes": lambda: tiff(numbers("u2", 3, 40, 40), photometric="rgb", planarconfig="separate", rowsperstrip=9),
    "tiles": lambda: tiff(numbers("u4", 40, 40), tile=(16, 16), compression="zlib", predictor=True),
    "lzw": lambda: tiff(numbers("i1", 40, 40), compression="lzw", rowsperstrip=9),
    "floats": lambda: tiff(numbers("f8", 40, 40), compression="zstd", predictor=True),
    "imagej": lambda: tiff(numbers("u2", 2, 40, 40), imagej=True),
    "jpeg 2000 in TIFF": lambda: tiff(numbers("u2", 40, 40), compression="jpeg2000"),
    "jpeg 2000": lambda: imagecodecs.jpeg2k_encode(numbers("u2", 40, 40, 3), level=0),
    "jpeg": lambda: imagecodecs.jpeg8_encode(numbers("u2", 40, 40) >> 4, lossless=True, bitspersample=12),
    "png": lambda: png("deep-rgba"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_gives_an_image_or_a_reason_and_prints_nothing(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    whole, chance = DAMAGED[name](), random.Random(name)
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(chance.randrange(1, 6)):
            place = chance.randrange(min(len(whole), chance.choice([64, 400, 10**6])))
            damaged[place] = chance.randrange(256)
        with suppress(BadImageError):
            decode(bytes(damaged), max_pixels=10**6)
    for tenth in range(1, 4 if name == "imagej" else 10):  # its first image is whole after the half
        with pytest.raises(BadImageError) as caught:
            decode(whole[: len(whole) * tenth // 10])
        assert caught.value.reason.code in ("truncated", "damaged", "unsupported")
    assert capfd.readouterr() == ("", "")


def test_a_tiff_that_claims_more_than_the_limit_is_not_unpacked() -> None:
    for samples, how in (
        (numbers("u4", 64, 64), {}),
        (numbers("u2", 64, 64, 3), {"photometric": "rgb"}),
        (numbers("u2", 9, 32, 32), {"volumetric": True, "tile": (16, 16, 16)}),
        (numbers("i1", 16, 16), {"tile": (128, 128)}),
    ):
        with pytest.raises(BadImageError, match=r"too large: .* over the limit of 4,095"):
            decode(tiff(samples, **how), max_pixels=4095)


PLAIN = numbers("u1", 40, 30)


def by_pillow(mode: str, **tags: Any) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(PLAIN).convert(mode).save(sink, "TIFF", tiffinfo=tags.get("tiffinfo", {}))
    return sink.getvalue()


@pytest.mark.parametrize(
    ("data", "fast"),
    [
        (by_pillow("L"), True),
        (by_pillow("L", tiffinfo={278: 7}), True),  # strips
        (by_pillow("L", tiffinfo={274: 6}), False),  # turned
        (by_pillow("L", tiffinfo={274: 1}), True),
        (by_pillow("L", tiffinfo={262: 0}), False),  # white is zero
        (by_pillow("L", tiffinfo={700: b'<x tiff:Orientation="6"/>'}), False),  # turned by XMP
        (by_pillow("1"), False),
        (by_pillow("RGB"), False),
        (by_pillow("L")[:-1], False),
        (tiff(PLAIN, rowsperstrip=7, byteorder=">"), True),
        (tiff(PLAIN, compression="lzw"), False),
        (tiff(np.stack([PLAIN, 255 - PLAIN]), photometric="minisblack"), True),  # two pages
    ],
)
def test_plain_tiffs_are_taken_from_their_bytes_as_pillow_reads_them(
    data: bytes, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[bool] = []

    def spy(image: Any, data: bytes) -> Any:
        found = _tiff.plain_levels(image, data)
        taken.append(found is not None)
        return found

    def outcome() -> Any:
        try:
            return decode(data, Rule()).tolist()
        except BadImageError as error:
            return str(error)

    monkeypatch.setattr(decoder, "plain_levels", spy)
    found = outcome()
    monkeypatch.setattr(decoder, "plain_levels", lambda image, data: None)
    assert found == outcome()
    assert taken == [fast]
