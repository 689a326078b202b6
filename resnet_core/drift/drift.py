"""Drift: a batch compared with the training data of its model.

measure                                      distance                            p
label, review                                population stability index, PSI     chi-squared test
                                             (Siddiqi 2006)
confidence, brightness, contrast, sharpness  Kolmogorov-Smirnov, on fixed bins   Smirnov 1948
embedding                                    maximum mean discrepancy, MMD       permutation test
unknown (see `unknown`)                      share beyond what is expected       beta-binomial

A measure drifts if its distance is over the threshold and chance would rarely make it. With a million images
every distance is significant; with a hundred many are large. On bins the Kolmogorov-Smirnov distance is a lower bound.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import scipy
from annotated_types import Ge
from numpy.typing import NDArray

from resnet_core.drift.checks import distance, percent
from resnet_core.drift.summary import SCORE_MEASURES, UNITS, Histogram, Summary

LEAST = 100  # images; a batch with fewer is not measured
MOST = 1_000_000  # images that a test counts; with more, any distance over a threshold is certain
AT_ONCE = 500  # permutations in memory, at 8 bytes a vector
_CHANCE = 0.001  # a larger p may be chance
_NAMED = 3  # classes in a line
_ENOUGH = 5  # least expected count for the chi-squared distribution (Cochran 1954)
_DRAWS = _PERMUTATIONS = 1999  # the least p is 1 in 2,000

Counts = NDArray[np.int64]
_Vectors = NDArray[np.floating]
_Threshold = Annotated[float, Ge(0)] | None


@dataclass(frozen=True)
class Thresholds:
    """Distances above which a measure drifts; None: shown, never drift."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    label: _Threshold = 0.2
    review: _Threshold = 0.2
    confidence: _Threshold = 0.2
    brightness: _Threshold = 0.2
    contrast: _Threshold = 0.2
    sharpness: _Threshold = 0.2
    embedding: _Threshold = 0.2
    unknown: _Threshold = 0.01


@dataclass(frozen=True)
class Drift:
    """A measure of `images` images: their `distance` from the training data.

    `p` is the probability that chance makes it as large. `psi` is the population stability index over the training
    data's tenths, None for embeddings. `detail` is in the measure's own units, or empty.
    """

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
        limit = ""
        if self.threshold is not None:
            limit = f", {'over' if self.distance > self.threshold else 'of'} {self.threshold:g}"
        return f"{self.measure}: {self.method} {self.distance:.2f}{limit}" + (f" ({self.detail})" * bool(self.detail))


def measure_drift(
    before: Summary,
    now: Summary,
    thresholds: Thresholds,
    embeddings: tuple[NDArray[np.floating], NDArray[np.floating]] | None = None,
) -> tuple[Drift, ...]:
    """Measure all that both sides have, if the batch has LEAST images of it.

    embeddings: float [N, D] of the training data and [M, D] of the batch.
    """
    drifts = list(_shares(before, now, thresholds))
    for name in SCORE_MEASURES:
        one, other = before.histograms[name], now.histograms[name]
        if one.count and other.count >= LEAST:
            drifts.append(_distribution(name, one, other, getattr(thresholds, name)))
    if embeddings is not None and len(embeddings[0]) > 1 and len(embeddings[1]) >= LEAST:
        apart, p = discrepancy(*embeddings)
        drifts.append(Drift("embedding", "MMD", apart, thresholds.embedding, p, len(embeddings[1])))
    return tuple(drifts)


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
    index = stability_index(before, now)
    return Drift(name, "PSI", index, threshold, same_shares(before, now), int(now.sum()), index, detail)


def _moved(names: Sequence[str], before: Counts, now: Counts) -> str:
    """Describe the classes whose shares differ most."""
    one, other = before / before.sum(), now / now.sum()
    most = np.argsort(-np.abs(one - other), kind="stable")[:_NAMED]
    return "; ".join(f"{names[k]!r} {percent(one[k])} in training, {percent(other[k])} now" for k in most)


def _distribution(name: str, before: Histogram, now: Histogram, threshold: float | None) -> Drift:
    apart = distance(now, before)
    p = float(scipy.special.kolmogorov(apart * (before.count * now.count / (before.count + now.count)) ** 0.5))
    unit = f" {UNITS[name]}" if UNITS[name] else ""
    digits = 2 if name == "confidence" else 1
    detail = f"mean {before.mean:.{digits}f}{unit} in training, {now.mean:.{digits}f} now"
    psi = stability_index(*in_tenths(np.array(before.counts), np.array(now.counts)))
    return Drift(name, "KS", apart, threshold, p, now.count, psi, detail)


