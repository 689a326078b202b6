"""Novelty: find what tells unknown images from training images, and measure it on held-out images."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from resnet_core.errors import NotANumberError
from resnet_core.evaluation.bootstrap import Groups, Interval, means
from resnet_core.evaluation.calibrate import halves
from resnet_core.evaluation.metrics import Labels
from resnet_core.model.novelty import Distances, Novelty

MOST = 10_000  # training images whose features are computed
FEWEST = 10  # images of a class whose mean is kept of confidential images: of fewer it is nearly one of them
# Shares of the mean variance, added to each: directions that the training images hardly have count, too.
_LAST_RIDGE, _EARLY_RIDGE = 1e-3, 0.1


@dataclass(frozen=True)
class Flagged:
    """Held-out images that are called unknown: the share `wanted` at most, and the share found.

    The share is by ranks that have not seen the image. `novelty`, p-values [N], and `unknown` [N] are as scoring gives
    them.
    """

    wanted: float
    found: Interval
    novelty: NDArray[np.float32]
    unknown: NDArray[np.bool_]

    @property
    def missed(self) -> bool:
        """True if the held-out images show that more are."""
        return self.found.low > self.wanted


def places(labels: Labels, most: int = MOST) -> NDArray[np.int64]:
    """Return about `most` places at most, ascending and spread over each class; labels: int64 [N].

    Rare classes have FEWEST if there are so many.
    """
    if len(labels) <= most:
        return np.arange(len(labels))
    chosen = []
    for k in np.unique(labels):
        own = np.flatnonzero(labels == k)
        count = min(len(own), max(FEWEST, round(most * len(own) / len(labels))))
        chosen.append(own[np.linspace(0, len(own) - 1, count).astype(np.int64)])
    return np.sort(np.concatenate(chosen))


def find_novelty(
    features: NDArray[np.float32], labels: Labels, last: int, level: float, fewest: int = 1
) -> Novelty | None:
    """Return the novelty of training images: features float32 [M, F], and labels [M].

    last: number of features of the last layer, which come first. fewest: images that a class needs, else it has no mean
    of its own. None without such a class.
    """
    counts = np.bincount(labels)
    kept = np.flatnonzero(counts >= max(fewest, 1))
    if not len(kept):
        return None
    if not np.isfinite(features).all():
        raise NotANumberError("the network's features of a training image are not numbers")
    centre = features.mean(0, dtype=np.float64)
    x = features - centre
    own = np.stack([x[labels == k].mean(0) for k in range(len(counts)) if counts[k]])
    rest = x - own[np.searchsorted(np.flatnonzero(counts), labels)]
    own = own[np.searchsorted(np.flatnonzero(counts), kept)]
    whitened = _whitening(rest[:, :last], _LAST_RIDGE)
    points = own[:, :last] @ whitened
    between = (points * counts[kept, None]).T @ points / counts[kept].sum()
    spread, vectors = np.linalg.eigh(between)
    used = spread > 1e-6 * max(spread[-1], 1e-12)
    directions, spread = whitened @ vectors[:, used], spread[used]
    deviation = np.maximum(rest[:, last:].std(0), 1e-6)
    early = _whitening(rest[:, last:] / deviation, _EARLY_RIDGE) / deviation[:, None]
    arrays = {
        "centre": centre, "directions": directions, "means": own[:, :last] @ directions, "shrunk": 1 / (1 + spread),
        "early": early, "early_means": own[:, last:] @ early, "scale": np.array([0.0, 1.0, 0.0, 1.0]),
    }  # fmt: skip
    tensors: dict[str, Any] = {
        name: torch.from_numpy(np.ascontiguousarray(array, np.float32)) for name, array in arrays.items()
    }
    found = Novelty(level, **tensors)
    scale = []
    for distances in found.both(torch.from_numpy(features)):
        middle, most = np.quantile(distances.numpy(), [0.5, 0.95])
        scale += [middle, max(most - middle, 1e-6)]
    return replace(found, scale=torch.tensor(scale, dtype=torch.float32))


def _whitening(x: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
    """Return the matrix [D, D] that makes x, [M, D] with mean 0, uncorrelated. ridge: a share of the mean variance."""
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    whitening: NDArray[np.float64] = vectors / np.sqrt(np.maximum(values, 0) + ridge * max(values.mean(), 1e-12))
    return whitening


def measure_novelty(
    novelty: Novelty, held_out: Distances, validation: Distances | None, groups: Groups | None, seed: int = 0
) -> tuple[Novelty, Flagged]:
    """Return what a version keeps, and the share of the held-out images that is called unknown.

    Without validation images, the held-out images serve crosswise, as for the calibration.
    """
    crosswise = validation is None or not len(validation)
    kept = _ranked(novelty, held_out if validation is None or crosswise else validation)
    p_values = kept.p_values(held_out)
    unknown = unseen = kept.is_unknown(p_values)
    if crosswise:
        unseen, first = unknown.copy(), halves(len(held_out), groups, seed)
        for half in (first, ~first):
            other = _ranked(novelty, held_out[~half])
            unseen[half] = other.is_unknown(other.p_values(held_out[half]))
    (found,) = means(unseen.astype(np.float64)[:, None], groups, seed)
    return kept, Flagged(novelty.level, found, p_values, unknown)


def _ranked(novelty: Novelty, distances: Distances) -> Novelty:
    return replace(novelty, held_out=np.sort(distances))
