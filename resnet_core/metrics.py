"""How good predictions are, each number with its 95% interval.

Intervals are percentile bootstrap over images (Efron & Tibshirani 1993, chapter 13): the held-out
images are drawn again with replacement, and the metric taken each time. Nothing is refitted, so the
interval speaks of the test set's size, not of the training's luck.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]  # [N], places in the class names
Probabilities = NDArray[np.float32]  # [N, C]
Metric = Callable[[Labels, Probabilities], float]

RESAMPLES = 1000
CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its 95% interval; NaN where the data cannot tell."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class ClassMetrics:
    """`support` is the number of held-out images of the class."""

    precision: Interval
    recall: Interval
    f1: Interval
    support: int


@dataclass(frozen=True)
class Metrics:
    """`confusion[i, j]` counts images of class i that were given class j."""

    overall: dict[str, Interval]
    per_class: dict[str, ClassMetrics]
    confusion: NDArray[np.int64]  # [C, C]
    count: int


def measure(labels: Labels, probabilities: Probabilities, classes: Sequence[str], seed: int = 0) -> Metrics:
    """All metrics of predictions on held-out images."""
    draws = resamples(len(labels), seed)
    overall = {name: interval(metric, labels, probabilities, draws) for name, metric in METRICS.items()}
    confusion = confusion_matrix(labels, probabilities)
    again = [scores_by_class(confusion_matrix(labels[rows], probabilities[rows])) for rows in draws]
    values, spread = scores_by_class(confusion), np.stack(again)  # [3, C], [RESAMPLES, 3, C]
    per_class = {}
    for k, name in enumerate(classes):
        precision, recall, f1 = (_percentiles(float(values[row, k]), spread[:, row, k]) for row in range(3))
        per_class[name] = ClassMetrics(precision, recall, f1, support=int(confusion[k].sum()))
    return Metrics(overall, per_class, confusion, len(labels))


def resamples(count: int, seed: int) -> NDArray[np.int64]:
    """int64 [RESAMPLES, N]: rows to draw, with replacement."""
    return np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))


def interval(metric: Metric, labels: Labels, probabilities: Probabilities, draws: NDArray[np.int64]) -> Interval:
    values = np.array([metric(labels[rows], probabilities[rows]) for rows in draws])
    return _percentiles(metric(labels, probabilities), values)


def difference(metric: Metric, labels: Labels, first: Probabilities, second: Probabilities, seed: int = 0) -> Interval:
    """metric(first) - metric(second) on the same images: a paired bootstrap, which is far narrower
    than two intervals held side by side."""
    draws = resamples(len(labels), seed)
    values = [metric(labels[rows], first[rows]) - metric(labels[rows], second[rows]) for rows in draws]
    return _percentiles(metric(labels, first) - metric(labels, second), np.array(values))


def _percentiles(value: float, resampled: NDArray[np.float64]) -> Interval:
    known = resampled[~np.isnan(resampled)]  # a resample may lack a class
    if np.isnan(value) or not len(known):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.percentile(known, [2.5, 97.5])
    return Interval(value, float(low), float(high))


def accuracy(labels: Labels, probabilities: Probabilities) -> float:
    return float((probabilities.argmax(1) == labels).mean())


def balanced_accuracy(labels: Labels, probabilities: Probabilities) -> float:
    """Mean recall over the classes that occur."""
    return float(np.nanmean(scores_by_class(confusion_matrix(labels, probabilities))[1]))


def macro_f1(labels: Labels, probabilities: Probabilities) -> float:
    """Mean F1 over the classes that occur or are predicted."""
    return float(np.nanmean(scores_by_class(confusion_matrix(labels, probabilities))[2]))


def roc_auc(labels: Labels, probabilities: Probabilities) -> float:
    """Area under the ROC curve; for more than two classes, the mean of one against the rest.
    NaN when fewer than two classes occur."""
    classes = [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    areas = [_rank_auc(labels == k, probabilities[:, k]) for k in classes]
    known = [area for area in areas if not np.isnan(area)]
    return float(np.mean(known)) if known else float("nan")


def _rank_auc(positive: NDArray[np.bool_], scores: NDArray[np.float32]) -> float:
    """The share of (positive, negative) pairs in the right order, ties counting half (Mann-Whitney)."""
    order = np.sort(scores[~positive])
    found = scores[positive]
    if not len(order) or not len(found):
        return float("nan")
    below, not_above = np.searchsorted(order, found, "left"), np.searchsorted(order, found, "right")
    return float((below + not_above).mean() / (2 * len(order)))


def calibration_error(labels: Labels, probabilities: Probabilities) -> float:
    """Expected calibration error: |accuracy - confidence|, averaged over bins of equal width of the
    confidence (Guo et al. 2017, arXiv:1706.04599, section 2)."""
    counts, right, confident = calibration_bins(labels, probabilities)
    return float(np.abs(right - confident).sum() / counts.sum())


def calibration_bins(labels: Labels, probabilities: Probabilities) -> tuple[NDArray[np.float64], ...]:
    """Three float64 [CALIBRATION_BINS]: images, correct ones, and the sum of confidences of each bin."""
    confidence = probabilities.max(1).astype(np.float64)
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    correct = (probabilities.argmax(1) == labels).astype(np.float64)

    def total(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(bins, weights, minlength=CALIBRATION_BINS).astype(np.float64)

    return total(np.ones_like(confidence)), total(correct), total(confidence)


def confusion_matrix(labels: Labels, probabilities: Probabilities) -> NDArray[np.int64]:
    """int64 [C, C]: rows are true classes, columns predicted ones."""
    classes = probabilities.shape[1]
    cells = labels * classes + probabilities.argmax(1)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def scores_by_class(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """float64 [3, C]: precision, recall and F1; NaN for a class without images (precision: without
    predictions of it)."""
    right = confusion.diagonal().astype(np.float64)
    true, predicted = confusion.sum(1), confusion.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([right / predicted, right / true, 2 * right / (true + predicted)])


METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "roc_auc": roc_auc,
    "calibration_error": calibration_error,
}
