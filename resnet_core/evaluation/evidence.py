"""Evidence: what held-out images can tell of a version, before any comparison with a champion.

A constant answer has a balanced accuracy of 1 / classes, whichever class it names. A version must be shown to be above
it, with BASELINE. With groups, two tests say so, and both must.

images   how often the same answers, dealt out to the images at random, do as well (Fisher 1935). It is exact for every
         answer that does not depend on the image.
groups   the same with the labels of groups, where each group has one label. Otherwise sign flips of whole groups,
         against the constant answer that is hardest to beat.

Few groups cannot show 1 in 200, however good the version. It must then reach the least p that they allow, if that is
at most 1 in 20.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from resnet_core.evaluation.bootstrap import LEAST_GROUPS, Groups, Interval
from resnet_core.evaluation.comparison import FLIPS, Pair, flips
from resnet_core.evaluation.metrics import GATE_METRICS, Labels, Metrics, Scores, confusion_matrix
from resnet_core.evaluation.slices import SIDE_GROUPS

BASELINE = 0.995  # one-sided; so chance gets in on fewer than 1 night of 100 (`python -m benchmarks gate`)
_FEW_GROUPS = 0.05  # the largest "least p that so few groups allow" that is enough
_CELLS = 4_000_000  # of the tables that are in memory at a time
_SHOWN, _POWER = 0.95, 0.8  # a difference "can be told" if it would be shown with 0.95 on 8 nights of 10
_LEAST_DIFFERENT = 0.05  # of the images: two versions of the same recipe differ on so many at least


@dataclass(frozen=True)
class Baseline:
    """Balanced accuracy of a version and of constant answers; `p`: that the version is not better."""

    value: float
    constant: float
    p: float
    passed: bool


@dataclass(frozen=True)
class Evidence:
    """Held-out images and what a version does on them.

    groups: their number, None without groups. supports: the images of each class.
    metrics: those the gate may decide by, and `recalls` of the classes, of what a batch would decide.
    """

    images: int
    groups: int | None
    supports: dict[str, int]
    metrics: dict[str, Interval]
    recalls: dict[str, Interval]
    baseline: Baseline

    @property
    def missing(self) -> list[str]:
        """Classes without a held-out image."""
        return [name for name, images in self.supports.items() if not images]


def gather(labels: Labels, scores: Scores, measured: Metrics, groups: Groups | None = None, seed: int = 0) -> Evidence:
    """Return what held-out images show: labels [N], scores [N, C], and their metrics."""
    return Evidence(
        images=measured.count,
        groups=None if groups is None else int(groups.max()) + 1,
        supports={name: of.support for name, of in measured.per_class.items()},
        metrics={name: measured.overall[name] for name in GATE_METRICS},
        recalls={name: of.recall for name, of in measured.per_class.items()},
        baseline=against_constant(labels, scores, groups, seed),
    )


def against_constant(labels: Labels, scores: Scores, groups: Groups | None = None, seed: int = 0) -> Baseline:
    """Compare balanced accuracy with that of the constant answers."""
    decided, confusion = scores.argmax(1), confusion_matrix(labels, scores)
    occurring = np.flatnonzero(confusion.sum(1))
    weight = np.zeros(len(confusion))
    weight[occurring] = 1 / (len(occurring) * confusion.sum(1)[occurring])
    value, constant = float(weight @ confusion.diagonal()), 1 / len(occurring)
    p = _by_images(confusion, weight, seed)
    passed = p <= _enough()
    if groups is not None:
        pure = len(np.unique(np.stack([groups, labels]), axis=1).T) == groups.max() + 1
        tests = (_by_pure_groups if pure else _by_mixed_groups)(labels, decided, weight, groups, seed)
        p, passed = max(p, *(found for found, _ in tests)), passed and all(found <= _enough(e) for found, e in tests)
    return Baseline(value, constant, p, bool(passed))


def _enough(least: float = 0.0) -> float:
    """Return the p that shows it. least: the smallest that so few groups allow; the next is twice as large."""
    return max(1 - BASELINE, 1.5 * least if least <= _FEW_GROUPS else 0)


def _by_images(confusion: NDArray[np.int64], weight: NDArray[np.float64], seed: int) -> float:
    """Return the share of random tables with the same sums of rows and columns that do as well."""
    random, value = np.random.default_rng(seed), weight @ confusion.diagonal() - 1e-9
    dealt = scipy.stats.random_table(confusion.sum(1), confusion.sum(0), seed=random)
    most, reached = max(1, _CELLS // confusion.size), 0
    for start in range(0, FLIPS, most):
        tables = dealt.rvs(min(most, FLIPS - start))
        reached += int((np.diagonal(tables, axis1=1, axis2=2) @ weight >= value).sum())
    return (reached + 1) / (FLIPS + 1)


def _by_pure_groups(
    labels: Labels, decided: Labels, weight: NDArray[np.float64], groups: Groups, seed: int
) -> list[tuple[float, float]]:
    """Return p, and the least that these groups allow, where every group has one label."""
    random, (_, first) = np.random.default_rng(seed), np.unique(groups, return_index=True)
    own, occurring = labels[first], np.flatnonzero(weight)
    said = np.zeros((len(own), len(weight)))
    np.add.at(said, (groups, decided), 1)
    said /= said.sum(1, keepdims=True)  # a group counts once, large or small
    sizes = np.bincount(own)[occurring]
    dealt = np.stack([own, *(random.permutation(own) for _ in range(FLIPS))])
    values = sum((dealt == k) @ said[:, k] / size for k, size in zip(occurring, sizes, strict=True))
    ways = math.lgamma(len(own) + 1) - sum(math.lgamma(size + 1) for size in sizes)
    least = math.exp(-ways) if sizes.min() >= SIDE_GROUPS else 1.0
    return [(float((values >= values[0] - 1e-9).mean()), least)]


def _by_mixed_groups(
    labels: Labels, decided: Labels, weight: NDArray[np.float64], groups: Groups, seed: int
) -> list[tuple[float, float]]:
    """Return p against each constant answer, and the least that the groups with other labels allow."""
    occurring, count = np.flatnonzero(weight), int(groups.max()) + 1
    shares = np.zeros((count, len(weight)))
    np.add.at(shares, (groups, labels), weight[labels])
    right = np.bincount(groups, weight[labels] * (labels == decided), count)
    others = (shares.sum(1, keepdims=True) > shares).sum(0)
    return [(flips(right - shares[:, k], seed), 0.5 ** others[k]) for k in occurring]


def usable(strict: Evidence | None, every: Evidence, least: int) -> bool:
    """Return whether a part of the held-out images is large enough to be judged by: images, classes and groups."""
    return (
        strict is not None
        and least <= strict.images < every.images
        and strict.missing == every.missing
        and (strict.groups is None or strict.groups >= LEAST_GROUPS)
    )


def told_from(images: int, share: float) -> float:
    """Return the least difference of accuracy that `images` can tell, if two versions differ on that share of them."""
    return _told(max(share, _LEAST_DIFFERENT) * images, images)


def told_by(pair: Pair) -> float:
    """Return the same for two versions; images of a group count together."""
    gained, lost = pair.changed()
    excess, images = gained.astype(np.float64) - lost, len(pair.labels)
    sums = excess if pair.groups is None else np.bincount(pair.groups, excess)
    return _told(max(float(np.square(sums).sum()), _LEAST_DIFFERENT * images), images)


def _told(variance: float, images: int) -> float:
    return float((scipy.stats.norm.ppf(_SHOWN) + scipy.stats.norm.ppf(_POWER)) * variance**0.5 / images)


def in_words(difference: float, images: int) -> str:
    """Return `with 120 images, differences under 9 points cannot be told`."""
    points = f"{100 * difference:.0f}" if difference >= 0.02 else f"{100 * difference:.1f}"
    return f"with {images:,} images, differences under {points} points cannot be told"
