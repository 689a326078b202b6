"""The pyfunc takes gray images, and refuses what it would take for others than they are."""

import numpy as np
import pytest
from mlflow.exceptions import MlflowException

from tasks.release.served_model import _RawImages
from tests.resnet_core.model.test_classifier import a_classifier


@pytest.fixture
def served() -> _RawImages:
    model = _RawImages()
    model.classifier = a_classifier()
    return model


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("shape", [(1, 64, 48), (5, 8, 8), (2, 4, 4), (1, 4, 8)])
def test_gray_images_of_any_size_have_a_row_each(served: _RawImages, shape: tuple[int, ...]) -> None:
    assert len(served.predict(None, noise(*shape))) == shape[0]


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((64, 48, 3), "64 images of 48 x 3 pixels: a single image with channels"),
        ((64, 48, 1), "64 images of 48 x 1 pixels"),
        ((64, 48, 4), "64 images of 48 x 4 pixels"),
        ((3, 48, 2), "3 images of 48 x 2"),
        ((1, 64, 48, 3), r"shape \(1, 64, 48, 3\)"),
        ((64, 48), r"shape \(64, 48\)"),
        ((0, 8, 8), r"shape \(0, 8, 8\)"),
    ],
)
def test_colours_and_channels_are_refused(served: _RawImages, shape: tuple[int, ...], text: str) -> None:
    with pytest.raises(MlflowException, match=text) as error:
        served.predict(None, noise(*shape))
    assert "uint8 [images, height, width]" in str(error.value)
    assert error.value.error_code == "INVALID_PARAMETER_VALUE"


def test_floats_that_a_server_has_cut_to_0_and_1_are_refused(served: _RawImages) -> None:
    """`mlflow models serve` makes uint8 of the numbers in its JSON."""
    cut = np.array((noise(3, 8, 8) / 255).tolist(), dtype=np.uint8)
    mixed = np.concatenate([noise(1, 8, 8), np.zeros((1, 8, 8), np.uint8)])
    for images, text in ((cut, "3 of 3 images have no level over 1"), (mixed, "1 of 2 images")):
        with pytest.raises(MlflowException, match=text):
            served.predict(None, images)
