"""Brightness, contrast and sharpness are what their definitions say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from resnet_core.images.statistics import measure


@settings(max_examples=100, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(0, 4), st.integers(3, 20), st.integers(3, 20))))
def test_they_are_as_defined(pixels: np.ndarray) -> None:
    found = measure(pixels)
    assert found.shape == (3, len(pixels))
    for levels, (brightness, contrast, sharpness) in zip(pixels.astype(np.float64), found.T, strict=True):
        assert brightness == pytest.approx(levels.mean())
        assert contrast == pytest.approx(levels.std(), abs=1e-6)
        curvature = [
            abs(4 * levels[y, x] - levels[y - 1, x] - levels[y + 1, x] - levels[y, x - 1] - levels[y, x + 1])
            for y in range(1, levels.shape[0] - 1)
            for x in range(1, levels.shape[1] - 1)
        ]
        assert sharpness == pytest.approx(np.mean(curvature))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([8, 96, 200]))
def test_each_image_is_measured_as_if_alone(seed: int, size: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (9, size, size), dtype=np.uint8)
    assert np.array_equal(measure(pixels), np.concatenate([measure(one[None]) for one in pixels], axis=1))


@pytest.mark.parametrize("level", [0, 1, 127, 255])
@pytest.mark.parametrize("size", [8, 96, 1024])
def test_an_even_image_has_a_contrast_of_exactly_zero(level: int, size: int) -> None:
    assert measure(np.full((1, size, size), level, dtype=np.uint8)).ravel().tolist() == [level, 0, 0]


def test_blur_lowers_sharpness(photograph: Image.Image) -> None:
    sharp = photograph.convert("L").resize((96, 96))
    blurred = sharp.resize((24, 24)).resize((96, 96))
    before, after = measure(np.stack([np.asarray(sharp), np.asarray(blurred)]))[2]
    assert after < before / 2
