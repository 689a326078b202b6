"""Decisions: weights per class, from the costs of mistakes or from required recalls.

The decision is argmax(weights * probabilities). Suppose that missing class i costs c_i, whatever the prediction.
The weights c_i then have the least expected cost (Elkan 2001, The foundations of cost-sensitive learning).
With two classes they are one threshold, moved to the least cost on labelled images.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from resnet_core.errors import UserError, nearest
from resnet_core.evaluation.metrics import Labels, Probabilities

MISSED, FALSE_ALARM = "missed_", "false_alarm"
_ROUNDS = 20  # a raised weight may take images from a class that had enough
_JUST_ABOVE = 1 + 1e-6

Weights = NDArray[np.float64]  # [C]


def class_costs(costs: Mapping[str, float], classes: Sequence[str]) -> Weights | None:
    """Return the cost of missing each class, [C]; None without costs.

    costs: `missed_<class>`, and `false_alarm` for the class without a cost of its own.
    Raises UserError for other names.
    """
    if not costs:
        return None
    known = [MISSED + name for name in classes]
    for key in costs:
        if key not in (*known, FALSE_ALARM):
            raise UserError(f"evaluate.costs.{key}: unknown class.{nearest(key, known)} Known: {_list(known)}.")
    missing = [name for name in known if name not in costs]
    if len(missing) == len(known):
        raise UserError(f"evaluate.costs: the cost of a missed class is missing. Add one of {_list(known)}.")
    if not missing and FALSE_ALARM in costs:
        raise UserError(
            "evaluate.costs.false_alarm: every missed class has a cost, and a false alarm misses another class. "
            "Remove it."
        )
    return np.array([costs.get(name, costs.get(FALSE_ALARM, 1.0)) for name in known], dtype=np.float64)


def class_recalls(
    recall: Mapping[str, float], classes: Sequence[str], field: str = "evaluate.recall"
) -> dict[int, float]:
    """Return the recalls of a field by the places of their classes. Raises UserError for an unknown class."""
    for name in recall:
        if name not in classes:
            hint = nearest(name, list(classes))
            raise UserError(f"{field}.{name}: unknown class.{hint} Known: {_list(classes)}.")
    return {list(classes).index(name): share for name, share in recall.items()}


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")


def find_weights(
    labels: Labels, probabilities: Probabilities, costs: Weights | None, recalls: Mapping[int, float]
) -> tuple[float, ...]:
    """Return weights for calibrated probabilities [N, C] of labelled images: from costs first, then from recalls.

    The largest weight is 1.
    """
    weights = np.ones(probabilities.shape[1]) if costs is None else costs.copy()
    if costs is not None and len(costs) == 2 and len(labels):
        weights = _cheapest(labels, probabilities, costs)
    for _ in range(_ROUNDS if recalls else 0):
        before = weights.copy()
        for k, share in recalls.items():
            weights[k] = max(weights[k], _weight_for_recall(labels, probabilities, weights, k, share))
        if np.array_equal(before, weights):
            break
    return tuple((weights / weights.max()).tolist())


def _cheapest(labels: Labels, probabilities: Probabilities, costs: Weights) -> Weights:
    """Return weights of two classes: the threshold on the second class with the least mean cost on these images.

    Among equally cheap thresholds, take the one nearest to the threshold that the costs alone give.
    """
    theory = costs[0] / costs.sum()
    p = np.sort(np.unique(probabilities[:, 1].astype(np.float64)))
    thresholds = np.concatenate([[p[0] / 2], (p[1:] + p[:-1]) / 2, [(1 + p[-1]) / 2], [theory]])
    ones = np.sort(probabilities[labels == 1, 1].astype(np.float64))
    zeros = np.sort(probabilities[labels == 0, 1].astype(np.float64))
    missed = np.searchsorted(ones, thresholds)
    alarms = len(zeros) - np.searchsorted(zeros, thresholds)
    paid = costs[1] * missed + costs[0] * alarms
    best = thresholds[paid <= paid.min() * (1 + 1e-12)]
    chosen = np.clip(best[np.abs(best - theory).argmin()], 1e-9, 1 - 1e-9)
    return np.array([chosen, 1 - chosen])


def _weight_for_recall(labels: Labels, probabilities: Probabilities, weights: Weights, k: int, share: float) -> float:
    """Return the weight at which the next image of class k is recognised with probability `share`.

    With too few images to promise it, return the weight at which all of them are recognised.
    """
    weighted = probabilities[labels == k].astype(np.float64) * weights
    if not len(weighted):
        return float(weights[k])
    others = np.delete(weighted, k, axis=1).max(1)
    needed = others / np.maximum(weighted[:, k] / weights[k], 1e-12)
    return smallest_that_holds(needed, share, float(needed.max())) * _JUST_ABOVE


def paid(labels: Labels, decided: Labels, costs: Weights) -> NDArray[np.float64]:
    """Return the cost of the decision on each image, float64 [N]."""
    return np.where(decided == labels, 0.0, costs[labels])


def threshold(labels: Labels, probabilities: Probabilities, coverage: float) -> float:
    """Return the score up to which a class is in the set. It is 1, for all classes, if there are too few images."""
    scores = 1 - probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return smallest_that_holds(scores, coverage, 1.0)


def smallest_that_holds(scores: NDArray[np.float64], share: float, otherwise: float) -> float:
    """Return the bound that the next score stays within with probability `share`: split conformal prediction.

    It is the score in place ceil((N + 1) * share), or `otherwise` if N is too small.
    """
    place = math.ceil((len(scores) + 1) * share - 1e-9)
    return float(np.sort(scores)[place - 1]) if place <= len(scores) else otherwise
