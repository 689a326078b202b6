"""Finding the calibration of a model on labelled images that it has not learned from.

Where no images are set aside for it, those held out do both jobs, crosswise: they are cut into two
halves, and each half is measured with what the other half gave. What the model keeps is found on all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from resnet_core.evaluation.bootstrap import Groups
from resnet_core.evaluation.decide import Weights, find_weights, threshold
from resnet_core.evaluation.metrics import Labels, Probabilities, nll
from resnet_core.model.calibration import Calibration

_COLDEST, _HOTTEST = 0.05, 20.0
# A normal prior on the logarithm of the temperature. Of hundreds of images it is not felt; a few images
# that are all right would otherwise make a model that is never in doubt.
_PRIOR = 1.0

VALIDATION, CROSSWISE = "validation", "held-out, crosswise"


@dataclass(frozen=True)
class Wanted:
    """What the calibration is for. `costs` has what missing each class costs; `recalls`, by the place of a
    class, the share of it that is to be recognised; `coverage` is of the sets, None: no sets."""

    costs: Weights | None = None
    recalls: Mapping[int, float] = field(default_factory=dict)
    coverage: float | None = None


@dataclass(frozen=True)
class Judged:
    """What a calibration says of N images: probabilities [N, C], decided [N], and sets [N, C] if any."""

    probabilities: Probabilities
    decided: Labels
    sets: NDArray[np.bool_] | None


@dataclass(frozen=True)
class Part:
    """The held-out images `rows`, bool [N], and a calibration for them that was found on other images: those
    with these labels and probabilities."""

    rows: NDArray[np.bool_]
    labels: Labels
    raw: Probabilities
    calibration: Calibration


def fit(labels: Labels, raw: Probabilities, wanted: Wanted, fitted_on: str) -> Calibration:
    """raw: the network's own probabilities, float32 [N, C]."""
    temperature = find_temperature(labels, raw)
    shares = Calibration(temperature).calibrated(raw)
    coverage = wanted.coverage
    return Calibration(
        temperature=temperature,
        weights=find_weights(labels, shares, wanted.costs, wanted.recalls),
        coverage=coverage,
        threshold=None if coverage is None else threshold(labels, shares, coverage),
        fitted_on=fitted_on,
        images=len(labels),
    )


def find_temperature(labels: Labels, raw: Probabilities) -> float:
    """The temperature of the least negative log-likelihood (Guo et al. 2017, arXiv:1706.04599, section 4.2)."""
    if not len(labels):
        return 1.0

    def loss(logarithm: float) -> float:
        shares = Calibration(float(np.exp(logarithm))).calibrated(raw)
        return nll(labels, shares) + (logarithm / _PRIOR) ** 2 / (2 * len(labels))

    found = minimize_scalar(
        loss, bounds=(np.log(_COLDEST), np.log(_HOTTEST)), method="bounded", options={"xatol": 1e-4}
    )
    return float(np.exp(found.x))


def find_parts(
    labels: Labels,
    raw: Probabilities,
    validation: tuple[Labels, Probabilities] | None,
    wanted: Wanted,
    groups: Groups | None = None,
    seed: int = 0,
) -> tuple[Calibration, tuple[Part, ...]]:
    """The calibration that the model keeps, and how the held-out images are to be judged: each by a calibration
    that has not seen it. Images of one group are in one half."""
    if validation is not None:
        found = fit(*validation, wanted, VALIDATION)
        return found, (Part(np.ones(len(labels), dtype=np.bool_), *validation, found),)
    first = halves(len(labels), groups, seed)
    parts = []
    for half in (first, ~first):
        parts.append(Part(~half, labels[half], raw[half], fit(labels[half], raw[half], wanted, CROSSWISE)))
    return fit(labels, raw, wanted, CROSSWISE), tuple(parts)


def halves(count: int, groups: Groups | None, seed: int) -> NDArray[np.bool_]:
    """Which images are in the first half, bool [N]. A single group is cut like images without one."""
    keys = np.arange(count) if groups is None or groups.max() == 0 else groups
    names = int(keys.max()) + 1
    first = np.random.default_rng(seed).permutation(names) < names // 2
    return first[keys]


def judge(calibration: Calibration, raw: Probabilities) -> Judged:
    shares = calibration.calibrated(raw)
    return Judged(shares, calibration.decided(shares), calibration.sets(shares))


def judge_parts(parts: Sequence[Part], raw: Probabilities) -> Judged:
    """All held-out images, each by the calibration of its part."""
    shares, decided = np.empty_like(raw), np.empty(len(raw), dtype=np.int64)
    sets = np.empty(raw.shape, dtype=np.bool_) if parts[0].calibration.coverage is not None else None
    for part in parts:
        found = judge(part.calibration, raw[part.rows])
        shares[part.rows], decided[part.rows] = found.probabilities, found.decided
        if sets is not None and found.sets is not None:
            sets[part.rows] = found.sets
    return Judged(shares, decided, sets)


def with_coverage(part: Part, coverage: float) -> Part:
    """The same part with sets of another coverage."""
    shares = part.calibration.calibrated(part.raw)
    bound = threshold(part.labels, shares, coverage)
    return replace(part, calibration=replace(part.calibration, coverage=coverage, threshold=bound))
