"""Metrics: how good predictions are, each value with its 95% interval.

A label is decided by the largest score. Scores are probabilities times decision weights (`Calibration.weighted`), or
probabilities as they are: weights change the decisions, but no order within a class, so no ROC AUC.

METRICS is the registry. The gate, MLflow, the report and every page take names, directions and titles from it.
A new metric is a function and an entry here.

field               means
title, about        the heading in a report, and the explanation beside it
higher_is_better    the direction
of_calibration      a temperature changes it: measure it on images that the calibration was not fitted on
share               a share of 1, written in percent
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resnet_core.evaluation.bootstrap import Counts, Groups, ends, spread, trials
from resnet_core.evaluation.bootstrap import Interval as Interval

Labels = NDArray[np.int64]  # [N], places in the class names
Probabilities = NDArray[np.float32]  # [N, C]
Scores = NDArray[np.floating]  # [N, C], probabilities or weighted ones
_Values = NDArray[np.float64]
Curve = tuple[_Values, _Values]  # x [K], y [K]

CALIBRATION_BINS = 15
FLOOR = 1e-12  # the least probability of which a logarithm is taken


@dataclass(frozen=True)
class Metric:
    """A metric of resamples: labels [N], scores [N, C] and counts [R, N] give [R] values.

    Called with labels and scores alone, it returns the value of the images themselves.
    """

    resampled: Callable[[Labels, Scores, Counts], _Values]
    title: str
    about: str
    higher_is_better: bool = True
    of_calibration: bool = False
    share: bool = False

    def __call__(self, labels: Labels, scores: Scores) -> float:
        return float(self.resampled(labels, scores, np.ones((1, len(labels))))[0])


@dataclass(frozen=True)
class _ClassMetrics:
    """`support` is the number of held-out images of the class."""

    precision: Interval
    recall: Interval
    f1: Interval
    support: int


@dataclass(frozen=True)
class Metrics:
    """`confusion[i, j]` counts images of class i that were decided to be class j."""

    overall: dict[str, Interval]
    per_class: dict[str, _ClassMetrics]
    confusion: NDArray[np.int64]  # [C, C]
    count: int


def measure(
    labels: Labels, scores: Scores, classes: Sequence[str], groups: Groups | None = None, seed: int = 0
) -> Metrics:
    """Return all metrics of predictions on held-out images."""
    overall = intervals(METRICS, labels, scores, groups, seed)
    value, again = spread(lambda counts: _class_scores(labels, scores, counts), len(labels), groups, seed)
    confusion, decided = confusion_matrix(labels, scores), scores.argmax(1)
    per_class = {}
    for k, name in enumerate(classes):
        behind = (decided == k, labels == k, (decided == k) | (labels == k))
        precision, recall, f1 = (
            ends(value[row, k], again[:, row, k], trials(rows, groups)) for row, rows in enumerate(behind)
        )
        per_class[name] = _ClassMetrics(precision, recall, f1, support=int(confusion[k].sum()))
    return Metrics(overall, per_class, confusion, len(labels))


def intervals(
    names: Iterable[str], labels: Labels, scores: Scores, groups: Groups | None = None, seed: int = 0
) -> dict[str, Interval]:
    """Return the METRICS of these names."""
    names = tuple(names)
    value, again = spread(
        lambda counts: np.stack([METRICS[name].resampled(labels, scores, counts) for name in names], axis=1),
        len(labels),
        groups,
        seed,
    )
    return {name: ends(value[k], again[:, k], _trials(name, labels, groups)) for k, name in enumerate(names)}


def _trials(name: str, labels: Labels, groups: Groups | None) -> int:
    """Return the images (or groups) that stand behind a metric where nothing is wrong.

    A mean over classes is as sure as if each class were as small as the smallest. ROC AUC of two classes is one curve.
    """
    every = trials(np.ones(len(labels), bool), groups)
    if name == "accuracy" or every < 0:
        return every
    if METRICS[name].of_calibration:
        return 0  # not a share of right answers
    occurring = np.unique(labels)
    smallest = min(abs(trials(labels == k, groups)) for k in occurring)
    return smallest * (1 if name == "roc_auc" and len(occurring) == 2 else len(occurring))


def _accuracy(labels: Labels, scores: Scores, counts: Counts) -> _Values:
    return _mean(scores.argmax(1) == labels, counts)


def _balanced_accuracy(labels: Labels, scores: Scores, counts: Counts) -> _Values:
    """Return the mean recall over the classes that occur."""
    return _nan_mean(_class_scores(labels, scores, counts)[:, 1])


def _macro_f1(labels: Labels, scores: Scores, counts: Counts) -> _Values:
    """Return the mean F1 over the classes that occur or are predicted."""
    return _nan_mean(_class_scores(labels, scores, counts)[:, 2])


def _roc_auc(labels: Labels, scores: Scores, counts: Counts) -> _Values:
    """Return the area under the ROC curve; for more than two classes, the mean of one class against the rest.

    NaN if fewer than two classes occur.
    """
    classes = [1] if scores.shape[1] == 2 else range(scores.shape[1])
    return _nan_mean(np.stack([_rank_auc(labels == k, scores[:, k], counts) for k in classes], axis=1))


def _rank_auc(positive: NDArray[np.bool_], scores: Scores, counts: Counts) -> _Values:
    """Return the share of (positive, negative) pairs in the right order, ties counting half (Mann-Whitney)."""
    if positive.all() or not positive.any():
        return np.full(len(counts), np.nan)
    order = np.argsort(scores[~positive], kind="stable")
    ranked, negative = scores[~positive][order], counts[:, np.flatnonzero(~positive)[order]]
    below = np.zeros((len(counts), len(ranked) + 1))
    np.cumsum(negative, axis=1, out=below[:, 1:])
    times = counts[:, positive]
    left, right = (np.searchsorted(ranked, scores[positive], side) for side in ("left", "right"))
    pairs = times.sum(1) * below[:, -1]
    with np.errstate(invalid="ignore"):
        return np.einsum("rn,rn->r", times, below[:, left] + below[:, right]) / (2 * pairs)


def _calibration_error(labels: Labels, probabilities: Scores, counts: Counts) -> _Values:
    """Return the expected calibration error (Guo et al. 2017, arXiv:1706.04599, section 2).

    This is |accuracy - confidence|, averaged over bins of equal width of the confidence.
    """
    confidence, correct, bins = _by_confidence(labels, probabilities)
    signed = np.zeros((len(labels), CALIBRATION_BINS))
    signed[np.arange(len(labels)), bins] = correct - confidence
    return np.abs(counts @ signed).sum(1) / counts.sum(1)


def _nll(labels: Labels, probabilities: Scores, counts: Counts) -> _Values:
    """Return the mean negative log-likelihood, in nats."""
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return _mean(-np.log(np.maximum(own, FLOOR)), counts)


def _brier(labels: Labels, probabilities: Scores, counts: Counts) -> _Values:
    """Return the mean squared distance from the true class's unit vector, 0 to 2 (Brier 1950)."""
    errors = probabilities.astype(np.float64)
    errors[np.arange(len(labels)), labels] -= 1
    return _mean(np.square(errors).sum(1), counts)


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric(_accuracy, "Accuracy", "images that are right", share=True),
    "balanced_accuracy": Metric(_balanced_accuracy, "Balanced accuracy", "mean recall over the classes", share=True),
    "macro_f1": Metric(_macro_f1, "Macro F1", "mean F1 over the classes", share=True),
    "roc_auc": Metric(_roc_auc, "ROC AUC", "how well scores put images in order; 0.5 is chance"),
    "calibration_error": Metric(_calibration_error, "Calibration error", "gap between confidence and accuracy",
                                higher_is_better=False, of_calibration=True, share=True),
    "nll": Metric(_nll, "Log-likelihood loss", "of the true class, in nats; lower is better",
                  higher_is_better=False, of_calibration=True),
    "brier": Metric(_brier, "Brier score", "squared error of probabilities; lower is better",
                    higher_is_better=False, of_calibration=True),
}  # fmt: skip
OF_CALIBRATION = tuple(name for name, metric in METRICS.items() if metric.of_calibration)
# The gate compares by these: 1 is best, and no calibration has a part in them.
GATE_METRICS = tuple(name for name, metric in METRICS.items() if metric.higher_is_better and not metric.of_calibration)
accuracy, nll = METRICS["accuracy"], METRICS["nll"]


