"""Deep images of every format: the levels that come out of a data set of them, by hand-made values."""

import io
from collections.abc import Sequence
from dataclasses import replace

import imagecodecs
import numpy as np
import pytest
import tifffile

from resnet_core.images.decision import decide
from resnet_core.images.decode import decode_square
from resnet_core.images.levels import Decided, UndecidedError
from resnet_core.images.preprocessing import Preprocessing
from tests.tasks.ingest.test_levels import dicom, saved, with_significant

A = np.arange(256, dtype=np.uint8).reshape(16, 16)  # every gray level once
PLAIN = Preprocessing(16)


def tiff(levels: np.ndarray, **words: object) -> bytes:
    sink = io.BytesIO()
    tifffile.imwrite(sink, levels, **words)
    return sink.getvalue()


def deep(bits: int, levels: np.ndarray = A) -> np.ndarray:
    """The levels of A on a scale of so many bits, uint16."""
    return np.rint(levels / 255 * (2**bits - 1)).astype(np.uint16)


def ingested(files: Sequence[bytes], settings: Preprocessing = PLAIN) -> tuple[list[np.ndarray], Decided]:
    """What an ingest of these files makes of them: a reading, the decision, and another reading."""
    found = []
    for data in files:
        try:
            decode_square(data, settings)
        except UndecidedError as error:
            found.append(error.found)
    settings = replace(settings, decided=decide(found, settings.rule))
    assert settings.decided is not None
    return [decode_square(data, settings).pixels for data in files], settings.decided


FILES = {
    "PNG, 10 bits": saved(deep(10), "PNG"),
    "PNG, 12 bits": saved(deep(12), "PNG"),
    "PNG, 16 bits": saved(deep(16), "PNG"),
    "PNG with sBIT, 10 of 16 bits": with_significant(saved(deep(10), "PNG"), 10),
    "PNG with sBIT, 12 of 16 bits": with_significant(saved(deep(12), "PNG"), 12),
    "PNG with sBIT, 14 of 16 bits": with_significant(saved(deep(14), "PNG"), 14),
    "PNG with sBIT, spread as the standard says": with_significant(saved(A.astype(np.uint16) * 257, "PNG"), 8),
    "PNG, 12 bits in color": imagecodecs.png_encode(np.stack([deep(12)] * 3, axis=-1)),
    "TIFF, 12 bits": tiff(deep(12)),
    "TIFF, 12 bits and MaxSampleValue": tiff(deep(12), extratags=[(281, "H", 1, 4095, False)]),
    "TIFF, 12 bits and ImageJ's range": tiff(deep(12), imagej=True, metadata={"min": 0.0, "max": 4095.0}),
    "TIFF, ImageJ's contrast of one image": tiff(deep(12), imagej=True, metadata={"min": 90.0, "max": 900.0}),
    "TIFF, big-endian": tiff(deep(14), byteorder=">"),
    "TIFF, white is zero": tiff(4095 - deep(12), photometric="miniswhite"),
    "TIFF, int16": tiff(deep(12).astype(np.int16)),
    "TIFF, int16 with negative levels": tiff(A.astype(np.int16) * 16 - 1024),
    "TIFF, uint32 of 16 bits": tiff(deep(16).astype(np.uint32)),
    "TIFF, uint32": tiff(A.astype(np.uint32) * 16843009),
    "TIFF, float of 0 to 1": tiff((A / 255).astype(np.float32)),
    "TIFF, double of 0 to 1": tiff(A / 255),
    "TIFF, half of 0 to 255": tiff(A.astype(np.float16)),
    "TIFF, float of 0 to 255": tiff(A.astype(np.float32)),
    "TIFF, float of 0 to 65535": tiff(deep(16).astype(np.float32)),
    "TIFF, float of -1 to 1": tiff((A / 127.5 - 1).astype(np.float32)),
    "TIFF, Hounsfield units": tiff((A * 16.0 - 1024).astype(np.float32)),
    "PGM, maxval 1023": b"P5 16 16 1023\n" + deep(10).astype(">u2").tobytes(),
    "PGM, maxval 4095": b"P5 16 16 4095\n" + deep(12).astype(">u2").tobytes(),
    "JPEG 2000, 12 bits": imagecodecs.jpeg2k_encode(deep(12), level=0, bitspersample=12),
    "DICOM, 12 of 16 bits": dicom(deep(12)),
    "DICOM, BitsStored": dicom(deep(12), BitsStored=12, HighBit=11),
}


