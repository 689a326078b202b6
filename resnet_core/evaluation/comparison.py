"""Is one classifier better than another, or not worse, by their answers to the same held-out images?

What counts is the images on which they differ: those `gained`, which only the new one has right, and
those `lost`. How much chance alone moves their difference follows from their number, and is far less
than two intervals held side by side would say.

- Accuracy over images: better by McNemar's exact test (1947); the lower bound of the difference is that
  of the score test for paired proportions (Tango 1998, Statistics in Medicine 17:891), which holds its
  level where images or differences are few.
- Images that come in groups (a patient's, a module's): the same two questions of whole groups, by sign
  flips, which McNemar's test is of single images, and by a paired bootstrap (Efron & Tibshirani 1993,
  chapter 13).
- Other metrics: the bootstrap for both, of images or of groups.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binomtest, norm

from resnet_core.evaluation.bootstrap import Groups, spread
from resnet_core.evaluation.metrics import Labels, Metric, Probabilities, accuracy
from resnet_core.evaluation.slices import holm
from resnet_core.model.classifier import Classifier


def aligned(found: Probabilities, classifier: Classifier, classes: Sequence[str]) -> Probabilities:
    """A classifier's float32 [N, C] with its columns in the order of `classes`; a class that it does not know
    has probability 0."""
    columns = np.zeros((len(found), len(classes)), dtype=np.float32)
    for k, name in enumerate(classes):
        if name in classifier.classes:
            columns[:, k] = found[:, classifier.classes.index(name)]
    return columns


_PRECISION = 1e-9  # of a bound, far below one image's share
_FEW, _FLIPS = 12, 2000  # groups of which every combination is tried; else so many at random

Rows = NDArray[np.bool_]  # [N], the images that belong to a slice


@dataclass(frozen=True)
class Comparison:
    """`value`: metric of the new less metric of the old. `lower`: it is above this with `confidence`, one-sided.
    `p`: how often chance alone would make a classifier that is no better look so much better. NaN where
    the images cannot tell."""

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
    """`value`: accuracy of the new less that of the old on a slice's images. `p`: how often chance would
    make one that is worse by just the margin look so bad, corrected for the number of slices (Holm 1979)."""

    name: str
    value: float
    p: float
    images: int


def compare(
    metric: Metric,
    labels: Labels,
    new: Probabilities,
    old: Probabilities,
    confidence: float,
    groups: Groups | None = None,
    seed: int = 0,
) -> Comparison:
    """Two classifiers' probabilities for the same images. groups: images of one group are drawn together;
    None: each for itself."""
    gained, lost = changed(labels, new, old)
    counts = int(gained.sum()), int(lost.sum()), len(labels)
    if metric is accuracy and groups is None:
        value, p = (counts[0] - counts[1]) / counts[2], mcnemar(*counts[:2])
        return Comparison(value, score_bound(*counts, confidence), confidence, p, *counts)
    found, again = spread(
        lambda times: metric.resampled(labels, new, times) - metric.resampled(labels, old, times),
        len(labels), groups, seed,
    )  # fmt: skip
    value, known = float(found), again[~np.isnan(again)]  # a resample may lack a class
    if np.isnan(value) or not len(known):
        return Comparison(value, float("nan"), confidence, float("nan"), *counts)
    lower = float(np.quantile(known, 1 - confidence))
    if metric is accuracy and groups is not None:
        p = _by_groups(gained.astype(np.float64) - lost, groups, seed)
    else:
        p = _p_value(known <= 0)
    return Comparison(value, lower, confidence, p, *counts)


def changed(labels: Labels, new: Probabilities, old: Probabilities) -> tuple[Rows, Rows]:
    """Which images only the new one has right, and which only the old one."""
    right, was_right = new.argmax(1) == labels, old.argmax(1) == labels
    return right & ~was_right, was_right & ~right


def mcnemar(gained: int, lost: int) -> float:
    """The p of "no better": that a fair coin falls on `gained` so often among all that differ."""
    return float(binomtest(gained, gained + lost, alternative="greater").pvalue) if gained + lost else 1.0


def score_bound(gained: int, lost: int, images: int, confidence: float) -> float:
    """The least difference that the score test does not reject at `confidence`, one-sided."""
    z, value = float(norm.ppf(confidence)), (gained - lost) / images
    if z <= 0 or value <= -1:
        return value
    return float(brentq(lambda difference: score(gained, lost, images, difference) - z, -1 + 1e-12, value, xtol=1e-12))


def score(gained: int, lost: int, images: int, difference: float) -> float:
    """Standard deviations by which the difference found lies above this one (Tango 1998, equation 8)."""
    a = 2 * images
    b = (2 * images - gained + lost) * difference - gained - lost
    c = -lost * difference * (1 - difference)
    # The likeliest share of lost images, were this the true difference.
    share = (np.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = images * (2 * share + difference * (1 - difference))
    excess = gained - lost - images * difference
    return float(excess / np.sqrt(variance)) if variance > 0 else float(np.sign(excess) * np.inf) if excess else 0.0


def _p_value(against: NDArray[np.bool_]) -> float:
    """The share of resamples that speak against a finding; never 0, for there could be one more."""
    return float((against.sum() + 1) / (len(against) + 1))


def in_words(p: float) -> str:
    """`p = 0.032`, as tables have it."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def compare_slices(
    slices: Mapping[str, Rows],
    labels: Labels,
    new: Probabilities,
    old: Probabilities,
    margin: float,
    groups: Groups | None = None,
    seed: int = 0,
) -> list[_SliceComparison]:
    """Each slice's accuracy, new less old, and the corrected p of "worse by no more than the margin". Slices
    without images are left out."""
    gained, lost = changed(labels, new, old)
    found = []
    for name, rows in slices.items():
        if not (images := int(rows.sum())):
            continue
        counts = int(gained[rows].sum()), int(lost[rows].sum()), images
        if groups is None:
            p = worse(*counts, margin)
        else:
            over = lost[rows].astype(np.float64) - gained[rows] - margin
            p = _by_groups(over, groups[rows], seed)
        found.append(_SliceComparison(name, (counts[0] - counts[1]) / images, p, images))
    corrected = holm([each.p for each in found])
    return [_SliceComparison(s.name, s.value, p, s.images) for s, p in zip(found, corrected, strict=True)]


