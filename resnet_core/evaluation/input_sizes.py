"""Input sizes: accuracy on images of other sizes than the classifier was trained for.

The stored pixels are scaled down or up, as from a coarser or finer camera. A score here is of one size, without the
mean over sizes and mirror images that `Classifier.probabilities` may take.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from resnet_core.evaluation.metrics import METRICS, Labels
from resnet_core.model.classifier import Classifier

_FACTORS = (0.5, 0.75, 1.0, 1.5, 2.0)
MEASURED = ("accuracy", "macro_f1", "roc_auc")  # METRICS that AtSize holds
SMALLEST = 4  # pixels
MOST = 250  # images, because a double side takes four times the work
BATCH = 64


@dataclass(frozen=True)
class AtSize:
    """Metrics of `images` held-out images at a side in pixels."""

    side: int
    images: int
    accuracy: float
    macro_f1: float
    roc_auc: float


def sample(count: int) -> NDArray[np.int64]:
    """Return the places of at most MOST of `count` images, evenly spread."""
    return evenly(count, MOST)


def evenly(count: int, most: int) -> NDArray[np.int64]:
    """Return at most `most` of the places 0 to `count` - 1, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def sides(size: int) -> list[int]:
    """Return the sides to measure, in pixels, for an input of `size` pixels."""
    return sorted({max(SMALLEST, round(size * factor)) for factor in _FACTORS})


def by_size(
    classifier: Classifier, pixels: NDArray[np.uint8], labels: Labels, advance: Callable[[int], None]
) -> list[AtSize]:
    """Measure the classifier on stored pixels, uint8 [N, size, size], at every side.

    advance: called with the number of further images that are done.
    """
    single = replace(classifier, config=replace(classifier.config, score_scales=(), score_flips="none"))
    measured = []
    for side in sides(classifier.preprocessing.size):
        parts = []
        for start in range(0, len(pixels), BATCH):
            parts.append(single.probabilities(pixels[start : start + BATCH], side=side))
            advance(len(parts[-1]))
        shares = np.concatenate(parts)
        scores = classifier.calibration.weighted(shares)
        measured.append(AtSize(side, len(labels), **{name: METRICS[name](labels, scores) for name in MEASURED}))
    return measured
