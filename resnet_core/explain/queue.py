"""Queue: the images of a batch that a person should label next, so that the next version learns most.

A tenth to a third are unknown images, the farthest first, spread over the features: as many as there are beyond chance
(Benjamini and Hochberg 1995, on conformal p-values as in Bates et al. 2023, arXiv:2104.08279). The others are spread
over the gradients that their most probable labels would give the last layer. These are long where the network is
unsure, and differ where images do (BADGE, Ash et al. 2020, arXiv:1906.03671). In a batch that has drifted, a tenth are
the images farthest in that direction. If nothing else is left, the rest are unknown images. No two chosen are
near-duplicates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Why = Literal["unknown", "drift", "unsure", "random"]
_FEWEST, _MOST = (
    1 / 10,
    1 / 3,
)  # shares of unknown images: where many are foreign, the rest still asks about the classes
_BY_CHANCE = 0.2  # the largest share of known images among those that count as novel
NEAR = 0.99  # cosine of features, less their mean, from which images count as near-duplicates


@dataclass(frozen=True)
class Pool:
    """Images to choose from: probabilities [N, C], features [N, D], unknown ones bool [N], and their distances [N].

    `taken`: bool [N], images that are in the queue already; they are not chosen, and nothing like them is. `near`: the
    cosine of features from which images are alike. `drifted`: rows that a drift is told by, the first ones first.
    """

    probabilities: NDArray[np.float32]
    features: NDArray[np.float32]
    unknown: NDArray[np.bool_]
    distances: NDArray[np.float32]
    taken: NDArray[np.bool_]
    near: float = NEAR
    drifted: tuple[int, ...] = ()


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
    spread = _Spread(pool, np.random.default_rng(seed))
    drifted = spread.first(pool.drifted, math.ceil(_FEWEST * count))  # first: they are often unknown, too
    others = (spread.free & ~pool.unknown).any()
    most = round(min(max(novel, _FEWEST * count), _MOST * count)) if others else count
    far = spread.farthest(min(most, count - len(drifted)))
    unsure = spread.unsure(count - len(far) - len(drifted))
    far += spread.farthest(count - len(far) - len(drifted) - len(unsure))
    chosen: dict[Why, list[int]] = {"unknown": far, "drift": drifted, "unsure": unsure}
    return [(row, why) for why, rows in chosen.items() for row in rows]


def unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths: NDArray[np.float32] = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return lengths


class _Spread:
    """Picks rows of a pool, none near another. `free`: bool [N], those that may still be picked."""

    def __init__(self, pool: Pool, rng: np.random.Generator) -> None:
        self.pool, self.rng = pool, rng
        self.directions = unit(pool.features - pool.features.mean(0)) if len(pool.features) else pool.features
        self.free = ~pool.taken
        for row in np.flatnonzero(pool.taken):
            self._close(int(row))

    def _close(self, row: int) -> NDArray[np.float32]:
        """Keep others from being like a row. Returns the likeness of all rows to it, [N]."""
        likeness: NDArray[np.float32] = self.directions @ self.directions[row]
        self.free &= likeness < self.pool.near
        self.free[row] = False
        return likeness

    def farthest(self, count: int) -> list[int]:
        """Pick unknown rows: the farthest from what was learned, then those that are least like the ones before."""
        gap, chosen = self.pool.distances, list[int]()
        while len(chosen) < count and (here := self.free & self.pool.unknown).any():
            row = int(np.where(here, gap, -np.inf).argmax())
            unlike = 1 - self._close(row)
            gap = np.minimum(gap, unlike) if chosen else unlike
            chosen.append(row)
        return chosen

    def first(self, rows: Sequence[int], count: int) -> list[int]:
        """Pick some of these rows, in their order."""
        chosen = list[int]()
        for row in rows:
            if len(chosen) < count and self.free[row]:
                self._close(row)
                chosen.append(row)
        return chosen

    def unsure(self, count: int) -> list[int]:
        """Pick rows by k-means++ over (p - onehot) x features, whose products need no memory for the outer one."""
        residual, x = self.pool.probabilities.copy(), self.pool.features
        residual[np.arange(len(residual)), residual.argmax(1)] -= 1
        squares = (residual**2).sum(1) * (x**2).sum(1)
        gap, chosen = squares, list[int]()
        while len(chosen) < count and (here := self.free & ~self.pool.unknown).any():
            weights = np.where(here, gap, 0).astype(np.float64)
            if chosen and weights.sum() > 0:
                row = int(self.rng.choice(len(weights), p=weights / weights.sum()))
            else:
                row = int(np.where(here, squares, -np.inf).argmax())
            self._close(row)
            product = (residual @ residual[row]) * (x @ x[row])
            distance = np.maximum(squares + squares[row] - 2 * product, 0)
            gap = np.minimum(gap, distance) if chosen else distance
            chosen.append(row)
        return chosen
