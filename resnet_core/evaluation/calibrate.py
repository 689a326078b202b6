"""Calibration: find the temperature, decision weights and set threshold on labelled images outside the training.

Without a validation part, held-out images serve crosswise: they are split into halves, and each half is measured
with the calibration of the other half. The model keeps a calibration that is fitted on all of them.

A temperature is used only if it helps on the other half: halves of the images that it is fitted on, each measured with
the temperature of the other. Fewer than FEWEST images find none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import scipy
from numpy.typing import NDArray

from resnet_core.evaluation.bootstrap import Groups
from resnet_core.evaluation.decide import Weights, find_weights, threshold
from resnet_core.evaluation.metrics import Labels, Probabilities, Scores, nll
from resnet_core.model.calibration import FEWEST, Calibration

_COLDEST, _HOTTEST = 0.05, 20.0
# Standard deviation of a normal prior on the logarithm of the temperature. Hundreds of images outweigh it. Without
# it, a few images that are all correct would make the model certain of everything.
_PRIOR = 1.0

VALIDATION, CROSSWISE = "validation", "held-out, crosswise"


@dataclass(frozen=True)
class Requirements:
    """Requirements on decisions: the cost of missing each class, recalls by the place of a class, coverage of the sets.

    `coverage` is None for no sets.
    """

    costs: Weights | None = None
    recalls: Mapping[int, float] = field(default_factory=dict)
    coverage: float | None = None


@dataclass(frozen=True)
class Outputs:
    """Outputs for N images: calibrated probabilities [N, C], scores that decide [N, C], and sets [N, C] if any."""

    probabilities: Probabilities
    scores: Scores
    sets: NDArray[np.bool_] | None

    @property
    def decided(self) -> Labels:
        """The class of each image [N], as a batch decides."""
        return self.scores.argmax(1)


@dataclass(frozen=True)
class CalibrationPart:
    """Held-out images `rows`, bool [N], and a calibration fitted on other images, with `labels` and `raw`."""

    rows: NDArray[np.bool_]
    labels: Labels
    raw: Probabilities
    calibration: Calibration


def fit(
    labels: Labels, raw: Probabilities, requirements: Requirements, fitted_on: str, heated: bool = True
) -> Calibration:
    """Fit a calibration on labels [N] and the network's own probabilities, float32 [N, C]. heated: by a temperature."""
    temperature = find_temperature(labels, raw) if heated else 1.0
    shares = Calibration(temperature).calibrated(raw)
    coverage = requirements.coverage
    return Calibration(
        temperature=temperature,
        weights=find_weights(labels, shares, requirements.costs, requirements.recalls),
        coverage=coverage,
        threshold=None if coverage is None else threshold(labels, shares, coverage),
        fitted_on=fitted_on,
        images=len(labels),
    )


def find_temperature(labels: Labels, raw: Probabilities) -> float:
    """Return the temperature of the least negative log-likelihood (Guo et al. 2017, arXiv:1706.04599, section 4.2)."""
    if not len(labels):
        return 1.0

    def loss(logarithm: float) -> float:
        shares = Calibration(float(np.exp(logarithm))).calibrated(raw)
        return nll(labels, shares) + (logarithm / _PRIOR) ** 2 / (2 * len(labels))

    bounds = np.log(_COLDEST), np.log(_HOTTEST)
    found = scipy.optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def helps(labels: Labels, raw: Probabilities, groups: Groups | None = None, seed: int = 0) -> bool:
    """Return whether a temperature found on one half of the images lessens the loss on the other, both ways."""
    if len(labels) < FEWEST:
        return False
    first, shares = halves(len(labels), groups, seed), np.empty_like(raw)
    for half in (first, ~first):
        shares[half] = Calibration(find_temperature(labels[~half], raw[~half])).calibrated(raw[half])
    return nll(labels, shares) < nll(labels, raw)


def find_calibrations(
    labels: Labels,
    raw: Probabilities,
    validation: tuple[Labels, Probabilities] | None,
    requirements: Requirements,
    groups: Groups | None = None,
    seed: int = 0,
) -> tuple[Calibration, tuple[CalibrationPart, ...]]:
    """Return the calibration that the model keeps, and parts whose calibrations have not seen their images.

    Images of one group are in the same half.
    """
    if validation is not None:
        kept = fit(*validation, requirements, VALIDATION, helps(*validation, seed=seed))
        return kept, (CalibrationPart(np.ones(len(labels), dtype=np.bool_), *validation, kept),)
    first, heated = halves(len(labels), groups, seed), helps(labels, raw, groups, seed)
    parts = [
        CalibrationPart(~half, labels[half], raw[half], fit(labels[half], raw[half], requirements, CROSSWISE, heated))
        for half in (first, ~first)
    ]
    return fit(labels, raw, requirements, CROSSWISE, heated), tuple(parts)


def halves(count: int, groups: Groups | None, seed: int) -> NDArray[np.bool_]:
    """Return the images of the first half, bool [N]. A single group is split like images without groups."""
    keys = np.arange(count) if groups is None or groups.max() == 0 else groups
    names = int(keys.max()) + 1
    first = np.random.default_rng(seed).permutation(names) < names // 2
    return first[keys]


def apply_calibration(calibration: Calibration, raw: Probabilities) -> Outputs:
    """Return the outputs for the network's own probabilities [N, C]."""
    shares = calibration.calibrated(raw)
    return Outputs(shares, calibration.weighted(shares), calibration.sets(shares))


def apply_parts(parts: Sequence[CalibrationPart], raw: Probabilities) -> Outputs:
    """Return the outputs for all held-out images, by the calibrations of their parts."""
    shares, scores = np.empty_like(raw), np.empty(raw.shape)
    sets = np.empty(raw.shape, dtype=np.bool_) if parts[0].calibration.coverage is not None else None
    for part in parts:
        outputs = apply_calibration(part.calibration, raw[part.rows])
        shares[part.rows], scores[part.rows] = outputs.probabilities, outputs.scores
        if sets is not None and outputs.sets is not None:
            sets[part.rows] = outputs.sets
    return Outputs(shares, scores, sets)


def with_coverage(part: CalibrationPart, coverage: float) -> CalibrationPart:
    """Return the same part with sets of another coverage."""
    shares = part.calibration.calibrated(part.raw)
    bound = threshold(part.labels, shares, coverage)
    return replace(part, calibration=replace(part.calibration, coverage=coverage, threshold=bound))
