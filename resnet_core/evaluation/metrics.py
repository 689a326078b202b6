"""How good predictions are, each number with its 95% interval.

A metric is written once, for many resamples of the images (see `bootstrap`); called with labels and
probabilities alone it is the number of the images themselves.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resnet_core.evaluation.bootstrap import Counts, Groups, ends, spread
from resnet_core.evaluation.bootstrap import Interval as Interval

Labels = NDArray[np.int64]  # [N], places in the class names
Probabilities = NDArray[np.float32]  # [N, C]
_Values = NDArray[np.float64]
Curve = tuple[_Values, _Values]  # x [K], y [K]

CALIBRATION_BINS = 15
FLOOR = 1e-12  # the least probability of which a logarithm is taken


@dataclass(frozen=True)
class Metric:
    """`resampled` takes labels [N], probabilities [N, C] and counts [R, N], and gives [R]."""

    resampled: Callable[[Labels, Probabilities, Counts], _Values]
    higher_is_better: bool = True

    def __call__(self, labels: Labels, probabilities: Probabilities) -> float:
        return float(self.resampled(labels, probabilities, np.ones((1, len(labels))))[0])


@dataclass(frozen=True)
class _ClassMetrics:
    """`support` is the number of held-out images of the class."""

    precision: Interval
    recall: Interval
    f1: Interval
    support: int


@dataclass(frozen=True)
class Metrics:
    """`confusion[i, j]` counts images of class i that were given class j."""

    overall: dict[str, Interval]
    per_class: dict[str, _ClassMetrics]
    confusion: NDArray[np.int64]  # [C, C]
    count: int


def measure(
    labels: Labels,
    probabilities: Probabilities,
    classes: Sequence[str],
    groups: Groups | None = None,
    seed: int = 0,
) -> Metrics:
    """All metrics of predictions on held-out images."""
    overall = intervals(METRICS, labels, probabilities, groups, seed)
    value, again = spread(lambda counts: _class_scores(labels, probabilities, counts), len(labels), groups, seed)
    confusion = confusion_matrix(labels, probabilities)
    per_class = {}
    for k, name in enumerate(classes):
        precision, recall, f1 = (ends(value[row, k], again[:, row, k]) for row in range(3))
        per_class[name] = _ClassMetrics(precision, recall, f1, support=int(confusion[k].sum()))
    return Metrics(overall, per_class, confusion, len(labels))


def intervals(
    names: Iterable[str], labels: Labels, probabilities: Probabilities, groups: Groups | None = None, seed: int = 0
) -> dict[str, Interval]:
    """Some of METRICS."""
    names = tuple(names)
    value, again = spread(
        lambda counts: np.stack([METRICS[name].resampled(labels, probabilities, counts) for name in names], axis=1),
        len(labels),
        groups,
        seed,
    )
    return {name: ends(value[k], again[:, k]) for k, name in enumerate(names)}


def _accuracy(labels: Labels, probabilities: Probabilities, counts: Counts) -> _Values:
    return _mean(probabilities.argmax(1) == labels, counts)


def _balanced_accuracy(labels: Labels, probabilities: Probabilities, counts: Counts) -> _Values:
    """Mean recall over the classes that occur."""
    return _known_mean(_class_scores(labels, probabilities, counts)[:, 1])


def _macro_f1(labels: Labels, probabilities: Probabilities, counts: Counts) -> _Values:
    """Mean F1 over the classes that occur or are predicted."""
    return _known_mean(_class_scores(labels, probabilities, counts)[:, 2])


def _roc_auc(labels: Labels, probabilities: Probabilities, counts: Counts) -> _Values:
    """Area under the ROC curve; for more than two classes, the mean of one against the rest.
    NaN when fewer than two classes occur."""
    classes = [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    return _known_mean(np.stack([_rank_auc(labels == k, probabilities[:, k], counts) for k in classes], axis=1))


def _rank_auc(positive: NDArray[np.bool_], scores: NDArray[np.float32], counts: Counts) -> _Values:
    """The share of (positive, negative) pairs in the right order, ties counting half (Mann-Whitney)."""
    if positive.all() or not positive.any():
        return np.full(len(counts), np.nan)
    order = np.argsort(scores[~positive], kind="stable")
    ranked, negative = scores[~positive][order], counts[:, np.flatnonzero(~positive)[order]]
    below = np.zeros((len(counts), len(ranked) + 1))
    np.cumsum(negative, axis=1, out=below[:, 1:])
    found, times = scores[positive], counts[:, positive]
    left, right = np.searchsorted(ranked, found, "left"), np.searchsorted(ranked, found, "right")
    pairs = times.sum(1) * below[:, -1]
    with np.errstate(invalid="ignore"):
        return np.einsum("rn,rn->r", times, below[:, left] + below[:, right]) / (2 * pairs)


def _calibration_error(labels: Labels, probabilities: Probabilities, counts: Counts) -> _Values:
    """Expected calibration error: |accuracy - confidence|, averaged over bins of equal width of the
    confidence (Guo et al. 2017, arXiv:1706.04599, section 2)."""
    confidence, correct, bins = _by_confidence(labels, probabilities)
    signed = np.zeros((len(labels), CALIBRATION_BINS))
    signed[np.arange(len(labels)), bins] = correct - confidence
    return np.abs(counts @ signed).sum(1) / counts.sum(1)


def _nll(labels: Labels, probabilities: Probabilities, counts: Counts) -> _Values:
    """Mean negative log-likelihood, in nats."""
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return _mean(-np.log(np.maximum(own, FLOOR)), counts)


def _brier(labels: Labels, probabilities: Probabilities, counts: Counts) -> _Values:
    """Mean squared distance from the true class's unit vector, 0 to 2 (Brier 1950)."""
    errors = probabilities.astype(np.float64)
    errors[np.arange(len(labels)), labels] -= 1
    return _mean(np.square(errors).sum(1), counts)


