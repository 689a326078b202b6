"""A saved classifier is the one that was trained, and is text and numbers only."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from resnet_core.classifier import Classifier
from resnet_core.grayscale import decode
from resnet_core.normalisation import Normalisation
from resnet_core.preprocessing import Preprocessing, resize
from resnet_core.resnet import ModelConfig, build


def a_classifier(size: int = 16) -> Classifier:
    config = ModelConfig("resnet10", width=16)
    network = build(config, size=size, classes=3, seed=5).eval()
    return Classifier(network, config, ("a", "b", "ü/ "), Preprocessing(size, "fit", 9), Normalisation(0.4, 0.2))


def test_saved_and_loaded_it_predicts_the_same(tmp_path: Path, photograph: Image.Image) -> None:
    ours = a_classifier()
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