def stability_index(before: Counts, now: Counts) -> float:
    """Return the population stability index of two counts of K classes, the sum of (p - q) ln(p / q).

    Half an image is added to every count, because a new class would be infinitely far.
    """
    one, other = ((side + 0.5) / (side.sum() + 0.5 * len(side)) for side in (before, now))
    return float(((other - one) * np.log(other / one)).sum())


def in_tenths(before: Counts, now: Counts) -> tuple[Counts, Counts]:
    """Merge neighbouring bins to at most ten, with about a tenth of the training data in every one."""
    total = max(int(before.sum()), 1)
    middles = (np.cumsum(before) - before / 2) / total
    place = np.minimum((10 * middles).astype(np.int64), 9)
    one, other = (np.bincount(place, weights=side, minlength=10).astype(np.int64) for side in (before, now))
    used = np.bincount(place, minlength=10) > 0
    return one[used], other[used]


def same_shares(before: Counts, now: Counts, seed: int = 0) -> float:
    """Return the p of two counts having the same shares: Pearson's chi-squared test.

    If expected counts are under _ENOUGH, _DRAWS random divisions of all images take the distribution's place.
    """
    table = np.stack([_at_most(before), _at_most(now)])
    table = table[:, table.sum(0) > 0]
    if table.shape[1] < 2:
        return 1.0
    totals, sizes = table.sum(0), table.sum(1)
    expected = sizes[:, None] * totals / totals.sum()
    statistic = float(((table - expected) ** 2 / expected).sum())
    if expected.min() >= _ENOUGH:
        return float(scipy.special.chdtrc(table.shape[1] - 1, statistic))
    drawn = np.random.default_rng(seed).multivariate_hypergeometric(totals, sizes[1], _DRAWS)
    # Both sides differ from their expected counts by the same number.
    apart = ((drawn - expected[1]) ** 2 * (1 / expected[0] + 1 / expected[1])).sum(1)
    return float((1 + (apart >= statistic * (1 - 1e-9)).sum()) / (1 + _DRAWS))


def _at_most(counts: Counts) -> Counts:
    """Scale counts down to MOST images, with the same shares."""
    total = int(counts.sum())
    return counts if total <= MOST else np.rint(counts * (MOST / total)).astype(np.int64)


def discrepancy(one: _Vectors, other: _Vectors, seed: int = 0) -> tuple[float, float]:
    """Return the maximum mean discrepancy of two sets of vectors, float [N, D] and [M, D], and its p.

    N and M are at least 2. The distance is the root of the unbiased estimate, or 0 if that is negative (Gretton et
    al. 2012, lemma 6). It is 0 for equal distributions and 1 for tight clouds far apart. The kernel is
    exp(-d^2 / 2 s^2), with s the median distance of two vectors. p is the share of _PERMUTATIONS random divisions with
    at least this estimate. Time and memory grow as (N + M)^2.
    """
    kernel = gaussian_kernel(np.concatenate([one, other]).astype(np.float32))
    n, m = len(one), len(other)
    first = np.zeros((n + m, 1), np.float32)
    first[:n] = 1
    estimate = float(estimates(kernel, first)[0])
    generator, reached = np.random.default_rng(seed), 0
    for start in range(0, _PERMUTATIONS, AT_ONCE):
        count = min(AT_ONCE, _PERMUTATIONS - start)
        drawn = generator.permuted(np.repeat(first, count, axis=1), axis=0)
        reached += int((estimates(kernel, drawn) >= estimate).sum())
    return max(estimate, 0.0) ** 0.5, (1 + reached) / (1 + _PERMUTATIONS)


def gaussian_kernel(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the kernel of all pairs, float32 [N, N], with 0 on the diagonal."""
    centred = vectors - vectors.mean(0)
    squares = np.einsum("ij,ij->i", centred, centred)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2 * centred @ centred.T, 0)
    middle = float(np.median(distances[np.triu_indices(len(vectors), 1)]))
    kernel: NDArray[np.float32] = np.exp(distances / np.float32(-2 * middle or -1))
    np.fill_diagonal(kernel, 0)
    return kernel


def estimates(kernel: NDArray[np.float32], first: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the squared discrepancy of K divisions, float64 [K]. first: float32 [N, K], 1 for the first set."""
    n = float(first[:, 0].sum())
    m = len(first) - n
    within = np.einsum("nk,nk->k", first, kernel @ first, dtype=np.float64)
    sums = kernel.sum(1, dtype=np.float64)
    across = sums @ first - within
    rest = sums.sum() - within - 2 * across
    return within / (n * (n - 1)) + rest / (m * (m - 1)) - 2 * across / (n * m)