def _mean(values: NDArray[np.float64] | NDArray[np.bool_], counts: Counts) -> _Values:
    found: _Values = (counts @ values.astype(np.float64)) / counts.sum(1)
    return found


def _known_mean(values: _Values) -> _Values:
    """[R, K] -> [R]: the mean of what is no NaN."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(1) / known.sum(1)


def calibration_bins(labels: Labels, probabilities: Probabilities) -> tuple[_Values, ...]:
    """Three float64 [CALIBRATION_BINS]: images, correct ones, and the sum of confidences of each bin."""
    confidence, correct, bins = _by_confidence(labels, probabilities)

    def total(weights: _Values) -> _Values:
        return np.bincount(bins, weights, minlength=CALIBRATION_BINS).astype(np.float64)

    return total(np.ones_like(confidence)), total(correct), total(confidence)


def _by_confidence(labels: Labels, probabilities: Probabilities) -> tuple[_Values, _Values, Labels]:
    """Confidence, 1 where correct, and the number of the bin of each image."""
    confidence = probabilities.max(1).astype(np.float64)
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    return confidence, (probabilities.argmax(1) == labels).astype(np.float64), bins


def roc_curves(labels: Labels, probabilities: Probabilities, classes: Sequence[str]) -> dict[str, Curve]:
    """Return the ROC curve of each class against the rest; of two classes, only the second's.

    A class that has all images, or none, has no curve.
    """
    shown = [1] if len(classes) == 2 else range(len(classes))
    occurring = [k for k in shown if 0 < (labels == k).sum() < len(labels)]
    return {classes[k]: roc_curve(labels == k, probabilities[:, k]) for k in occurring}


def roc_curve(positive: NDArray[np.bool_], scores: NDArray[np.float32], most: int = 160) -> Curve:
    """Return false and true positive rates from (0, 0) to (1, 1), at most `most` points evenly along the curve.

    positive, scores: [N].
    """
    from sklearn import metrics as sklearn_metrics  # takes a second to import

    alarms, hits, _ = sklearn_metrics.roc_curve(positive, scores)
    if len(hits) > most:
        along = alarms + hits
        kept = np.unique(np.searchsorted(along, np.linspace(0, along[-1], most)))
        alarms, hits = alarms[kept], hits[kept]
    return alarms, hits


def confusion_matrix(labels: Labels, probabilities: Probabilities) -> NDArray[np.int64]:
    """int64 [C, C]: rows are true classes, columns predicted ones."""
    classes = probabilities.shape[1]
    cells = labels * classes + probabilities.argmax(1)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def _class_scores(labels: Labels, probabilities: Probabilities, counts: Counts) -> _Values:
    """[R, 3, C]: precision, recall and F1; NaN for a class without images (precision: without
    predictions of it)."""
    classes, predicted = probabilities.shape[1], probabilities.argmax(1)
    right = predicted == labels
    true, said = _sums_by(labels, classes, counts), _sums_by(predicted, classes, counts)
    hits = _sums_by(labels[right], classes, counts[:, right])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([hits / said, hits / true, 2 * hits / (true + said)], axis=1)


def _sums_by(keys: Labels, size: int, counts: Counts) -> _Values:
    """[R, N] -> [R, size]: the counts of the images of each key."""
    found = np.zeros((len(counts), size))
    if len(keys):
        order = np.argsort(keys, kind="stable")
        there, starts = np.unique(keys[order], return_index=True)
        found[:, there] = np.add.reduceat(counts[:, order], starts, axis=1)
    return found


accuracy = Metric(_accuracy)
balanced_accuracy = Metric(_balanced_accuracy)
macro_f1 = Metric(_macro_f1)
roc_auc = Metric(_roc_auc)
calibration_error = Metric(_calibration_error, higher_is_better=False)
nll = Metric(_nll, higher_is_better=False)
brier = Metric(_brier, higher_is_better=False)

METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "roc_auc": roc_auc,
    "calibration_error": calibration_error,
    "nll": nll,
    "brier": brier,
}
# Those that a temperature changes: to be measured on images that it was not fitted on.
OF_CALIBRATION = ("calibration_error", "nll", "brier")
