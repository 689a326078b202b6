"""Label issues: labels that are probably wrong, by confident learning (Northcutt et al. 2021, arXiv:1911.00068).

cleanlab needs predictions by a classifier that was not trained on the image. An image counts as another class if
that class's probability exceeds its mean over the images with that label. The noise of a class is estimated from
these counts; so many images with the least probability of their label are reported.

A soft label is an issue only if the classifier is sure of a class without a share in it.
"""

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]  # [N], places in the class names
Probabilities = NDArray[np.float32]  # [N, C]

# Among cleanlab's filters, this one finds most planted errors: `python -m benchmarks label_issues`.
_FILTER = "prune_by_class"


class _Issues(NamedTuple):
    """Rows whose labels are probably wrong, the worst first."""

    rows: NDArray[np.int64]  # [M]
    suggested: Labels  # [M], the more probable labels
    self_confidence: NDArray[np.float32]  # [M], the probability of the classes that the label names


def find(labels: Labels, targets: NDArray[np.float32], probabilities: Probabilities) -> _Issues:
    """Find issues. targets: float32 [N, C], the shares of each label; a sure label gives all to one class."""
    named = targets > 0
    sure = np.flatnonzero(named.sum(1) == 1)
    unsure = np.flatnonzero(named.sum(1) > 1)
    suggested = probabilities.argmax(1).astype(np.int64)
    groups = [
        sure[_issues(labels[sure], probabilities[sure])],
        unsure[_beyond(labels, sure, unsure, named, probabilities)],
    ]
    rows = np.concatenate(groups).astype(np.int64)
    trust = np.where(named, probabilities, 0).sum(1)
    rows = rows[np.argsort(margins(targets, probabilities)[rows], kind="stable")]
    return _Issues(rows, suggested[rows], trust[rows].astype(np.float32))


def margins(targets: NDArray[np.float32], probabilities: Probabilities) -> NDArray[np.float32]:
    """Return float32 [N]: the probability of the label's classes less that of the best other class."""
    named = targets > 0
    return np.where(named, probabilities, 0).sum(1) - np.where(named, 0, probabilities).max(1)


def _issues(labels: Labels, probabilities: Probabilities) -> NDArray[np.bool_]:
    """Return the issues among images with sure labels, bool [N]."""
    from cleanlab.filter import find_label_issues  # takes a second to import

    wrong = np.zeros(len(labels), dtype=bool)
    if len(np.unique(labels)) < 2:
        return wrong
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about classes with few images
        wrong = find_label_issues(labels, probabilities, filter_by=_FILTER, n_jobs=1)
    # An image whose best class is its label is not an issue, whatever the noise estimate.
    return wrong & (probabilities.argmax(1) != labels)


def _beyond(
    labels: Labels,
    sure: NDArray[np.int64],
    unsure: NDArray[np.int64],
    named: NDArray[np.bool_],
    probabilities: Probabilities,
) -> NDArray[np.bool_]:
    """Return the images without a sure label that count as a class outside their label, bool [M]."""
    if not len(sure):
        return np.zeros(len(unsure), dtype=bool)
    best = probabilities[unsure].argmax(1)
    counts = np.bincount(labels[sure], minlength=named.shape[1])
    own = np.bincount(labels[sure], probabilities[sure, labels[sure]], named.shape[1])
    threshold = np.where(counts > 0, own / np.maximum(counts, 1), 1)
    return ~named[unsure, best] & (probabilities[unsure, best] >= threshold[best])
