"""Sets of classes that hold the true one with a stated probability, whatever the model is worth.

Split conformal prediction with the score 1 - p(true class): Sadinle, Lei & Wasserman 2019 (Least
ambiguous set-valued classifiers, arXiv:1609.00451); the finite-sample quantile is that of Vovk et al.
2005. The guarantee is for images like those it was found on, and on average over them.
"""

import math

import numpy as np
from numpy.typing import NDArray

from resnet_core.evaluation.metrics import Labels, Probabilities


def threshold(labels: Labels, probabilities: Probabilities, coverage: float) -> float:
    """The score up to which a class is in the set. 1, and all classes are, where there are too few images
    to promise more."""
    scores = 1 - probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return smallest_that_holds(scores, coverage, 1.0)


def smallest_that_holds(scores: NDArray[np.float64], share: float, otherwise: float) -> float:
    """The bound that the next score like these stays within with probability `share` or more: of N
    scores, the one in place ceil((N + 1) * share)."""
    place = math.ceil((len(scores) + 1) * share - 1e-9)
    return float(np.sort(scores)[place - 1]) if place <= len(scores) else otherwise
