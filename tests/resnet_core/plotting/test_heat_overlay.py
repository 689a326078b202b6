"""Heat over a picture: what is hot in the network's square is hot at the same place of the image."""

import io

import numpy as np
import pytest
from PIL import Image

from resnet_core.images.preprocessing import Preprocessing, resize
from resnet_core.plotting.heat_overlay import overlay


@pytest.mark.parametrize(("width", "height"), [(300, 300), (400, 200), (90, 270)])
@pytest.mark.parametrize("mode", ["squash", "fit", "crop"])
def test_heat_lies_where_the_network_saw_it(mode: str, width: int, height: int) -> None:
    """A bright spot of the image, as the network sees it, taken as heat, lies over the spot."""
    image = np.zeros((height, width), np.uint8)
    row, column = round(0.55 * height), round(0.45 * width)
    image[row - 10 : row + 10, column - 10 : column + 10] = 255
    settings = Preprocessing(96, mode)  # type: ignore[arg-type]
    webp, (across, down) = overlay(resize(image, settings).astype(np.float32) / 255, settings, (width, height))
    assert max(across, down) == 64
    assert across / down == pytest.approx(width / height, rel=0.05)
    opacity = np.asarray(Image.open(io.BytesIO(webp)).convert("RGBA"))[..., 3].astype(float)
    assert opacity.shape == (down, across)
    hot = opacity > opacity.max() / 2
    places = np.argwhere(hot).mean(0)
    assert places[0] / down == pytest.approx(0.55, abs=0.03)
    assert places[1] / across == pytest.approx(0.45, abs=0.03)
    assert opacity.max() == pytest.approx(0.75 * 255, abs=8)
    assert hot.mean() == pytest.approx(400 / (width * height), rel=0.6)


def test_without_heat_nothing_is_laid_over() -> None:
    webp, _ = overlay(np.zeros((48, 48), np.float32), Preprocessing(48), (100, 50))
    assert np.asarray(Image.open(io.BytesIO(webp)).convert("RGBA"))[..., 3].max() == 0
    assert len(webp) < 500
