"""Single images: whatever form an image has, its pixels are those of a file in a batch."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_core.errors import UserError
from resnet_core.images.preprocessing import Preprocessing
from resnet_core.inference.single import predict_files, predict_images, read_images
from resnet_core.model.classifier import Classifier
from resnet_core.model.inputs import Normalisation
from resnet_core.model.resnet import ModelConfig, build
from resnet_core.sources.locate import locate

SETTINGS = Preprocessing(size=8)
GRAY = (np.arange(12 * 20).reshape(12, 20) % 256).astype(np.uint8)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(0)
    config = ModelConfig("resnet10", 16)
    return Classifier(
        build(config, size=8, classes=2).eval(), config, ("cat", "dog"), SETTINGS, Normalisation(0.5, 0.2)
    )


def as_png(image: Image.Image, **how: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **how)
    return file.getvalue()


def test_a_file_its_bytes_an_array_and_a_pillow_image_give_the_same_pixels(tmp_path: Path) -> None:
    path, image = tmp_path / "a.png", Image.fromarray(GRAY)
    path.write_bytes(as_png(image))
    forms = [path, str(path), path.read_bytes(), GRAY, image, np.stack([GRAY] * 3, axis=-1)]
    names, read = read_images(SETTINGS, forms)
    assert names == [str(path), str(path), "#2", "#3", "#4", "#5"]
    for each in read:
        assert each.pixels is not None
        assert np.array_equal(each.pixels, read[0].pixels)
        assert (each.width, each.height) == (20, 12)


def test_colors_become_gray_as_in_a_file() -> None:
    colors = np.zeros((8, 8, 3), np.uint8)
    colors[:, :4] = (255, 0, 0)
    of_array, of_file = read_images(SETTINGS, [colors, as_png(Image.fromarray(colors))])[1]
    assert of_array.pixels is not None
    assert of_array.pixels[0, 0] == 76  # 0.299 * 255
    assert of_array.pixels[0, 7] == 0
    assert np.array_equal(of_array.pixels, of_file.pixels)


def test_a_pillow_image_keeps_its_orientation_and_its_16_bits() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    turned = Image.open(io.BytesIO(as_png(Image.fromarray(GRAY), exif=exif.tobytes())))
    (read,) = read_images(SETTINGS, [turned])[1]
    (upright,) = read_images(SETTINGS, [np.ascontiguousarray(GRAY[::-1, ::-1])])[1]
    assert read.pixels is not None
    assert np.array_equal(read.pixels, upright.pixels)
    deep = Image.fromarray(np.full((8, 8), 40_000, np.uint16))
    (of_image,), (of_file,) = (read_images(SETTINGS, [each])[1] for each in (deep, as_png(deep)))
    assert of_image.reason == of_file.reason


def test_an_image_that_cannot_be_read_has_a_reason_and_the_others_a_label(classifier: Classifier) -> None:
    good, bad = predict_images(classifier, [GRAY, b"no image"])
    assert good.label in ("cat", "dog")
    assert good.confidence == max(good.probabilities.values())
    assert sum(good.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert (bad.label, bad.confidence, bad.probabilities) == (None, None, {})
    assert bad.reason_code == "not_an_image"
    assert predict_images(classifier, []) == []


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ("a.png", r"give a list, as in predict\(\[image\]\)"),
        ([3], "image #0: int is none"),
        ([np.zeros((4, 4, 3))], "image #0: an array of float64"),
        ([np.zeros((0, 4), np.uint8)], "an array of uint8"),
        ([GRAY, np.zeros((2, 4, 4, 3), np.uint8)], "image #1"),
    ],
)
def test_what_is_no_image_is_refused_with_the_forms_that_are(images: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_images(SETTINGS, images)  # type: ignore[arg-type]


def test_files_of_a_listing_are_predicted_in_order(classifier: Classifier, tmp_path: Path) -> None:
    for name, level in (("b", 0), ("a", 200), ("c", 90)):
        (tmp_path / f"{name}.png").write_bytes(as_png(Image.fromarray(np.full((9, 9), level, np.uint8))))
    paths = [str(tmp_path / f"{name}.png") for name in "bac"]
    gone = tmp_path / "gone.png"
    gone.write_bytes(b"x")
    files = locate([*paths, str(gone)])
    gone.unlink()
    found = list(predict_files(classifier, files))
    assert [each.image for each in found] == [*paths, str(gone)]
    alone = predict_images(classifier, paths)
    assert [each.label for each in found[:3]] == [each.label for each in alone]
    assert [each.confidence for each in found[:3]] == pytest.approx([each.confidence for each in alone])
    assert (found[3].label, found[3].reason_code) == (None, "unreachable")
