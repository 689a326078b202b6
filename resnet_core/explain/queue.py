"""Queue: the images of a batch that a person should label next, so that the next version learns most.

A tenth to a third are unknown images, the farthest first, spread over the features: as many as there are beyond chance
(Benjamini and Hochberg 1995, on conformal p-values as in Bates et al. 2023, arXiv:2104.08279). The others are spread
over the gradients that their most probable labels would give the last layer. These are long where the network is
unsure, and differ where images do (BADGE, Ash et al. 2020, arXiv:1906.03671). No two chosen are near-duplicates.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Why = Literal["unknown", "unsure", "random"]
_FEWEST, _MOST = (
    1 / 10,
    1 / 3,
)  # shares of unknown images: where many are foreign, the rest still asks about the classes
_BY_CHANCE = 0.2  # the largest share of known images among those that count as novel
NEAR = 0.99  # cosine of features, less their mean, from which images count as near-duplicates


@dataclass(frozen=True)
class Pool:
    """Images to choose from: probabilities [N, C], features [N, D], unknown ones bool [N], and their distances [N].

    `taken`: bool [N], images that are in the queue already; they are not chosen, and nothing like them is.
    """

    probabilities: NDArray[np.float32]
    features: NDArray[np.float32]
    unknown: NDArray[np.bool_]
    distances: NDArray[np.float32]
    taken: NDArray[np.bool_]


def novel(p_values: NDArray[np.float32], images: int) -> int:
    """Return how many of the unknown images, by their p-values [U], are not so by chance among so many `images`."""
    ranked = np.sort(p_values)
    below = np.searchsorted(ranked, ranked, side="right")  # equal ranks are found together
    found = below[ranked * images <= _BY_CHANCE * below]
    return int(found.max(initial=0))


def choose(pool: Pool, count: int, seed: int, novel: int = 0) -> list[tuple[int, Why]]:
    """Return at most `count` rows of the pool, with reasons; fewer if all others are near-duplicates.

    novel: as the function of that name has it.
    """
    directions = unit(pool.features - pool.features.mean(0)) if len(pool.features) else pool.features
    free = ~pool.taken
    for taken in np.flatnonzero(pool.taken):
        free &= directions @ directions[taken] < NEAR
    most = round(min(max(novel, _FEWEST * count), _MOST * count)) if not pool.unknown.all() else count
    far = min(int(pool.unknown.sum()), most)
    chosen: list[tuple[int, Why]] = []
    for row in _farthest(pool, directions, free):
        if len(chosen) >= far:
            break
        chosen.append((row, "unknown"))
    for row in _gradients(pool, directions, free & ~pool.unknown, np.random.default_rng(seed)):
        if len(chosen) >= count:
            break
        chosen.append((row, "unsure"))
    return chosen


def unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths: NDArray[np.float32] = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return lengths


def _farthest(pool: Pool, directions: NDArray[np.float32], free: NDArray[np.bool_]) -> Iterator[int]:
    """Yield unknown rows: the farthest from what was learned, then those that are least like the ones before.

    Rows that are like a yielded one are no longer free.
    """
    gap = np.where(pool.unknown, 1 + pool.distances / max(1.0, float(np.abs(pool.distances).max(initial=0))), -1.0)
    first = True
    while (here := free & pool.unknown).any():
        row = int(np.where(here, gap, -np.inf).argmax())
        likeness = directions @ directions[row]
        yield row
        free &= likeness < NEAR
        free[row] = False
        gap = 1 - likeness if first else np.minimum(gap, 1 - likeness)
        first = False


def _gradients(
    pool: Pool, directions: NDArray[np.float32], free: NDArray[np.bool_], rng: np.random.Generator
) -> Iterator[int]:
    """Yield rows by k-means++ over (p - onehot) x features, whose products need no memory for the outer one."""
    residual = pool.probabilities.copy()
    residual[np.arange(len(residual)), residual.argmax(1)] -= 1
    squares = (residual**2).sum(1) * (pool.features**2).sum(1)
    gap = squares.copy()
    first = True
    while free.any():
        weights = np.where(free, gap, 0).astype(np.float64)
        total = weights.sum()
        if first or total <= 0:
            row = int(np.where(free, squares, -np.inf).argmax())
        else:
            row = int(np.searchsorted(np.cumsum(weights), rng.random() * total, side="right").clip(max=len(gap) - 1))
        yield row
        product = (residual @ residual[row]) * (pool.features @ pool.features[row])
        distance = np.maximum(squares + squares[row] - 2 * product, 0)
        gap = distance if first else np.minimum(gap, distance)
        first = False
        free = free & (directions @ directions[row] < NEAR)
        free[row] = False
