"""Is what a model is given still what it learned from? Its scores and the images' looks, against the training data's.

    label, review   population stability index of the shares (Siddiqi 2006); chi-squared test
    confidence, brightness, contrast, sharpness
                    Kolmogorov-Smirnov distance on fixed bins (never more than the exact one), and its test
                    (Smirnov 1948); besides, the index over the training data's tenths
    embedding       maximum mean discrepancy (`mmd`); permutation test

A distance over its threshold counts only if the images are enough to show that it is no accident: with a million
everything is significant, with a hundred everything is far.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from scipy.special import chdtrc, kolmogorov

from resnet_core.drift.checks import distance, percent
from resnet_core.drift.summary import SCORE_MEASURES, UNITS, Histogram, Summary

_PERMUTATIONS = 1999  # the least p is 1 in 2,000
AT_ONCE = 500  # permutations whose sums are in memory, 8 bytes for each of them and each vector

_Vectors = NDArray[np.floating]


def discrepancy(one: _Vectors, other: _Vectors, seed: int = 0) -> tuple[float, float]:
    """Two sets of vectors, float [N, D] and [M, D], N and M from 2 on -> the distance and its p.

    The distance is the root of the unbiased estimate (lemma 6 there), 0 where that is negative; the kernel is
    exp(-d^2 / 2 s^2) with s the median distance between any two of the vectors. 0: alike; 1 would be two clouds that
    are far apart and tight. p: of PERMUTATIONS divisions of all vectors into N and M, those with at least this
    estimate. Takes the time and memory of (N + M)^2.
    """
    kernel = gaussian_kernel(np.concatenate([one, other]).astype(np.float32))
    n, m = len(one), len(other)
    first = np.zeros((n + m, 1), np.float32)
    first[:n] = 1
    found = float(estimates(kernel, first)[0])
    generator, reached = np.random.default_rng(seed), 0
    for start in range(0, _PERMUTATIONS, AT_ONCE):
        count = min(AT_ONCE, _PERMUTATIONS - start)
        drawn = generator.permuted(np.repeat(first, count, axis=1), axis=0)
        reached += int((estimates(kernel, drawn) >= found).sum())
    return max(found, 0.0) ** 0.5, (1 + reached) / (1 + _PERMUTATIONS)


def gaussian_kernel(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 [N, N], 0 on the diagonal, where each vector meets itself."""
    centred = vectors - vectors.mean(0)
    squares = np.einsum("ij,ij->i", centred, centred)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2 * centred @ centred.T, 0)
    middle = float(np.median(distances[np.triu_indices(len(vectors), 1)]))
    kernel: NDArray[np.float32] = np.exp(distances / np.float32(-2 * middle or -1))
    np.fill_diagonal(kernel, 0)
    return kernel


