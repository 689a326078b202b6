"""Decoding: luma as defined, for every format and mode, nothing clipped, upright, over the background."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from resnet_core.images import _codecs, _png
from resnet_core.images.decode import decode, decode_square
from resnet_core.images.levels import Rule, luma
from resnet_core.images.preprocessing import Preprocessing, Resize, resize

LOSSLESS = {"PNG": {}, "TIFF": {}, "BMP": {}, "PPM": {}, "WEBP": {"lossless": True, "exact": True}}
TURNS = {
    1: lambda gray: gray,
    2: np.fliplr,
    3: lambda gray: np.rot90(gray, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda gray: np.rot90(gray, -1),
    7: lambda gray: np.rot90(gray.T, 2),
    8: np.rot90,
}

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def pixels(channels: int, side: int = 40) -> st.SearchStrategy[np.ndarray]:
    """uint8 images [H, W, channels] of all sizes from one pixel on."""
    shapes = array_shapes(min_dims=2, max_dims=2, max_side=side).map(lambda shape: (*shape, channels))
    return arrays(np.uint8, shapes)


def interlaced(levels: np.ndarray) -> bytes:
    """uint8 [H, W] as a PNG file in the seven passes of Adam7, which Pillow reads but does not write."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [levels[top::down, left::right] for top, left, down, right in passes]
    rows = b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part)
    return png_file(levels.shape, 8, 0, 1, rows)


