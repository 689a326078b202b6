"""Resizing: the three ways, their shapes, and that training and scoring share them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_core.preprocessing import Preprocessing, Resize, resize


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
