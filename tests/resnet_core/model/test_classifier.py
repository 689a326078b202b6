"""A saved classifier is the one that was trained, and is text and numbers only."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_core.errors import UserError
from resnet_core.evaluation.input_sizes import by_size, sample
from resnet_core.evaluation.metrics import METRICS
from resnet_core.images.decode import decode
from resnet_core.images.levels import Decided
from resnet_core.images.preprocessing import Preprocessing, resize
from resnet_core.model.calibration import Calibration
from resnet_core.model.classifier import Classifier
from resnet_core.model.inputs import Flips, Normalisation, resize_batch, to_input
from resnet_core.model.resnet import ModelConfig, build
from resnet_core.model.sized import sized
from tests.resnet_core.model.test_resnet import TINY, randomised


def a_classifier(size: int = 16, config: ModelConfig = TINY, averages: Sequence[int] = ()) -> Classifier:
    network = sized(build(config, size=size, classes=3, seed=5), averages)
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


def test_arrays_are_scaled_by_the_rule_of_the_training(photograph: Image.Image) -> None:
    plain, gray = a_classifier(), np.asarray(photograph.convert("L"))
    deep = replace(
        plain, preprocessing=replace(plain.preprocessing, decided=Decided(integers=(0, 4080), floats=(0, 1)))
    )
    wanted = plain.predict([gray])[0].probabilities
    for image in (gray, gray.astype(np.uint16) * 16, gray / 255):
        assert np.array_equal(deep.predict([image])[0].probabilities, wanted)
    for image in (gray.astype(np.uint16) * 16, gray / 255):
        with pytest.raises(UserError, match=r"without a stated white.* Or give uint8"):
            plain.predict([image])
    with pytest.raises(UserError, match="beyond the data set's range"):
        deep.predict([gray / 100])


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


CALIBRATED = Calibration(0.5, (0.2, 1.0, 0.5), 0.9, 0.7, "validation", 100)


def test_its_calibration_travels_with_it(tmp_path: Path, photograph: Image.Image) -> None:
    plain = a_classifier()
    pixels = some_pixels(photograph)
    ours = replace(plain, calibration=CALIBRATED)
    ours.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calibration.json", "model.json", "model.safetensors"]
    again = Classifier.load(tmp_path, "cpu")
    assert again.calibration == CALIBRATED
    shares = again.probabilities(pixels)
    logits = np.log(plain.probabilities(pixels)) / 0.5
    np.testing.assert_allclose(shares, np.exp(logits) / np.exp(logits).sum(1, keepdims=True), atol=1e-6)
    (tmp_path / "calibration.json").unlink()
    assert Classifier.load(tmp_path, "cpu").calibration == Calibration()


def test_it_decides_by_weights_and_says_when_a_person_should() -> None:
    ours = replace(a_classifier(), calibration=CALIBRATED)
    shares = np.array([[0.7, 0.25, 0.05], [0.4, 0.35, 0.25], [0.9, 0.05, 0.05]], np.float32)
    found = ours.decide(shares)
    assert [p.label for p in found] == ["b", "b", "a"]
    assert [p.confidence for p in found] == pytest.approx([0.25, 0.35, 0.9])
    assert [p.prediction_set for p in found] == [("a",), ("a", "b"), ("a",)]
    assert [p.needs_review for p in found] == [False, True, False]
    plain = a_classifier().decide(shares)
    assert [(p.label, p.prediction_set, p.needs_review) for p in plain] == [("a", None, None)] * 3


def test_images_of_other_sizes_are_resized_first(photograph: Image.Image) -> None:
    ours = a_classifier()
    pixels = some_pixels(photograph)
    x = resize_batch(to_input(torch.from_numpy(pixels), ours.normalisation), 24)
    with torch.inference_mode():
        expected = ours.network(x).softmax(1).numpy()
    np.testing.assert_allclose(ours.probabilities(pixels, side=24), expected, atol=1e-6)
    assert np.abs(ours.probabilities(pixels) - expected).max() > 0.01


def test_the_table_by_size_has_the_stored_size_in_its_middle(photograph: Image.Image) -> None:
    ours = a_classifier(config=replace(TINY, score_flips="both", score_scales=(16, 24)))
    pixels, seen = some_pixels(photograph), []
    labels = np.array([0, 1, 2, 0, 1])
    rows = by_size(ours, pixels, labels, seen.append)
    assert [(row.side, row.images) for row in rows] == [(8, 5), (12, 5), (16, 5), (24, 5), (32, 5)]
    once = [a_classifier().probabilities(pixels, side=row.side) for row in rows]  # without mirror images
    assert [row.roc_auc for row in rows] == pytest.approx([METRICS["roc_auc"](labels, shares) for shares in once])
    assert len({row.roc_auc for row in rows}) > 1
    np.testing.assert_allclose(once[2], a_classifier().probabilities(pixels), atol=1e-6)
    assert sum(seen) == 25
    assert sample(3).tolist() == [0, 1, 2]
    assert (len(sample(100_000)), sample(100_000)[-1], np.diff(sample(100_000)).max()) == (250, 99_999, 402)


def test_the_batch_size_and_the_order_change_nothing() -> None:
    ours = a_classifier()
    pixels = np.random.default_rng(0).integers(0, 256, (33, 16, 16), dtype=np.uint8)
    whole = ours.probabilities(pixels)
    for size in (1, 7, 33):
        np.testing.assert_allclose(ours.probabilities(pixels, size), whole, atol=1e-5)
    np.testing.assert_allclose(ours.probabilities(pixels[::-1]), whole[::-1], atol=1e-5)
    assert ours.probabilities(pixels[:0]).shape == (0, 3)


@pytest.mark.parametrize(
    ("size", "width", "scales", "side", "expected"),
    [
        (8, 16, (), None, 128),  # the small stem: 8 x 8 x 16 numbers an image
        (32, 64, (), None, 64),
        (224, 16, (), None, 20),  # 112 x 112 x 16, 0.8 MB
        (224, 16, (192, 224, 256), None, 16),
        (224, 16, (192, 224, 256), 112, 83),
        (512, 64, (), None, 8),
    ],
)
def test_a_batch_is_as_large_as_its_tensors_stay_small(
    size: int, width: int, scales: tuple[int, ...], side: int | None, expected: int
) -> None:
    ours = a_classifier(size, replace(TINY, width=width, score_scales=scales))
    assert ours.usual_batch(side) == expected


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
