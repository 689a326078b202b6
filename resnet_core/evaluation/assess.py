"""Assessment: all measurements of a classifier on held-out images.

Calibration error, coverage of the sets and cost of decisions use calibrations that have not seen the image (see
`calibrate`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_core.evaluation.bootstrap import Groups, Interval, means, ratios
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
from resnet_core.evaluation.metrics import OF_CALIBRATION, Labels, Metrics, Probabilities, intervals, measure
from resnet_core.evaluation.slices import Slice, find_slices
from resnet_core.model.calibration import Calibration

_LEVELS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)


@dataclass(frozen=True)
class HeldOut:
    """N images: labels, the network's own probabilities [N, C], numbers of groups if any, and columns to slice by."""

    labels: Labels
    raw: Probabilities
    groups: Groups | None
    columns: Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Coverage:
    """Coverage of prediction sets: shares of the images, `wanted` and found.

    `mean_size`: classes in a set. `review_share`: share of the sets that do not have exactly one class.
    """

    wanted: float
    found: Interval
    mean_size: float
    review_share: float


@dataclass(frozen=True)
class _ClassDecisions:
    """Recall and precision of the decisions, not of the most probable classes; `wanted`: the required recall."""

    wanted: float | None
    recall: Interval
    precision: Interval


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
    metrics = measure(labels, outputs.probabilities, classes, groups, seed)
    honest = intervals(OF_CALIBRATION, labels, unseen.probabilities, groups, seed)
    correct = outputs.probabilities.argmax(1) == labels
    return Assessment(
        metrics=replace(metrics, overall=metrics.overall | honest),
        uncalibrated=intervals(OF_CALIBRATION, labels, raw, groups, seed),
        calibration=calibration,
        outputs=outputs,
        unseen=unseen,
        coverage=_find_coverage(labels, unseen.sets, requirements.coverage, groups, seed),
        curve=[_find_curve(labels, raw, parts, level) for level in _LEVELS],
        decisions=_find_decisions(held_out, unseen, calibration, requirements, classes, seed),
        slices=find_slices(correct, held_out.columns, groups, seed),
    )


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
    classes: Sequence[str],
    seed: int,
) -> Decisions | None:
    if requirements.costs is None and not requirements.recalls:
        return None
    labels, groups = held_out.labels, held_out.groups
    cost = default_cost = None
    if requirements.costs is not None:
        choices = unseen.decided, unseen.probabilities.argmax(1)
        paid_each = [paid(labels, decided, requirements.costs) for decided in choices]
        cost, default_cost = means(np.stack(paid_each, axis=1), groups, seed)
    right = unseen.decided == labels
    (accuracy,) = means(right.astype(np.float64)[:, None], groups, seed)
    places = np.arange(len(classes))
    true, said = labels[:, None] == places, unseen.decided[:, None] == places
    hits = (true & said).astype(np.float64)
    recalls = ratios(hits, true.astype(np.float64), groups, seed)
    precisions = ratios(hits, said.astype(np.float64), groups, seed)
    by_class = {
        name: _ClassDecisions(requirements.recalls.get(k), recalls[k], precisions[k]) for k, name in enumerate(classes)
    }
    weights = calibration.weights
    thresholds = None
    if len(classes) == 2:
        thresholds = {classes[k]: weights[1 - k] / sum(weights) for k in range(2)}
    return Decisions(cost, default_cost, accuracy, thresholds, by_class)
