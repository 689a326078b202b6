"""Labels that are probably wrong: confident learning (Northcutt et al. 2021, arXiv:1911.00068), by cleanlab.

It wants a prediction of each image by a classifier that has not learned from it. An image counts as another
class where that class's probability is above what it is, on average, for the images that have its label; of
each class as many are called issues as its noise, estimated so, comes to: those with the least probability
of their own label.

An image with a soft label says itself what it may be: it is an issue only where the classifiers are sure, in
the same sense, of a class that its soft label has no share of.
"""

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]  # [N], places in the class names
Probabilities = NDArray[np.float32]  # [N, C]

# Of what cleanlab offers, what finds most planted errors: `python -m benchmarks label_issues`.
_FILTER = "prune_by_class"


class _Issues(NamedTuple):
    """Rows whose labels are probably wrong, the worst first."""

    rows: NDArray[np.int64]  # [M]
    suggested: Labels  # [M], what they probably are
    self_confidence: NDArray[np.float32]  # [M], the probability of the classes that the label names


def find(labels: Labels, targets: NDArray[np.float32], probabilities: Probabilities) -> _Issues:
    """targets: float32 [N, C], the labels' shares; of a label that is sure, all of it is one class's."""
    named = targets > 0
    sure = np.flatnonzero(named.sum(1) == 1)
    unsure = np.flatnonzero(named.sum(1) > 1)
    suggested = probabilities.argmax(1).astype(np.int64)
    found = [
        sure[_issues(labels[sure], probabilities[sure])],
        unsure[_beyond(labels, sure, unsure, named, probabilities)],
    ]
    rows = np.concatenate(found).astype(np.int64)
    trust = np.where(named, probabilities, 0).sum(1)
    rows = rows[np.argsort(margins(targets, probabilities)[rows], kind="stable")]
    return _Issues(rows, suggested[rows], trust[rows].astype(np.float32))


def margins(targets: NDArray[np.float32], probabilities: Probabilities) -> NDArray[np.float32]:
    """float32 [N]: the probability of the classes that a label names less that of the best other one."""
    named = targets > 0
    return np.where(named, probabilities, 0).sum(1) - np.where(named, 0, probabilities).max(1)


def _issues(labels: Labels, probabilities: Probabilities) -> NDArray[np.bool_]:
    """Which of them, bool [N]; all are sure."""
    from cleanlab.filter import find_label_issues  # takes a second to import

    wrong = np.zeros(len(labels), dtype=bool)
    if len(np.unique(labels)) < 2:
        return wrong
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes with few images, which we cannot change
        wrong = find_label_issues(labels, probabilities, filter_by=_FILTER, n_jobs=1)
    # What is called an issue and has no better class is none.
    return wrong & (probabilities.argmax(1) != labels)


def _beyond(
    labels: Labels,
    sure: NDArray[np.int64],
    unsure: NDArray[np.int64],
    named: NDArray[np.bool_],
    probabilities: Probabilities,
) -> NDArray[np.bool_]:
    """Which of the images without a sure label count as a class that is not named, bool [M]."""
    if not len(sure):
        return np.zeros(len(unsure), dtype=bool)
    best = probabilities[unsure].argmax(1)
    counts = np.bincount(labels[sure], minlength=named.shape[1])
    own = np.bincount(labels[sure], probabilities[sure, labels[sure]], named.shape[1])
    threshold = np.where(counts > 0, own / np.maximum(counts, 1), 1)
    return ~named[unsure, best] & (probabilities[unsure, best] >= threshold[best])
