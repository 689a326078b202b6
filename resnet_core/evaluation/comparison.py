"""Comparison of two classifiers by their predictions for the same held-out images: is the new one better, or not worse?

The evidence is in the images on which they differ: `gained`, right by the new classifier only, and `lost`, right by
the old one only. A comparison of pairs is far more sensitive than two intervals side by side.

question                     test
accuracy, single images      better: McNemar's exact test (1947); lower bound: the score test for paired proportions
                             (Tango 1998, Statistics in Medicine 17:891), which holds its level for few images, too
accuracy, images in groups   better: sign flips of whole groups; lower bound: the paired bootstrap of groups
                             (Efron & Tibshirani 1993, chapter 13)
other metrics                better: swaps of both answers, by images or by groups; lower bound: the paired bootstrap
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy
from numpy.typing import NDArray

from resnet_core.evaluation.bootstrap import CELLS, RESAMPLES, Groups, spread
from resnet_core.evaluation.metrics import Labels, Metric, Probabilities, Scores, accuracy
from resnet_core.evaluation.slices import SIDE_GROUPS, holm
from resnet_core.model.classifier import Classifier

_PRECISION = 1e-9  # of a bound, far below one image's share
# Every combination of signs is tried for up to so many groups; for more groups, so many random ones.
_FEW, FLIPS = 12, 2000

Rows = NDArray[np.bool_]  # [N], the images that belong to a slice


def aligned(probabilities: Probabilities, classifier: Classifier, classes: Sequence[str]) -> Scores:
    """Return a classifier's scores [N, C]: the largest is its decision, in a batch as here.

    Columns are in the order of `classes`; 0 for a class it does not know.
    """
    scores = classifier.calibration.weighted(probabilities)
    columns = np.zeros((len(scores), len(classes)), dtype=scores.dtype)
    for k, name in enumerate(classes):
        if name in classifier.classes:
            columns[:, k] = scores[:, classifier.classes.index(name)]
    return columns


@dataclass(frozen=True)
class Pair:
    """Scores [N, C] of two classifiers for the same images (see `metrics`); images of one group are drawn together."""

    labels: Labels
    new: Scores
    old: Scores
    groups: Groups | None = None

    def only(self, rows: Rows) -> "Pair":
        """Return the pair of these images."""
        groups = None if self.groups is None else np.unique(self.groups[rows], return_inverse=True)[1]
        return Pair(self.labels[rows], self.new[rows], self.old[rows], groups)

    def changed(self) -> tuple[Rows, Rows]:
        """Return the gained and the lost images, bool [N]."""
        right, was_right = self.new.argmax(1) == self.labels, self.old.argmax(1) == self.labels
        return right & ~was_right, was_right & ~right


@dataclass(frozen=True)
class Comparison:
    """A difference of a metric, new less old; NaN where the images cannot tell.

    `lower`: the one-sided lower bound, with `confidence`. `p`: the probability that a new classifier that is not
    better shows such a difference.
    """

    value: float
    lower: float
    confidence: float
    p: float
    gained: int
    lost: int
    images: int

    @property
    def better(self) -> bool:
        """Shown to be better, with `confidence`."""
        return self.value > 0 and self.p <= 1 - self.confidence + _PRECISION

    def not_worse(self, margin: float) -> bool:
        """Shown, with `confidence`, not to be worse by more than the margin."""
        return self.lower >= -margin - _PRECISION


@dataclass(frozen=True)
class _SliceComparison:
    """The difference of accuracy on a slice's images, new less old.

    `p`: the probability of such a loss if the true loss is just the margin, corrected by Holm's method. NaN if the
    slice has too few groups to tell.
    """

    name: str
    value: float
    p: float
    images: int


def compare(metric: Metric, pair: Pair, confidence: float, seed: int = 0) -> Comparison:
    """Compare the new classifier with the old one by a metric of which higher values are better."""
    gained, lost = pair.changed()
    counts = int(gained.sum()), int(lost.sum()), len(pair.labels)
    if metric is accuracy and pair.groups is None:
        value, p = (counts[0] - counts[1]) / counts[2], mcnemar(*counts[:2])
        return Comparison(value, score_bound(*counts, confidence), confidence, p, *counts)
    value, again = _spread_of_difference(metric, pair, seed)
    if np.isnan(value) or not len(again):
        return Comparison(value, float("nan"), confidence, float("nan"), *counts)
    lower = float(np.quantile(again, 1 - confidence))
    if metric is accuracy and pair.groups is not None:
        p = flips(np.bincount(pair.groups, gained.astype(np.float64) - lost), seed)
    else:
        p = _by_swaps(metric, pair, value, seed)
    return Comparison(value, lower, confidence, p, *counts)


def _by_swaps(metric: Metric, pair: Pair, value: float, seed: int) -> float:
    """Return the p of "not better": how often the difference is as large if both swap their answers at random."""
    random, count = np.random.default_rng(seed), len(pair.labels)
    groups = np.arange(count) if pair.groups is None else pair.groups
    labels, scores = np.tile(pair.labels, 2), np.concatenate([pair.new, pair.old])
    reached = done = 0
    while done < RESAMPLES:
        rows = min(max(1, CELLS // (2 * count)), RESAMPLES - done)
        kept = random.integers(0, 2, (rows, int(groups.max()) + 1)).astype(np.float64)[:, groups]
        counts = np.concatenate([kept, 1 - kept], axis=1)
        gaps = metric.resampled(labels, scores, counts) - metric.resampled(labels, scores, 1 - counts)
        reached, done = reached + int((gaps >= value - _PRECISION).sum()), done + rows
    return (reached + 1) / (RESAMPLES + 1)


def _spread_of_difference(metric: Metric, pair: Pair, seed: int) -> tuple[float, NDArray[np.float64]]:
    """Return the difference, and that of each resample [R]; resamples that lack a class are left out."""
    value, again = spread(
        lambda counts: (
            metric.resampled(pair.labels, pair.new, counts) - metric.resampled(pair.labels, pair.old, counts)
        ),
        len(pair.labels),
        pair.groups,
        seed,
    )
    return float(value), again[~np.isnan(again)]


def mcnemar(gained: int, lost: int) -> float:
    """Return the p of "not better": a fair coin falls on `gained` at least so often among all that differ."""
    return float(scipy.stats.binomtest(gained, gained + lost, alternative="greater").pvalue) if gained + lost else 1.0


def score_bound(gained: int, lost: int, images: int, confidence: float) -> float:
    """Return the least difference that the score test does not reject at `confidence`, one-sided."""
    z, value = float(scipy.stats.norm.ppf(confidence)), (gained - lost) / images
    if z <= 0 or value <= -1:
        return value

    def above(difference: float) -> float:
        return score(gained, lost, images, difference) - z

    return float(scipy.optimize.brentq(above, -1 + 1e-12, value, xtol=1e-12))


def score(gained: int, lost: int, images: int, difference: float) -> float:
    """Return by how many standard deviations the observed difference exceeds this one (Tango 1998, equation 8)."""
    a = 2 * images
    b = (2 * images - gained + lost) * difference - gained - lost
    c = -lost * difference * (1 - difference)
    # The maximum likelihood estimate of the share of lost images, under this difference.
    share = (np.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = images * (2 * share + difference * (1 - difference))
    excess = gained - lost - images * difference
    return float(excess / np.sqrt(variance)) if variance > 0 else float(np.sign(excess) * np.inf) if excess else 0.0


def _p_value(against: NDArray[np.bool_]) -> float:
    """Return the share of resamples against a finding; never 0, because the next resample could be against it."""
    return float((against.sum() + 1) / (len(against) + 1))


def in_words(p: float) -> str:
    """Return `p = 0.032`, as tables write it."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def compare_slices(slices: Mapping[str, Rows], pair: Pair, margin: float, seed: int = 0) -> list[_SliceComparison]:
    """Compare accuracy on each slice that has images: is it worse by more than the margin?"""
    gained, lost = pair.changed()
    comparisons = []
    for name, rows in slices.items():
        if not (images := int(rows.sum())):
            continue
        counts = int(gained[rows].sum()), int(lost[rows].sum()), images
        if pair.groups is None:
            p = _p_worse(*counts, margin)
        elif len(np.unique(pair.groups[rows])) < SIDE_GROUPS:
            p = float("nan")
        else:
            excess = lost[rows].astype(np.float64) - gained[rows] - margin
            p = flips(np.bincount(pair.groups[rows], excess), seed)
        comparisons.append(_SliceComparison(name, (counts[0] - counts[1]) / images, p, images))
    corrected = holm([comparison.p for comparison in comparisons])
    return [replace(comparison, p=p) for comparison, p in zip(comparisons, corrected, strict=True)]