def worse(gained: int, lost: int, images: int, margin: float) -> float:
    """The p of "worse by no more than the margin": exact where there is none, else by the score test."""
    return mcnemar(lost, gained) if margin == 0 else float(norm.cdf(score(gained, lost, images, -margin)))


def _by_groups(excess: NDArray[np.float64], groups: Groups, seed: int) -> float:
    """The p of "no more than nothing in all", for what each image adds [N]: a group as a whole could as well have
    gone the other way (sign flips, Fisher 1935). Of k groups it is never below 1 in 2 ** k."""
    each = np.bincount(groups, excess)
    each = each[each != 0]
    if len(each) <= _FEW:
        signs = 1 - 2.0 * ((np.arange(2 ** len(each))[:, None] >> np.arange(len(each))) & 1)
        return float((signs @ each >= each.sum() - _PRECISION).mean())
    random = np.random.default_rng(seed)
    flipped = [(1.0 - 2 * random.integers(0, 2, (_FLIPS // 50, len(each)))) @ each for _ in range(50)]
    return _p_value(np.concatenate(flipped) >= each.sum() - _PRECISION)


def below(
    metric: Metric,
    labels: Labels,
    probabilities: Probabilities,
    limit: float,
    groups: Groups | None = None,
    seed: int = 0,
) -> float:
    """The p of "at least the limit": how often chance alone would make a classifier that just reaches it look
    so bad."""
    if metric is accuracy and groups is None:
        right = int((probabilities.argmax(1) == labels).sum())
        return float(binomtest(right, len(labels), limit, alternative="less").pvalue)
    _, again = spread(lambda times: metric.resampled(labels, probabilities, times), len(labels), groups, seed)
    return _p_value(again[~np.isnan(again)] >= limit)


def numbered(groups: Sequence[str | None]) -> Groups | None:
    """Numbers for the names of groups; an image without one is a group of its own. None where no two images
    share one, or all do: one group says nothing about another."""
    known = {name: k for k, name in enumerate(dict.fromkeys(name for name in groups if name is not None))}
    alone = iter(range(len(known), len(known) + len(groups)))
    numbers = np.array([next(alone) if name is None else known[name] for name in groups], dtype=np.int64)
    several = len(np.unique(numbers))
    return numbers if 1 < several < len(groups) else None
