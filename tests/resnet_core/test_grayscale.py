"""Decoding: luma as defined, nothing clipped, and bad bytes are a reason instead of a crash."""

import io
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from resnet_core.grayscale import BadImageError, decode


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def luma(rgb: np.ndarray) -> np.ndarray:
    """The definition: ITU-R BT.601."""
    return rgb[..., :3].astype(np.float64) @ np.array([0.299, 0.587, 0.114])


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "WEBP"])
def test_colours_become_bt601_luma(photograph: Image.Image, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    gray = decode(saved(photograph, kind, **options))
    assert gray.dtype == np.uint8
    assert np.abs(gray - luma(np.asarray(photograph))).max() <= 1


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_luma_is_that_of_a_full_decode(photograph: Image.Image, subsampling: int, progressive: bool) -> None:
    data = saved(photograph, "JPEG", quality=90, subsampling=subsampling, progressive=progressive)
    full = np.asarray(Image.open(io.BytesIO(data)).convert("L")).astype(int)
    difference = np.abs(decode(data).astype(int) - full)
    assert difference.mean() < 0.5  # luma without the detour over rounded RGB
    assert np.percentile(difference, 99) <= 1


def test_cmyk_jpeg(photograph: Image.Image) -> None:
    gray = decode(saved(photograph.convert("CMYK"), "JPEG", quality=95))
    assert np.abs(gray - luma(np.asarray(photograph))).mean() < 3


@settings(max_examples=40, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_eight_bit_gray_is_kept_exactly(levels: np.ndarray) -> None:
    assert np.array_equal(decode(saved(Image.fromarray(levels), "PNG")), levels)


@settings(max_examples=40, deadline=None)
@given(arrays(np.uint16, st.tuples(st.integers(1, 20), st.integers(1, 20))), st.sampled_from(["PNG", "TIFF"]))
def test_sixteen_bits_are_scaled_not_clipped(levels: np.ndarray, kind: str) -> None:
    gray = decode(saved(Image.fromarray(levels), kind))
    assert np.abs(gray - levels / 257).max() <= 0.5 + 1e-9


def test_float_tiff_is_scaled(digits: tuple[np.ndarray, list[str]]) -> None:
    levels = digits[0][0]
    gray = decode(saved(Image.fromarray(levels.astype(np.float32) / 255), "TIFF"))
    assert np.array_equal(gray, levels)


def test_not_a_number_is_bad() -> None:
    levels = np.full((4, 4), np.nan, dtype=np.float32)
    with pytest.raises(BadImageError, match="not finite"):
        decode(saved(Image.fromarray(levels), "TIFF"))


def test_transparent_pixels_show_the_background() -> None:
    image = Image.new("RGBA", (4, 4), (200, 200, 200, 0))
    image.putpixel((0, 0), (200, 200, 200, 255))
    gray = decode(saved(image, "PNG"), background=50)
    assert gray[0, 0] == 200
    assert gray[1, 1] == 50


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "F"]
)
def test_every_mode_decodes(photograph: Image.Image, mode: str) -> None:
    small = photograph.resize((32, 24))
    image = Image.fromarray(np.asarray(small.convert("L")).astype(np.uint16)) if mode == "I;16" else small.convert(mode)
    kind = "PNG" if mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16") else "TIFF"
    data = saved(image.convert("RGB") if mode == "HSV" else image.convert("P") if mode == "PA" else image, kind)
    assert decode(data).shape == (24, 32)


def test_the_first_frame_of_an_animation(photograph: Image.Image) -> None:
    frames = [photograph.resize((20, 20)), Image.new("RGB", (20, 20))]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data).mean() > 20


def test_orientation_is_applied(photograph: Image.Image) -> None:
    small = photograph.resize((40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn to the right
    turned = decode(saved(small, "PNG", exif=exif))
    assert np.array_equal(turned, np.rot90(decode(saved(small, "PNG")), -1))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF"])
@pytest.mark.parametrize("tenth", range(1, 10))
def test_a_truncated_file_is_bad(photograph: Image.Image, kind: str, tenth: int) -> None:
    data = saved(photograph, kind)
    with pytest.raises(BadImageError) as caught:
        decode(data[: len(data) * tenth // 10])
    assert caught.value.reason in ("truncated", "unreadable", "unsupported")
    assert caught.value.detail


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_flipped_bytes_never_crash(photograph: Image.Image, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "TIFF", "WEBP", "GIF"]))
    damaged = bytearray(saved(photograph.resize((48, 48)), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(BadImageError):  # and nothing else
        assert decode(bytes(damaged)).dtype == np.uint8


@pytest.mark.parametrize(
    ("data", "reason"), [(b"", "empty"), (b"path,label\n", "unsupported"), (b"\x00" * 1000, "unsupported")]
)
def test_what_is_no_image_says_so(data: bytes, reason: str) -> None:
    with pytest.raises(BadImageError) as caught:
        decode(data)
    assert caught.value.reason == reason


def test_a_decompression_bomb_is_refused_before_it_is_unpacked() -> None:
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    with pytest.raises(BadImageError) as caught:
        decode(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT")))
    assert caught.value.reason == "too large"


def test_the_pixel_limit_is_an_argument(photograph: Image.Image) -> None:
    with pytest.raises(BadImageError, match=r"512 x 512 pixels, over the limit of 1,000"):
        decode(saved(photograph, "PNG"), max_pixels=1000)


def test_damaged_tiffs_print_nothing_past_python(photograph: Image.Image, capfd: pytest.CaptureFixture[str]) -> None:
    whole = saved(photograph.resize((64, 64)), "TIFF", compression="tiff_lzw")
    for start in range(200, len(whole) - 50, 200):
        with suppress(BadImageError):
            decode(whole[:start] + bytes(50) + whole[start + 50 :])
    assert capfd.readouterr().err == ""