def _mean(values: NDArray[np.float64] | NDArray[np.bool_], counts: Counts) -> _Values:
    means: _Values = (counts @ values.astype(np.float64)) / counts.sum(1)
    return means


def _nan_mean(values: _Values) -> _Values:
    """[R, K] -> [R]: the mean without NaN; NaN if all values are."""
    numbers = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(numbers, values, 0).sum(1) / numbers.sum(1)


def calibration_bins(labels: Labels, probabilities: Scores) -> tuple[_Values, ...]:
    """Return three float64 [CALIBRATION_BINS]: images, correct ones, and the sum of confidences of each bin."""
    confidence, correct, bins = _by_confidence(labels, probabilities)
    columns = (np.ones_like(confidence), correct, confidence)
    return tuple(np.bincount(bins, column, CALIBRATION_BINS).astype(np.float64) for column in columns)


def _by_confidence(labels: Labels, probabilities: Scores) -> tuple[_Values, _Values, Labels]:
    """Return confidence, 1 where correct, and the number of the bin of each image."""
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


def confusion_matrix(labels: Labels, scores: Scores) -> NDArray[np.int64]:
    """Return int64 [C, C]: rows are true classes, columns decided ones."""
    classes = scores.shape[1]
    cells = labels * classes + scores.argmax(1)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def _class_scores(labels: Labels, scores: Scores, counts: Counts) -> _Values:
    """Return [R, 3, C]: precision, recall and F1.

    NaN for a class without images; precision is NaN for a class that is never predicted.
    """
    classes, predicted = scores.shape[1], scores.argmax(1)
    right = predicted == labels
    actual, said = _sums_by(labels, classes, counts), _sums_by(predicted, classes, counts)
    hits = _sums_by(labels[right], classes, counts[:, right])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([hits / said, hits / actual, 2 * hits / (actual + said)], axis=1)


def _sums_by(keys: Labels, size: int, counts: Counts) -> _Values:
    """[R, N] -> [R, size]: the counts of the images of each key."""
    sums = np.zeros((len(counts), size))
    if len(keys):
        order = np.argsort(keys, kind="stable")
        occurring, starts = np.unique(keys[order], return_index=True)
        sums[:, occurring] = np.add.reduceat(counts[:, order], starts, axis=1)
    return sums
