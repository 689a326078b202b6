"""Assessment: all measurements of a classifier on held-out images.

Labels are decided as a batch decides, with the weights of costs and recalls. Decisions, calibration error and coverage
use calibrations that have not seen the image (see `calibrate`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_core.evaluation.bootstrap import Groups, Interval, means
from resnet_core.evaluation.calibrate import (
    CalibrationPart,
    Outputs,
    Requirements,
    apply_calibration,
    apply_parts,
    find_calibrations,
    with_coverage,
)
from resnet_core.evaluation.decide import paid
from resnet_core.evaluation.evidence import Evidence, gather
from resnet_core.evaluation.metrics import OF_CALIBRATION, Labels, Metrics, Probabilities, intervals, measure
from resnet_core.evaluation.novelty import Flagged
from resnet_core.evaluation.slices import Slice, find_slices
from resnet_core.model.calibration import Calibration

_LEVELS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)


@dataclass(frozen=True)
class HeldOut:
    """N images: labels, the network's own probabilities [N, C], numbers of groups if any, and columns to slice by.

    look_alike: bool [N], whether a training image looks the same; None if that is not known.
    """

    labels: Labels
    raw: Probabilities
    groups: Groups | None
    columns: Mapping[str, Sequence[Any]]
    look_alike: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Coverage:
    """Coverage of prediction sets: shares of the images, `wanted` and found.

    `mean_size`: classes in a set. `review_share`: share of the sets that do not have exactly one class.
    """

    wanted: float
    found: Interval
    mean_size: float
    review_share: float

    @property
    def missed(self) -> bool:
        """True if the held-out images show that the wanted coverage was missed."""
        return self.found.high < self.wanted


@dataclass(frozen=True)
class _ClassDecisions:
    """Recall and precision of the decisions; `wanted`: the required recall."""

    wanted: float | None
    recall: Interval
    precision: Interval

    @property
    def missed(self) -> bool:
        """True if the held-out images show that the required recall was missed."""
        return self.wanted is not None and self.recall.high < self.wanted


@dataclass(frozen=True)
class Decisions:
    """Decisions by cost or recall. `cost`: mean over the images; `default_cost`: of the most probable class instead.

    Both are None without costs. `thresholds`: of two classes, the probability from which each is decided on.
    """

    cost: Interval | None
    default_cost: Interval | None
    accuracy: Interval
    thresholds: Mapping[str, float] | None
    classes: Mapping[str, _ClassDecisions]


@dataclass(frozen=True)
class Assessment:
    """All measurements of a classifier.

    `outputs` are by the model's own calibration, `unseen` by calibrations that have not seen the images.
    `curve`: (coverage wanted, coverage found, mean size of a set).
    `evidence` is of all images. `look_alikes` of them look like a training image, None if that is not known; `unlike`
    is of the others, None if there are none or all are. `flagged`: known images that are called unknown.
    """

    metrics: Metrics
    uncalibrated: dict[str, Interval]
    calibration: Calibration
    outputs: Outputs
    unseen: Outputs
    coverage: Coverage | None
    curve: list[tuple[float, float, float]]
    decisions: Decisions | None
    slices: list[Slice]
    evidence: Evidence
    look_alikes: int | None
    unlike: Evidence | None
    flagged: Flagged | None = None

    @property
    def needs_review(self) -> NDArray[np.bool_] | None:
        """The held-out images that a person would be asked to see. None if the version has nothing to tell it by."""
        unclear = None if self.outputs.sets is None else self.outputs.sets.sum(1) != 1
        if self.flagged is None:
            return unclear
        return self.flagged.unknown if unclear is None else unclear | self.flagged.unknown

    @property
    def missed(self) -> list[str]:
        """A sentence for each wish that is shown to be missed."""
        by_class = self.decisions.classes if self.decisions else {}
        texts = [
            f"recall of {name} is {of.recall}, not the {of.wanted:.3f} wanted"
            for name, of in by_class.items()
            if of.missed
        ]
        if self.coverage and self.coverage.missed:
            texts.append(f"coverage of the sets is {self.coverage.found}, not the {self.coverage.wanted:.3f} wanted")
        if self.flagged and self.flagged.missed:
            share, wanted = self.flagged.found, self.flagged.wanted
            texts.append(f"share of known images that are called unknown is {share}, not the {wanted:.3f} wanted")
        return texts


def assess(
    held_out: HeldOut,
    validation: tuple[Labels, Probabilities] | None,
    requirements: Requirements,
    classes: Sequence[str],
    seed: int = 0,
) -> Assessment:
    """Measure everything. validation: labels and raw probabilities of the images set aside for the calibration."""
    labels, raw, groups = held_out.labels, held_out.raw, held_out.groups
    calibration, parts = find_calibrations(labels, raw, validation, requirements, groups, seed)
    outputs, unseen = apply_calibration(calibration, raw), apply_parts(parts, raw)
    alike = held_out.look_alike
    metrics, evidence = _measure(held_out, outputs, unseen, classes, seed)
    unlike = None
    if alike is not None and 0 < alike.sum() < len(alike):
        _, unlike = _measure(held_out, outputs, unseen, classes, seed, ~alike)
    honest = intervals(OF_CALIBRATION, labels, unseen.probabilities, groups, seed)
    return Assessment(
        metrics=replace(metrics, overall=metrics.overall | honest),
        uncalibrated=intervals(OF_CALIBRATION, labels, raw, groups, seed),
        calibration=calibration,
        outputs=outputs,
        unseen=unseen,
        coverage=_find_coverage(labels, unseen.sets, requirements.coverage, groups, seed),
        curve=[_find_curve(labels, raw, parts, level) for level in _LEVELS],
        decisions=_find_decisions(held_out, unseen, calibration, requirements, metrics, seed),
        slices=find_slices(unseen.decided == labels, held_out.columns, groups, seed),
        evidence=evidence,
        look_alikes=None if alike is None else int(alike.sum()),
        unlike=unlike,
    )


def _measure(
    held_out: HeldOut,
    outputs: Outputs,
    unseen: Outputs,
    classes: Sequence[str],
    seed: int,
    rows: NDArray[np.bool_] | slice = slice(None),
) -> tuple[Metrics, Evidence]:
    """Return metrics of the decisions on some images, and what they are evidence of."""
    labels, scores = held_out.labels[rows], unseen.scores[rows]
    groups = None if held_out.groups is None else np.unique(held_out.groups[rows], return_inverse=True)[1]
    found = measure(labels, scores, classes, groups, seed)
    # Scores of two calibrations are not in one order: the order is that of the model's own.
    ranked = intervals(["roc_auc"], labels, outputs.probabilities[rows], groups, seed)
    found = replace(found, overall=found.overall | ranked)
    return found, gather(labels, scores, found, groups, seed)


def _find_coverage(
    labels: Labels, sets: NDArray[np.bool_] | None, wanted: float | None, groups: Groups | None, seed: int
) -> Coverage | None:
    if sets is None or wanted is None:
        return None
    inside, sizes = sets[np.arange(len(labels)), labels], sets.sum(1)
    (found,) = means(inside.astype(np.float64)[:, None], groups, seed)
    return Coverage(wanted, found, float(sizes.mean()), float((sizes != 1).mean()))


def _find_curve(
    labels: Labels, raw: Probabilities, parts: Sequence[CalibrationPart], level: float
) -> tuple[float, float, float]:
    sets = apply_parts([with_coverage(part, level) for part in parts], raw).sets
    assert sets is not None
    return level, float(sets[np.arange(len(labels)), labels].mean()), float(sets.sum(1).mean())


def _find_decisions(
    held_out: HeldOut,
    unseen: Outputs,
    calibration: Calibration,
    requirements: Requirements,
    metrics: Metrics,
    seed: int,
) -> Decisions | None:
    if requirements.costs is None and not requirements.recalls:
        return None
    labels, groups = held_out.labels, held_out.groups
    cost = default_cost = None
    if requirements.costs is not None:
        choices = unseen.decided, unseen.probabilities.argmax(1)
        paid_each = [paid(labels, decided, requirements.costs) for decided in choices]
        worst = float(requirements.costs.max())
        paid_shares = np.stack(paid_each, axis=1) / worst
        cost, default_cost = (share.times(worst) for share in means(paid_shares, groups, seed))
    by_class = {
        name: _ClassDecisions(requirements.recalls.get(k), of.recall, of.precision)
        for k, (name, of) in enumerate(metrics.per_class.items())
    }
    weights = calibration.weights
    thresholds = None
    classes = list(metrics.per_class)
    if len(classes) == 2:
        thresholds = {classes[k]: weights[1 - k] / sum(weights) for k in range(2)}
    return Decisions(cost, default_cost, metrics.overall["accuracy"], thresholds, by_class)
