"""Resizing: the three ways, their shapes, and that it is Pillow's filter to the last bit but one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from resnet_core.images.preprocessing import BLOCK, ONE, Bands, Preprocessing, Resize, bands, bilinear, resize


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from(["squash", "fit", "crop"]), st.integers(8, 64))
def test_any_image_becomes_the_square(height: int, width: int, how: Resize, size: int) -> None:
    gray = np.full((height, width), 100, dtype=np.uint8)
    out = resize(gray, Preprocessing(size, how, background=100))
    assert out.shape == (size, size)
    assert (out == 100).all()


def test_an_image_of_the_right_size_is_kept_exactly(digits: tuple[np.ndarray, list[str]]) -> None:
    assert np.array_equal(resize(digits[0][0], Preprocessing(8)), digits[0][0])


def test_fit_keeps_the_aspect_ratio_and_pads_with_the_background() -> None:
    out = resize(np.full((10, 40), 200, dtype=np.uint8), Preprocessing(40, "fit", background=7))
    assert (out[:15] == 7).all()
    assert (out[15:25] == 200).all()
    assert (out[25:] == 7).all()


def test_crop_keeps_the_middle() -> None:
    gray = np.zeros((10, 30), dtype=np.uint8)
    gray[:, 10:20] = 255
    assert (resize(gray, Preprocessing(10, "crop")) == 255).all()


def test_shrinking_averages() -> None:
    checkers = np.indices((64, 64)).sum(0) % 2 * 255
    out = resize(checkers.astype(np.uint8), Preprocessing(8))
    assert out == pytest.approx(127.5, abs=4)


@pytest.mark.parametrize(
    ("rows", "columns", "height", "width"),
    [(512, 512, 64, 64), (500, 333, 64, 64), (768, 1024, 224, 224), (1500, 260, 32, 96), (257, 1201, 100, 8)],
)
def test_large_images_come_out_as_from_pillow(
    photograph: Image.Image, rows: int, columns: int, height: int, width: int
) -> None:
    gray = np.resize(np.asarray(photograph.convert("L")), (rows, columns))
    for box in (None, (10.25, 3.5, columns - 7.75, rows - 2.0)):
        wanted = Image.fromarray(gray).resize((width, height), Image.Resampling.BILINEAR, box=box)
        gap = np.abs(bilinear(gray, width, height, box).astype(int) - np.asarray(wanted))
        assert gap.max() <= 1
        assert gap.mean() <= 0.02


@settings(max_examples=60, deadline=None)
@given(st.integers(182, 700), st.integers(182, 700), st.integers(8, 80), st.integers(8, 80), st.integers(0, 2**32 - 1))
def test_every_machine_gives_the_same_pixels(rows: int, columns: int, height: int, width: int, seed: int) -> None:
    """What BLAS sums in floats, in an order of its own, is what whole numbers give."""
    gray = np.random.default_rng(seed).integers(0, 256, (rows, columns), dtype=np.uint8)
    across = whole_matrix(bands(columns, width, 0, columns), columns)
    down = whole_matrix(bands(rows, height, 0, rows), rows)
    if rows - height > 2 * (columns - width):
        wanted = halved(across, halved(down, gray).T).T
    else:
        wanted = halved(down, halved(across, gray.T).T)
    assert np.array_equal(bilinear(gray, width, height), wanted)


def whole_matrix(weights: Bands, source: int) -> np.ndarray:
    """The weights as int64 [target, source], in 65,536ths."""
    matrix = np.zeros((len(weights.starts) * BLOCK, source), dtype=np.int64)
    for block, start in enumerate(weights.starts):
        part = weights.weights[block] * ONE
        matrix[block * BLOCK : (block + 1) * BLOCK, start : start + len(part)] = part.T
    return matrix[: weights.target]


def halved(matrix: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Their product, rounded half up."""
    return (matrix @ levels.astype(np.int64) + ONE // 2) // ONE


@pytest.mark.parametrize("level", [0, 1, 254, 255])
def test_a_plain_surface_stays_as_it_is(level: int) -> None:
    assert (bilinear(np.full((701, 877), level, dtype=np.uint8), 64, 96) == level).all()


def test_a_model_from_before_the_fast_mode_decodes_exactly() -> None:
    assert Preprocessing(size=32, resize="fit", background=3).decode == "exact"


def test_a_data_set_file_cannot_misspell_the_mode() -> None:
    reading = TypeAdapter(Preprocessing)
    assert reading.validate_python({"size": 32, "decode": "fast"}).decode == "fast"
    with pytest.raises(ValidationError, match="'exact' or 'fast'"):
        reading.validate_python({"size": 32, "decode": "quick"})
