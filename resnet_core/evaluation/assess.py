"""Everything that is measured of a classifier on held-out images: arrays in, numbers out.

What depends on the calibration (its error, what the sets cover, what decisions cost) is measured with
calibrations that have not seen the image; see `calibrate`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_core.evaluation.bootstrap import Groups, Interval, means, ratios
from resnet_core.evaluation.calibrate import Judged, Part, Wanted, find_parts, judge, judge_parts, with_coverage
from resnet_core.evaluation.decide import paid
from resnet_core.evaluation.metrics import OF_CALIBRATION, Labels, Metrics, Probabilities, intervals, measure
from resnet_core.evaluation.slices import Slice, find_slices
from resnet_core.model.calibration import Calibration

_LEVELS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)


@dataclass(frozen=True)
class HeldOut:
    """N images: labels, the network's own probabilities [N, C], the number of each one's group where there are
    groups, and columns of N values by which they are broken down."""

    labels: Labels
    raw: Probabilities
    groups: Groups | None
    columns: Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Coverage:
    """`found` of the images have their class in the set, of `mean_size` classes; `review_share` of the sets have
    not exactly one."""

    wanted: float
    found: Interval
    mean_size: float
    review_share: float


@dataclass(frozen=True)
class _ClassDecisions:
    """Of the decisions, not of the most probable classes; `wanted` is the recall that was asked for."""

    wanted: float | None
    recall: Interval
    precision: Interval


@dataclass(frozen=True)
class Decisions:
    """`cost` is the mean over the images, `default_cost` that of deciding on the most probable class; None
    without costs. `thresholds`: with two classes, the probability of each from which it is decided on."""

    cost: Interval | None
    default_cost: Interval | None
    accuracy: Interval
    thresholds: Mapping[str, float] | None
    classes: Mapping[str, _ClassDecisions]


@dataclass(frozen=True)
class Assessment:
    """`judged` is what the model will say of the images, `unseen` what calibrations say that have not seen them.
    `curve` has a wanted coverage, the one found, and the mean size of a set."""

    metrics: Metrics
    uncalibrated: dict[str, Interval]
    calibration: Calibration
    judged: Judged
    unseen: Judged
    coverage: Coverage | None
    curve: list[tuple[float, float, float]]
    decisions: Decisions | None
    slices: list[Slice]


def assess(
    held_out: HeldOut,
    validation: tuple[Labels, Probabilities] | None,
    wanted: Wanted,
    classes: Sequence[str],
    seed: int = 0,
) -> Assessment:
    """validation: labels and the network's own probabilities of images that are set aside for the calibration."""
    labels, raw, groups = held_out.labels, held_out.raw, held_out.groups
    calibration, parts = find_parts(labels, raw, validation, wanted, groups, seed)
    judged, unseen = judge(calibration, raw), judge_parts(parts, raw)
    metrics = measure(labels, judged.probabilities, classes, groups, seed)
    honest = intervals(OF_CALIBRATION, labels, unseen.probabilities, groups, seed)
    correct = judged.probabilities.argmax(1) == labels
    return Assessment(
        metrics=replace(metrics, overall=metrics.overall | honest),
        uncalibrated=intervals(OF_CALIBRATION, labels, raw, groups, seed),
        calibration=calibration,
        judged=judged,
        unseen=unseen,
        coverage=_find_coverage(labels, unseen.sets, wanted.coverage, groups, seed),
        curve=[_find_curve(labels, raw, parts, level) for level in _LEVELS],
        decisions=_find_decisions(held_out, unseen, calibration, wanted, classes, seed),
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


def _find_curve(labels: Labels, raw: Probabilities, parts: Sequence[Part], level: float) -> tuple[float, float, float]:
    sets = judge_parts([with_coverage(part, level) for part in parts], raw).sets
    assert sets is not None
    return level, float(sets[np.arange(len(labels)), labels].mean()), float(sets.sum(1).mean())


def _find_decisions(
    held_out: HeldOut, unseen: Judged, calibration: Calibration, wanted: Wanted, classes: Sequence[str], seed: int
) -> Decisions | None:
    if wanted.costs is None and not wanted.recalls:
        return None
    labels, groups = held_out.labels, held_out.groups
    cost = default_cost = None
    if wanted.costs is not None:
        both = [paid(labels, decided, wanted.costs) for decided in (unseen.decided, unseen.probabilities.argmax(1))]
        cost, default_cost = means(np.stack(both, axis=1), groups, seed)
    right = unseen.decided == labels
    (accuracy,) = means(right.astype(np.float64)[:, None], groups, seed)
    places = np.arange(len(classes))
    true, said = labels[:, None] == places, unseen.decided[:, None] == places
    hits = (true & said).astype(np.float64)
    recalls = ratios(hits, true.astype(np.float64), groups, seed)
    precisions = ratios(hits, said.astype(np.float64), groups, seed)
    by_class = {
        name: _ClassDecisions(wanted.recalls.get(k), recalls[k], precisions[k]) for k, name in enumerate(classes)
    }
    weights = calibration.weights
    thresholds = None
    if len(classes) == 2:
        thresholds = {classes[k]: weights[1 - k] / sum(weights) for k in range(2)}
    return Decisions(cost, default_cost, accuracy, thresholds, by_class)