def estimates(kernel: NDArray[np.float32], first: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of K divisions of N vectors, float32 [N, K] with 1 for those of the first set: the squared discrepancy."""
    n = float(first[:, 0].sum())
    m = len(first) - n
    within = np.einsum("nk,nk->k", first, kernel @ first, dtype=np.float64)
    sums = kernel.sum(1, dtype=np.float64)
    across = sums @ first - within
    rest = sums.sum() - within - 2 * across
    return within / (n * (n - 1)) + rest / (m * (m - 1)) - 2 * across / (n * m)


LEAST = 100  # images: of fewer nothing is said
_CHANCE = 0.001  # the p from which on a distance may be an accident
_NAMED = 3  # classes that a line names
_ENOUGH = 5  # the expected count from which on the chi-squared distribution holds (Cochran 1954)
_DRAWS = 1999
MOST = 1_000_000  # images that a test counts: of more, any distance over a threshold is certain

Counts = NDArray[np.int64]
_Threshold = Annotated[float, Ge(0)] | None


@dataclass(frozen=True)
class Thresholds:
    """The distances from which on drift is drift; None: measured and shown, never drift."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    label: _Threshold = 0.2
    review: _Threshold = 0.2
    confidence: _Threshold = 0.2
    brightness: _Threshold = 0.2
    contrast: _Threshold = 0.2
    sharpness: _Threshold = 0.2
    embedding: _Threshold = 0.2


@dataclass(frozen=True)
class Drift:
    """One measure of `images` images: the `distance` by the `method`, and how often chance alone would make it as
    large, `p`. `psi` is the population stability index, None of embeddings. `detail` says it in the measure's own
    terms, or is empty."""

    measure: str
    method: str
    distance: float
    threshold: float | None
    p: float
    images: int
    psi: float | None = None
    detail: str = ""

    @property
    def drifted(self) -> bool:
        return self.threshold is not None and self.distance > self.threshold and self.p < _CHANCE

    def __str__(self) -> str:
        limit = (
            ""
            if self.threshold is None
            else f", {'over' if self.distance > self.threshold else 'of'} " + (f"{self.threshold:g}")
        )
        return f"{self.measure}: {self.method} {self.distance:.2f}{limit}" + (f" ({self.detail})" * bool(self.detail))


def measure_drift(
    before: Summary,
    now: Summary,
    thresholds: Thresholds,
    embeddings: tuple[NDArray[np.floating], NDArray[np.floating]] | None = None,
) -> tuple[Drift, ...]:
    """Every measure that both sides have, of LEAST images or more. embeddings: float [N, D] of before, [M, D] now."""
    found = list(_shares(before, now, thresholds))
    for name in SCORE_MEASURES:
        one, other = before.histograms[name], now.histograms[name]
        if one.count and other.count >= LEAST:
            found.append(_distribution(name, one, other, getattr(thresholds, name)))
    if embeddings is not None and len(embeddings[0]) > 1 and len(embeddings[1]) >= LEAST:
        apart, p = discrepancy(*embeddings)
        found.append(Drift("embedding", "MMD", apart, thresholds.embedding, p, len(embeddings[1])))
    return tuple(found)


def _shares(before: Summary, now: Summary, thresholds: Thresholds) -> Iterator[Drift]:
    names = sorted({*before.classes, *now.classes})
    if before.labelled and now.labelled >= LEAST:
        counts = [np.array([side.classes.get(name, 0) for name in names]) for side in (before, now)]
        yield _share("label", counts[0], counts[1], thresholds.label, _moved(names, counts[0], counts[1]))
    if sum(before.reviews) and sum(now.reviews) >= LEAST:
        one, other = np.array(before.reviews), np.array(now.reviews)
        words = f"{percent(one[0] / one.sum())} in training, {percent(other[0] / other.sum())} now"
        yield _share("review", one, other, thresholds.review, words)


def _share(name: str, before: Counts, now: Counts, threshold: float | None, detail: str) -> Drift:
    found = stability_index(before, now)
    return Drift(name, "PSI", found, threshold, same_shares(before, now), int(now.sum()), found, detail)


def _moved(names: Sequence[str], before: Counts, now: Counts) -> str:
    """The classes whose shares differ most."""
    one, other = before / before.sum(), now / now.sum()
    most = np.argsort(-np.abs(one - other), kind="stable")[:_NAMED]
    return "; ".join(f"{names[k]!r} {percent(one[k])} in training, {percent(other[k])} now" for k in most)


def _distribution(name: str, before: Histogram, now: Histogram, threshold: float | None) -> Drift:
    apart = distance(now, before)
    p = float(kolmogorov(apart * (before.count * now.count / (before.count + now.count)) ** 0.5))
    unit = f" {UNITS[name]}" if UNITS[name] else ""
    digits = 2 if name == "confidence" else 1
    detail = f"mean {before.mean:.{digits}f}{unit} in training, {now.mean:.{digits}f} now"
    psi = stability_index(*in_tenths(np.array(before.counts), np.array(now.counts)))
    return Drift(name, "KS", apart, threshold, p, now.count, psi, detail)


def stability_index(before: Counts, now: Counts) -> float:
    """The population stability index of two counts of the same K things: the sum of (p - q) ln(p / q). Half an
    image is added to each, or one that is new would be infinitely far."""
    one, other = ((side + 0.5) / (side.sum() + 0.5 * len(side)) for side in (before, now))
    return float(((other - one) * np.log(other / one)).sum())


def in_tenths(before: Counts, now: Counts) -> tuple[Counts, Counts]:
    """Neighbouring bins put together, so that each of ten or fewer has about a tenth of what was before."""
    total = max(int(before.sum()), 1)
    middles = (np.cumsum(before) - before / 2) / total
    place = np.minimum((10 * middles).astype(np.int64), 9)
    one, other = (np.bincount(place, weights=side, minlength=10).astype(np.int64) for side in (before, now))
    used = np.bincount(place, minlength=10) > 0
    return one[used], other[used]


def same_shares(before: Counts, now: Counts, seed: int = 0) -> float:
    """The p of both counts coming from the same shares: Pearson's chi-squared. Where the expected counts are too
    small for its distribution, DRAWS divisions of all images into two such sides are counted instead."""
    table = np.stack([_at_most(before), _at_most(now)])
    table = table[:, table.sum(0) > 0]
    if table.shape[1] < 2:
        return 1.0
    totals, sizes = table.sum(0), table.sum(1)
    expected = sizes[:, None] * totals / totals.sum()
    found = float(((table - expected) ** 2 / expected).sum())
    if expected.min() >= _ENOUGH:
        return float(chdtrc(table.shape[1] - 1, found))
    drawn = np.random.default_rng(seed).multivariate_hypergeometric(totals, sizes[1], _DRAWS)
    # What one side has more than expected, the other has less.
    apart = ((drawn - expected[1]) ** 2 * (1 / expected[0] + 1 / expected[1])).sum(1)
    return float((1 + (apart >= found * (1 - 1e-9)).sum()) / (1 + _DRAWS))


def _at_most(counts: Counts) -> Counts:
    """The same shares of MOST images at most."""
    total = int(counts.sum())
    return counts if total <= MOST else np.rint(counts * (MOST / total)).astype(np.int64)
