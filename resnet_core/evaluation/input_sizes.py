"""How a classifier does on images of other sizes than it was made for.

The stored pixels are made smaller or larger, as a coarser or finer camera would; each image is seen
once, without the sizes and mirror images that its score may be the mean of.
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
MOST = 250  # images: a double side is four times the work
BATCH = 64


@dataclass(frozen=True)
class AtSize:
    """`side` in pixels; `images` of the held-out ones were seen."""

    side: int
    images: int
    accuracy: float
    macro_f1: float
    roc_auc: float


def sample(count: int) -> NDArray[np.int64]:
    """The places of at most MOST of `count` images, evenly spread."""
    return evenly(count, MOST)


def evenly(count: int, most: int) -> NDArray[np.int64]:
    """The places of at most `most` of `count` things, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def sides(size: int) -> list[int]:
    return sorted({max(SMALLEST, round(size * factor)) for factor in _FACTORS})


def by_size(
    classifier: Classifier, pixels: NDArray[np.uint8], labels: Labels, advance: Callable[[int], None]
) -> list[AtSize]:
    """pixels: uint8 [N, size, size], as stored. advance: told how many images more were seen."""
    once = replace(classifier, config=replace(classifier.config, score_scales=(), score_flips="none"))
    found = []
    for side in sides(classifier.preprocessing.size):
        parts = []
        for start in range(0, len(pixels), BATCH):
            parts.append(once.probabilities(pixels[start : start + BATCH], side=side))
            advance(len(parts[-1]))
        shares = np.concatenate(parts)
        found.append(AtSize(side, len(labels), **{name: METRICS[name](labels, shares) for name in MEASURED}))
    return found
