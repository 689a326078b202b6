"""Metrics agree with scikit-learn's, and intervals contain what they should."""

import numpy as np
import pytest
import sklearn.metrics as peer

from resnet_core.evaluation.metrics import (
    METRICS,
    Probabilities,
    accuracy,
    confusion_matrix,
    measure,
    roc_curve,
    roc_curves,
)
from resnet_core.model.calibration import Calibration
from tests.versions import Digits, predicted


def predictions(classes: int, count: int = 400, skill: float = 1.0, seed: int = 0) -> tuple[np.ndarray, Probabilities]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    logits = rng.normal(size=(count, classes))
    logits[np.arange(count), labels] += skill
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return labels, shares.astype(np.float32)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_values_are_scikit_learns(classes: int) -> None:
    labels, shares = predictions(classes)
    found = shares.argmax(1)
    assert accuracy(labels, shares) == pytest.approx(peer.accuracy_score(labels, found))
    assert METRICS["balanced_accuracy"](labels, shares) == pytest.approx(peer.balanced_accuracy_score(labels, found))
    assert METRICS["macro_f1"](labels, shares) == pytest.approx(peer.f1_score(labels, found, average="macro"))
    assert np.array_equal(confusion_matrix(labels, shares), peer.confusion_matrix(labels, found))
    scores = shares[:, 1] if classes == 2 else shares
    assert METRICS["roc_auc"](labels, shares) == pytest.approx(
        peer.roc_auc_score(labels, scores, multi_class="ovr"), abs=1e-5
    )


def test_class_scores_are_scikit_learns() -> None:
    labels, shares = predictions(3)
    metrics = measure(labels, shares, ["a", "b", "c"])
    precision, recall, f1, support = peer.precision_recall_fscore_support(labels, shares.argmax(1))
    for k, name in enumerate("abc"):
        found = metrics.per_class[name]
        assert (found.precision.value, found.recall.value) == pytest.approx((precision[k], recall[k]))
        assert found.f1.value == pytest.approx(f1[k])
        assert found.support == support[k]
        assert found.recall.low <= found.recall.value <= found.recall.high


def test_ties_count_half() -> None:
    shares = np.full((10, 2), 0.5, dtype=np.float32)
    assert METRICS["roc_auc"](np.array([0, 1] * 5), shares) == 0.5


def test_calibration_of_a_model_that_is_always_sure_and_half_right() -> None:
    shares = np.tile(np.array([[1.0, 0.0]], dtype=np.float32), (10, 1))
    assert METRICS["calibration_error"](np.array([0, 1] * 5), shares) == pytest.approx(0.5)


def test_the_interval_covers_the_truth_about_95_times_in_100() -> None:
    truth = accuracy(*predictions(2, 200_000, seed=1))
    intervals = [measure(*predictions(2, 150, seed=k), ["a", "b"]).overall["accuracy"] for k in range(2, 62)]
    covered = sum(i.low <= truth <= i.high for i in intervals)
    assert covered >= 51  # 60 draws at 95%: fewer than 51 happens once in 3,000 times


def test_a_test_set_of_one_class_has_no_roc_and_does_not_crash() -> None:
    _, shares = predictions(2, 20)
    metrics = measure(np.zeros(20, dtype=np.int64), shares, ["a", "b"])
    assert np.isnan(metrics.overall["roc_auc"].value)
    assert metrics.per_class["b"].support == 0


def test_the_drawn_roc_curve_has_the_area_that_is_reported(digits: Digits) -> None:
    _, labels, shares = predicted(digits)
    areas = []
    for k in range(10):
        alarms, hits = roc_curve(labels == k, shares[:, k], most=40)
        assert len(alarms) == len(hits) <= 40
        assert (alarms[0], hits[0], alarms[-1], hits[-1]) == (0, 0, 1, 1)
        areas.append(np.trapezoid(hits, alarms))
    assert np.mean(areas) == pytest.approx(METRICS["roc_auc"](labels, shares), abs=0.002)
    alarms, hits = roc_curve(np.array([True, False, True, False]), np.full(4, 0.5, np.float32))
    # Images with the same score count together, in whatever order they come.
    assert (alarms.tolist(), hits.tolist()) == ([0, 1], [0, 1])


def test_a_class_without_images_has_no_roc_curve() -> None:
    labels, shares = predictions(4)
    assert list(roc_curves(labels, shares, "abcd")) == ["a", "b", "c", "d"]
    assert list(roc_curves(np.where(labels == 3, 0, labels), shares, "abcd")) == ["a", "b", "c"]
    assert list(roc_curves(*predictions(2), "ab")) == ["b"]
    assert roc_curves(np.zeros(9, np.int64), shares[:9, :2], "ab") == {}


def test_weights_decide_and_change_no_order() -> None:
    """Metrics of weighted scores are those of what a batch decides; ROC AUC is that of the probabilities."""
    for classes, weights in ((2, (0.2, 1.0)), (3, (1.0, 0.1, 0.6))):
        labels, shares = predictions(classes)
        scores = Calibration(weights=weights).weighted(shares)
        decided = Calibration(weights=weights).decided(shares)
        assert (decided != shares.argmax(1)).any()
        assert accuracy(labels, scores) == pytest.approx((decided == labels).mean())
        assert METRICS["macro_f1"](labels, scores) == pytest.approx(peer.f1_score(labels, decided, average="macro"))
        assert np.array_equal(confusion_matrix(labels, scores), peer.confusion_matrix(labels, decided))
        assert METRICS["roc_auc"](labels, scores) == pytest.approx(METRICS["roc_auc"](labels, shares))