def _p_worse(gained: int, lost: int, images: int, margin: float) -> float:
    """Return the p of "worse by the margin at most". It is exact for a margin of 0, else by the score test."""
    return mcnemar(lost, gained) if margin == 0 else float(scipy.stats.norm.cdf(score(gained, lost, images, -margin)))


def flips(sums: NDArray[np.number], seed: int = 0) -> float:
    """Return the p of "not above 0 in all" for the excess of each group [G], by sign flips.

    The method is Fisher's (1935). The p of k groups is at least 1 in 2 ** k.
    """
    sums = sums[np.abs(sums) > _PRECISION]
    if len(sums) <= _FEW:
        signs = 1 - 2.0 * ((np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums))) & 1)
        return float((signs @ sums >= sums.sum() - _PRECISION).mean())
    random = np.random.default_rng(seed)
    flipped = [(1.0 - 2 * random.integers(0, 2, (FLIPS // 50, len(sums)))) @ sums for _ in range(50)]
    return _p_value(np.concatenate(flipped) >= sums.sum() - _PRECISION)


def below(
    metric: Metric,
    labels: Labels,
    scores: Scores,
    limit: float,
    groups: Groups | None = None,
    seed: int = 0,
) -> float:
    """Return the p of "at least the limit", the probability of such a value at the limit."""
    if metric is accuracy and groups is None:
        right = int((scores.argmax(1) == labels).sum())
        return float(scipy.stats.binomtest(right, len(labels), limit, alternative="less").pvalue)
    _, again = spread(lambda counts: metric.resampled(labels, scores, counts), len(labels), groups, seed)
    return _p_value(again[~np.isnan(again)] >= limit)


def numbered(groups: Sequence[str | None]) -> Groups | None:
    """Number the names of groups; an image without a name is a group of its own.

    None if no two images share a group, or all do: a single group says nothing about other groups.
    """
    numbers = {name: k for k, name in enumerate(dict.fromkeys(name for name in groups if name is not None))}
    alone = iter(range(len(numbers), len(numbers) + len(groups)))
    column = np.array([next(alone) if name is None else numbers[name] for name in groups], dtype=np.int64)
    return column if 1 < len(np.unique(column)) < len(groups) else None