def png_file(shape: tuple[int, ...], depth: int, colour: int, interlace: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", shape[1], shape[0], depth, colour, 0, 0, interlace)
    return _png.SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_luma_is_bt601() -> None:
    assert luma(np.eye(3) * 255) == pytest.approx([0.299 * 255, 0.587 * 255, 0.114 * 255])


@pytest.mark.parametrize("kind", LOSSLESS)
def test_colours_become_bt601_luma(photograph: Image.Image, kind: str) -> None:
    gray = decode(saved(photograph, kind, **LOSSLESS[kind]))
    assert gray.dtype == np.uint8
    assert np.abs(gray - luma(np.asarray(photograph))).max() <= 1


@settings(max_examples=100, deadline=None)
@given(pixels(3), st.sampled_from(list(LOSSLESS)))
def test_any_colours_in_any_lossless_format_become_luma(rgb: np.ndarray, kind: str) -> None:
    assert np.abs(decode(saved(Image.fromarray(rgb), kind, **LOSSLESS[kind])) - luma(rgb)).max() <= 1


@settings(max_examples=100, deadline=None)
@given(pixels(4), st.integers(0, 255), st.sampled_from(["PNG", "TIFF", "WEBP"]))
def test_what_is_transparent_lies_over_the_background(rgba: np.ndarray, background: int, kind: str) -> None:
    gray = decode(saved(Image.fromarray(rgba), kind, **LOSSLESS[kind]), Rule(background=background))
    opacity = rgba[..., 3] / 255
    assert np.abs(gray - (opacity * luma(rgba) + (1 - opacity) * background)).max() <= 1


@settings(max_examples=50, deadline=None)
@given(pixels(2), st.integers(0, 255))
def test_transparent_gray_lies_over_the_background(levels: np.ndarray, background: int) -> None:
    gray = decode(saved(Image.fromarray(levels, "LA"), "PNG"), Rule(background=background))
    opacity = levels[..., 1] / 255
    assert np.abs(gray - (opacity * levels[..., 0] + (1 - opacity) * background)).max() <= 1


def test_a_transparent_level_of_a_png_shows_the_background() -> None:
    levels = np.array([[0, 128, 255]], dtype=np.uint8)
    assert decode(saved(Image.fromarray(levels), "PNG", transparency=128), Rule(background=9)).tolist() == [[0, 9, 255]]
    deep = Image.fromarray(levels.astype(np.uint16) * 257)
    assert decode(saved(deep, "PNG", transparency=128 * 257), Rule(background=9)).tolist() == [[0, 9, 255]]


@settings(max_examples=50, deadline=None)
@given(pixels(3), st.sampled_from(["GIF", "PNG", "TIFF"]))
def test_a_palette_becomes_the_luma_of_its_colours(rgb: np.ndarray, kind: str) -> None:
    image = Image.fromarray(rgb).quantize(16)
    assert np.abs(decode(saved(image, kind)) - luma(np.asarray(image.convert("RGB")))).max() <= 1


@settings(max_examples=50, deadline=None)
@given(pixels(4), st.sampled_from(["TIFF", "JPEG"]))
def test_cmyk_becomes_the_luma_of_pillows_rgb(cmyk: np.ndarray, kind: str) -> None:
    data = saved(Image.fromarray(cmyk, "CMYK"), kind)
    assert np.abs(decode(data) - luma(rgb_of(data))).max() <= 1


@settings(max_examples=100, deadline=None)
@given(pixels(3), st.integers(30, 95), st.sampled_from([0, 1, 2]), st.booleans())
def test_jpeg_is_the_luma_of_the_colours_that_it_stores(
    rgb: np.ndarray, quality: int, subsampling: int, progressive: bool
) -> None:
    """Luma of the RGB made from it is the same, where RGB could hold the colour. At 0 and 255 it may be clipped."""
    data = saved(Image.fromarray(rgb), "JPEG", quality=quality, subsampling=subsampling, progressive=progressive)
    made = rgb_of(data)
    unclipped = ((made > 0) & (made < 255)).all(-1)
    assert (np.abs(decode(data) - luma(made)) <= 1)[unclipped].all()


def test_jpeg_in_rgb_or_gray(photograph: Image.Image) -> None:
    for data in (saved(photograph, "JPEG", keep_rgb=True), saved(photograph.convert("L"), "JPEG")):
        assert np.abs(decode(data) - luma(rgb_of(data))).max() <= 1


@settings(max_examples=15, deadline=None)
@given(pixels(3), st.sampled_from(["WEBP", "AVIF", "JPEG2000"]))
def test_lossy_formats_become_the_luma_of_what_the_decoder_gives(rgb: np.ndarray, kind: str) -> None:
    data = saved(Image.fromarray(rgb), kind)
    assert np.abs(decode(data) - luma(rgb_of(data))).max() <= 1


def rgb_of(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@settings(max_examples=60, deadline=None)
@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40)), st.booleans())
def test_eight_bit_gray_is_kept_exactly(levels: np.ndarray, interlace: bool) -> None:
    data = interlaced(levels) if interlace else saved(Image.fromarray(levels), "PNG")
    assert np.array_equal(decode(data), levels)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_fewer_bits_are_spread_over_all_levels(depth: int) -> None:
    levels = np.arange(2**depth, dtype=np.uint8)
    bits = np.unpackbits(levels[:, None], axis=1)[:, 8 - depth :].ravel()
    rows = b"\0" + np.packbits(bits).tobytes()
    assert np.array_equal(decode(png_file((1, 2**depth), depth, 0, 0, rows))[0], levels * (255 // (2**depth - 1)))


@settings(max_examples=40, deadline=None)
@given(arrays(np.uint16, array_shapes(min_dims=2, max_dims=2, max_side=20)), st.sampled_from(["PNG", "TIFF", "PPM"]))
def test_sixteen_bits_are_scaled_not_clipped(levels: np.ndarray, kind: str) -> None:
    gray = decode(saved(Image.fromarray(levels), kind))
    assert np.abs(gray - levels / 257).max() <= 0.5 + 1e-9


def test_white_is_zero_in_some_tiffs(digits: tuple[np.ndarray, list[str]]) -> None:
    deep = Image.fromarray(digits[0][0].astype(np.uint16) * 257)
    assert np.array_equal(decode(saved(deep, "TIFF", tiffinfo={262: 0})), 255 - digits[0][0])


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("inverted", [False, True])
def test_tiffs_of_few_bits_are_spread_and_white_may_be_zero(bits: int, inverted: bool) -> None:
    levels = np.arange(2**bits, dtype=np.uint8)[None]
    sink = io.BytesIO()
    tifffile.imwrite(sink, levels, bitspersample=bits, photometric="miniswhite" if inverted else "minisblack")
    wanted = levels * (255 // (2**bits - 1))
    assert np.array_equal(decode(sink.getvalue()), 255 - wanted if inverted else wanted)


@pytest.mark.parametrize("white", [1.0, 65535.0, 1e9])
def test_float_tiff_is_scaled(digits: tuple[np.ndarray, list[str]], white: float) -> None:
    levels = next(image for image in digits[0] if image.max() == 255)
    gray = decode(saved(Image.fromarray((levels / 255 * white).astype(np.float32)), "TIFF"))
    assert np.array_equal(gray, levels)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "F"]
)
def test_every_mode_decodes(photograph: Image.Image, mode: str) -> None:
    small = photograph.resize((32, 24))
    image = Image.fromarray(np.asarray(small.convert("L")).astype(np.uint16)) if mode == "I;16" else small.convert(mode)
    kind = "PNG" if mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16") else "TIFF"
    data = saved(image.convert("RGB") if mode == "HSV" else image.convert("P") if mode == "PA" else image, kind)
    assert decode(data).shape == (24, 32)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "AVIF", "PNG"])
