"""A saved classifier is the one that was trained, and is text and numbers only."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_core.augment import Flips
from resnet_core.classifier import Classifier
from resnet_core.grayscale import decode
from resnet_core.normalisation import Normalisation, to_input
from resnet_core.preprocessing import Preprocessing, resize
from resnet_core.resnet import ModelConfig, build
from resnet_core.sizes import resize_batch
from tests.resnet_core.test_resnet import TINY, randomised


def a_classifier(size: int = 16, config: ModelConfig = TINY) -> Classifier:
    network = build(config, size=size, classes=3, seed=5)
    randomised(network)  # a fresh one hardly tells images apart
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as it is loaded
    return Classifier(network, config, ("a", "b", "ü/ "), Preprocessing(size, "fit", 9), Normalisation(0.4, 0.2))


EVERYTHING = replace(TINY, head="multiscale", drop_path=0.3, score_scales=(16, 24), score_flips="dihedral")


@pytest.mark.parametrize("config", [TINY, EVERYTHING])
def test_saved_and_loaded_it_predicts_the_same(tmp_path: Path, photograph: Image.Image, config: ModelConfig) -> None:
    ours = a_classifier(config=config)
    ours.save(tmp_path)
    again = Classifier.load(tmp_path, "cpu")
    pixels = np.stack([resize(np.asarray(photograph.convert("L"))[k:], ours.preprocessing) for k in range(5)])
    assert np.array_equal(ours.probabilities(pixels), again.probabilities(pixels))
    assert again.classes == ours.classes
    assert (again.preprocessing, again.normalisation, again.config) == (
        ours.preprocessing,
        ours.normalisation,
        ours.config,
    )


def test_a_trained_model_is_served_without_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = a_classifier(config=EVERYTHING)
    ours.save(tmp_path)
    monkeypatch.setitem(sys.modules, "torchvision.ops", None)
    assert Classifier.load(tmp_path, "cpu").config == EVERYTHING


def test_its_files_are_text_and_safetensors(tmp_path: Path) -> None:
    a_classifier().save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]
    assert json.loads((tmp_path / "model.json").read_text())["preprocessing"]["size"] == 16
    weights = (tmp_path / "model.safetensors").read_bytes()
    assert weights[8:9] == b"{"  # an eight-byte length, then a JSON header


def test_raw_images_of_any_size_are_preprocessed_as_the_model_says(photograph: Image.Image, tmp_path: Path) -> None:
    photograph.crop((0, 0, 300, 200)).save(tmp_path / "x.png")
    gray = decode((tmp_path / "x.png").read_bytes())
    ours = a_classifier()
    found = ours.predict([gray, gray[:50, :50]])
    expected = ours.probabilities(resize(gray, ours.preprocessing)[None].copy())[0]
    np.testing.assert_allclose(found[0].probabilities, expected, atol=1e-6)
    assert found[0].label == ours.classes[expected.argmax()]
    assert found[0].confidence == found[0].probabilities.max()
    assert ours.predict([]) == []


def test_the_batch_size_and_the_order_change_nothing() -> None:
    ours = a_classifier()
    pixels = np.random.default_rng(0).integers(0, 256, (33, 16, 16), dtype=np.uint8)
    whole = ours.probabilities(pixels)
    for size in (1, 7, 33):
        np.testing.assert_allclose(ours.probabilities(pixels, size), whole, atol=1e-5)
    np.testing.assert_allclose(ours.probabilities(pixels[::-1]), whole[::-1], atol=1e-5)
    assert ours.probabilities(pixels[:0]).shape == (0, 3)


def test_a_model_of_an_older_version_loads(tmp_path: Path) -> None:
    """It names only the settings that there were then."""
    ours = a_classifier()
    ours.save(tmp_path)
    description = json.loads((tmp_path / "model.json").read_text())
    description["model"] = {"arch": "resnet10", "stem": "auto", "width": 16}
    (tmp_path / "model.json").write_text(json.dumps(description))
    again = Classifier.load(tmp_path, "cpu")
    assert again.config == ours.config
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    assert np.array_equal(ours.probabilities(pixels), again.probabilities(pixels))


def some_pixels(photograph: Image.Image, size: int = 16) -> np.ndarray:
    gray = np.asarray(photograph.convert("L"))
    return np.stack([resize(gray[k : k + 200, 3 * k :], Preprocessing(size)) for k in range(0, 150, 30)])


def test_a_score_over_sizes_is_the_mean_of_the_scores_at_each(photograph: Image.Image) -> None:
    ours = a_classifier(config=replace(TINY, score_scales=(12, 16, 24)))
    pixels = some_pixels(photograph)
    x = to_input(torch.from_numpy(pixels), ours.normalisation)
    with torch.inference_mode():
        each = [ours.network(resize_batch(x, side)).softmax(1).numpy() for side in (12, 16, 24)]
    assert np.abs(each[0] - each[1]).max() > 0.01
    np.testing.assert_allclose(ours.probabilities(pixels), np.mean(each, axis=0), atol=1e-6)


@pytest.mark.parametrize(
    ("flips", "images"), [("none", 1), ("horizontal", 2), ("vertical", 2), ("both", 4), ("dihedral", 8)]
)
def test_a_score_over_mirror_images_is_the_mean_of_their_scores(
    photograph: Image.Image, flips: Flips, images: int
) -> None:
    plain = a_classifier()
    ours = replace(plain, config=replace(TINY, score_flips=flips))
    pixels = some_pixels(photograph)
    mirrored = {
        "none": [pixels],
        "horizontal": [pixels, pixels[:, :, ::-1]],
        "vertical": [pixels, pixels[:, ::-1]],
        "both": [pixels, pixels[:, :, ::-1], pixels[:, ::-1], pixels[:, ::-1, ::-1]],
        "dihedral": [np.rot90(y, k, (1, 2)) for y in (pixels, pixels[:, :, ::-1]) for k in range(4)],
    }[flips]
    assert len(mirrored) == images
    expected = np.mean([plain.probabilities(y) for y in mirrored], axis=0)
    np.testing.assert_allclose(ours.probabilities(pixels), expected, atol=1e-6)
    for image in mirrored:  # the score of an image is that of its mirror images
        np.testing.assert_allclose(ours.probabilities(image), expected, atol=1e-5)
