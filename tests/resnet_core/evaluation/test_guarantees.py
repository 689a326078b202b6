"""What is promised of probabilities holds on real images: digits, and solar cells of ELPV."""

import warnings
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

from resnet_core.evaluation.assess import HeldOut, assess
from resnet_core.evaluation.calibrate import Requirements, find_temperature
from resnet_core.evaluation.metrics import METRICS, Labels, Probabilities, nll
from resnet_core.model.calibration import Calibration

Predicted = tuple[Labels, Probabilities]


def learned(pixels: np.ndarray, labels: np.ndarray, train: int, strength: float) -> Predicted:
    """What a linear classifier says of the images after the first `train`. With so little regularisation it is
    too sure of itself."""
    with warnings.catch_warnings(action="ignore"):  # it need not converge
        classifier = LogisticRegression(C=strength, max_iter=300).fit(pixels[:train], labels[:train])
    return labels[train:].astype(np.int64), classifier.predict_proba(pixels[train:]).astype(np.float32)


@pytest.fixture(scope="module")
def of_digits(digits: tuple[np.ndarray, list[str]]) -> Predicted:
    images, labels = digits
    order = np.random.default_rng(0).permutation(len(images))
    return learned(images.reshape(len(images), -1)[order] / 255, np.array(labels, int)[order], 300, 1000)


@pytest.fixture(scope="module")
def of_cells() -> Predicted:
    """1,300 solar cells at 20 x 20 pixels; defective or not is hard to tell from them."""
    folder = Path(str(files("elpv_dataset"))) / "data"
    lines = [line.split() for line in (folder / "labels.csv").read_text().splitlines() if line.strip()][::2]
    order = np.random.default_rng(0).permutation(len(lines))
    images = [np.asarray(Image.open(folder / lines[k][0]).resize((20, 20), Image.Resampling.BOX)) for k in order]
    labels = np.array([float(lines[k][1]) > 0.5 for k in order], int)
    return learned(np.stack(images).reshape(len(images), -1) / 255, labels, 500, 1000)


@pytest.fixture(params=["of_digits", "of_cells"])
def predicted(request: pytest.FixtureRequest) -> Predicted:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_sets_cover_what_they_say(predicted: Predicted, coverage: float) -> None:
    """Crosswise on real images, within what chance allows to the two halves."""
    labels, said = predicted
    accuracy = float((said.argmax(1) == labels).mean())
    found = [assess_coverage(labels, said, coverage, seed) for seed in range(5)]
    deviation = (coverage * (1 - coverage) * 2 / (len(labels) / 2)) ** 0.5
    assert all(each > coverage - 3 * deviation for each, _ in found)
    # Never empty: a classifier that is right more often than that covers as much as it is right.
    assert all(each < max(coverage, accuracy) + 3 * deviation for each, _ in found)
    assert np.mean([size for _, size in found]) < said.shape[1]


def assess_coverage(labels: Labels, said: Probabilities, coverage: float, seed: int) -> tuple[float, float]:
    found = assess(
        HeldOut(labels, said, None, {}), None, Requirements(coverage=coverage), "0123456789"[: said.shape[1]], seed
    ).coverage
    assert found is not None
    return found.found.value, found.mean_size


def test_calibrated_probabilities_are_nearer_to_the_truth(predicted: Predicted) -> None:
    """On images that the temperature was not found on."""
    labels, said = predicted
    half = len(labels) // 2
    after = Calibration(find_temperature(labels[:half], said[:half])).calibrated(said[half:])
    before = METRICS["calibration_error"](labels[half:], said[half:])
    assert before > 0.03  # there was something to mend
    assert METRICS["calibration_error"](labels[half:], after) < 0.75 * before
    assert nll(labels[half:], after) < nll(labels[half:], said[half:])


def test_a_model_that_is_calibrated_already_is_left_as_it_is(predicted: Predicted) -> None:
    labels, said = predicted
    once = Calibration(find_temperature(labels, said)).calibrated(said)
    assert find_temperature(labels, once) == pytest.approx(1, abs=0.04)


def test_costs_are_lower_on_images_that_the_weights_were_not_found_on(of_cells: Predicted) -> None:
    labels, said = of_cells
    wanted = Requirements(costs=np.array([1.0, 10.0]))
    found = assess(HeldOut(labels, said, None, {}), None, wanted, ["functional", "defective"]).decisions
    assert found is not None
    assert found.cost is not None
    assert found.default_cost is not None
    assert found.cost.high < found.default_cost.low
    assert found.thresholds is not None
    assert found.thresholds["defective"] < 0.3
    assert sum(found.thresholds.values()) == pytest.approx(1)
    assert found.classes["defective"].recall.value > 0.85


def test_a_recall_is_reached_on_images_that_it_was_not_asked_of(of_cells: Predicted) -> None:
    labels, said = of_cells
    wanted = Requirements(recalls={1: 0.9})
    found = assess(HeldOut(labels, said, None, {}), None, wanted, ["functional", "defective"]).decisions
    assert found is not None
    recall = found.classes["defective"]
    assert (recall.wanted, found.cost) == (0.9, None)
    assert recall.recall.low < 0.9 < recall.recall.high
    assert found.classes["functional"].recall.value > 0.05