@pytest.mark.parametrize("name", FILES)
def test_a_data_set_of_one_image_keeps_its_levels(name: str) -> None:
    (pixels,), _ = ingested([FILES[name]])
    assert np.abs(pixels.astype(int) - A).max() <= 1, (pixels.min(), pixels.max())


def test_depths_that_files_claim_count_for_each_file() -> None:
    files = [with_significant(saved(deep(bits), "PNG"), bits) for bits in (10, 12, 14)]
    pixels, decided = ingested(files)
    assert decided == Decided(claims=True)
    assert all(np.array_equal(each, A) for each in pixels)


def test_dark_images_stay_dark_beside_bright_ones() -> None:
    dark, bright = A // 4, A
    for make in (deep, lambda bits, levels: (levels / 255 * (2**bits - 1)).astype(np.float32)):
        (first, second), _ = ingested([tiff(make(12, dark)), tiff(make(12, bright))])
        assert np.abs(first.astype(int) - dark).max() <= 1
        assert np.abs(second.astype(int) - bright).max() <= 1


def test_a_dark_image_that_was_spread_is_dark_though_it_fits_its_claim() -> None:
    dark, bright = (with_significant(saved(levels.astype(np.uint16) * 257, "PNG"), 12) for levels in (A // 32, A))
    (first, second), decided = ingested([dark, bright])
    assert decided == Decided(integers=(0, 65535), claims=False)
    assert np.array_equal(first, A // 32)
    assert np.array_equal(second, A)


def test_one_image_of_16_bits_among_12() -> None:
    (first, second), decided = ingested([tiff(deep(12)), tiff(deep(16))])
    assert decided == Decided(integers=(0, 65535))
    assert (first.max(), second.max()) == (16, 255)


def test_8_bits_beside_12_bits_and_floats() -> None:
    pixels, decided = ingested([saved(A, "PNG"), tiff(deep(12)), tiff((A / 255).astype(np.float32))])
    assert decided == Decided(integers=(0, 4095), floats=(0, 1))
    assert all(np.array_equal(each, A) for each in pixels)


def test_an_overshoot_of_one_image_is_white() -> None:
    high = (A / 255).astype(np.float32)
    high[0, 0], high[0, 1] = 1.02, -0.02
    (first, second), decided = ingested([tiff((A / 255).astype(np.float32)), tiff(high)])
    assert decided == Decided(floats=(0, 1))
    assert np.array_equal(first, A)
    assert second.ravel()[:3].tolist() == [255, 0, 2]
    assert np.array_equal(second[1:], A[1:])


def test_what_is_no_measurement_shows_the_background() -> None:
    hole = (A / 255).astype(np.float32)
    hole[3] = np.nan
    marked = deep(12)
    marked[3] = 65535
    files = [
        tiff(hole),
        tiff(marked, extratags=[(42113, "s", 0, "65535", False)]),
        dicom(marked, PixelPaddingValue=65535),
    ]
    pixels, decided = ingested(files, Preprocessing(16, background=77))
    assert decided == Decided(integers=(0, 4095), floats=(0, 1))
    wanted = A.copy()
    wanted[3] = 77
    assert all(np.array_equal(each, wanted) for each in pixels)


def test_hounsfield_units_by_a_window_of_choice() -> None:
    window = Preprocessing(16, levels=(-160, 240), beyond="clip")
    units = np.linspace(-1024, 3071, 256).reshape(16, 16)
    wanted = np.rint((np.rint(units) + 160) * 255 / 400).clip(0, 255)
    stored = dicom(
        (np.rint(units) + 1024).astype(np.uint16),
        RescaleSlope=1,
        RescaleIntercept=-1024,
        WindowCenter=40,
        WindowWidth=80,
    )
    for data in (tiff(np.rint(units).astype(np.int16)), tiff(np.rint(units).astype(np.float32)), stored):
        assert np.array_equal(ingested([data], window)[0][0], wanted)