def test_the_first_of_several_frames_or_pages(photograph: Image.Image, kind: str) -> None:
    frames = [photograph.resize((20, 20)), Image.new("RGB", (20, 20))]
    assert decode(saved(frames[0], kind, save_all=True, append_images=frames[1:])).mean() > 20


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", TURNS)
def test_orientation_is_applied(photograph: Image.Image, kind: str, orientation: int) -> None:
    image = photograph.resize((43, 22))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(image, kind, exif=exif)
    turned = decode(data)
    assert np.array_equal(turned, TURNS[orientation](decode(saved(image, kind))))
    for mode in ("exact", "fast"):
        square = decode_square(data, Preprocessing(8, decode=mode))
        assert (square.height, square.width) == turned.shape


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["JPEG", "PNG", "WEBP"]),
    st.sampled_from(["squash", "fit", "crop"]),
    st.integers(1, 200),
    st.integers(1, 200),
    st.integers(8, 40),
)
def test_a_square_is_the_whole_image_resized(
    photograph: Image.Image, kind: str, how: Resize, width: int, height: int, size: int
) -> None:
    data = saved(photograph.crop((0, 0, width, height)), kind)
    wanted = Preprocessing(size, how)
    square = decode_square(data, wanted)
    assert np.array_equal(square.pixels, resize(decode(data), wanted))
    assert (square.width, square.height) == (width, height)


@pytest.mark.parametrize("how", ["squash", "fit", "crop"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("shape", [(511, 509), (512, 300), (203, 512)])
def test_fast_stays_near_exact(photograph: Image.Image, how: Resize, orientation: int, shape: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(photograph.crop((0, 0, *shape)), "JPEG", quality=90, exif=exif)
    exact = decode_square(data, Preprocessing(24, how))
    fast = decode_square(data, Preprocessing(24, how, decode="fast"))
    assert np.abs(exact.pixels.astype(int) - fast.pixels).mean() <= 1.5
    assert (fast.width, fast.height) == (exact.width, exact.height)


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_the_pixels_are_the_same_without_the_faster_decoders(
    photograph: Image.Image, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [saved(photograph, "PNG"), saved(photograph.convert("L"), "PNG")]
    files += [saved(photograph, "JPEG", progressive=progressive) for progressive in (False, True)]
    wanted = Preprocessing(32, decode=mode)
    with_them = [decode_square(data, wanted).pixels for data in files]
    monkeypatch.setattr(_png, "kornia", None)
    monkeypatch.setattr(_codecs, "simplejpeg", None)
    assert np.array_equal(with_them, [decode_square(data, wanted).pixels for data in files])
