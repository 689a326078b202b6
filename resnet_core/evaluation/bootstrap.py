"""Bootstrap: 95% intervals by drawing the images again.

This is the percentile bootstrap (Efron & Tibshirani 1993, chapter 13): draw the images with replacement, and compute
the statistic of each resample. Images of one group (a patient, a camera) resemble each other: whole groups are drawn
(Davison & Hinkley 1997, section 3.8). No model is trained again: an interval reflects the size of the test
set, and not the randomness of the training. Fewer than LEAST_GROUPS groups make no interval.

Where nothing is wrong, every resample says so, however few the images are. The interval is then Clopper and Pearson's
(1934), of so many right answers in a row.

A resample holds how often each image was drawn. Any sum over images is then a product of matrices.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

RESAMPLES = 1000
LEAST_GROUPS = 5
CELLS = 2_000_000  # images times resamples that are in memory at a time

Counts = NDArray[np.float64]  # [R, N]: how often image n is in resample r
Groups = NDArray[np.int64]  # [N]: the number of each image's group, from 0 on
_Statistic = Callable[[Counts], NDArray[np.float64]]  # [R, N] -> [R, ...], a value per resample


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its 95% interval; NaN if the data cannot tell."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f}" if np.isnan(self.low) else f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"

    def times(self, factor: float) -> "Interval":
        return Interval(self.value * factor, self.low * factor, self.high * factor)


def draw(count: int, groups: Groups | None = None, seed: int = 0) -> Iterator[Counts]:
    """Yield RESAMPLES resamples of `count` images, several rows at a time."""
    rng = np.random.default_rng(seed)
    drawn = count if groups is None else int(groups.max()) + 1
    most = max(1, CELLS // max(count, 1))
    for start in range(0, RESAMPLES, most):
        rows = min(most, RESAMPLES - start)
        cells = rng.integers(0, drawn, (rows, drawn)) + drawn * np.arange(rows)[:, None]
        times = np.bincount(cells.ravel(), minlength=rows * drawn).reshape(rows, drawn).astype(np.float64)
        yield times if groups is None else times[:, groups]


def spread(
    statistic: _Statistic, count: int, groups: Groups | None = None, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the statistic of the images themselves [...], and of each resample [RESAMPLES, ...]."""
    again = np.concatenate([statistic(counts) for counts in draw(count, groups, seed)])
    return statistic(np.ones((1, count)))[0], again


def ends(value: float, resampled: NDArray[np.float64], trials: int = 0) -> Interval:
    """Return the interval of a value from its resamples [R]. NaN, as of a resample without a class, is left out.

    trials: images or groups behind a share of 1; negative if they are groups too few for an interval.
    """
    numbers = resampled[~np.isnan(resampled)]
    if np.isnan(value) or not len(numbers) or trials < 0:
        return Interval(float(value), float("nan"), float("nan"))
    low, high = np.percentile(numbers, [2.5, 97.5])
    if trials and low == high == value and value in (0, 1):
        exact = scipy.stats.binomtest(round(value) * trials, trials).proportion_ci(method="exact")
        low, high = exact.low, exact.high
    return Interval(float(value), float(low), float(high))


def trials(relevant: NDArray[np.bool_], groups: Groups | None = None) -> int:
    """Count the `relevant` images, bool [N], or the groups that have one; negative for groups too few for `ends`."""
    if groups is None:
        return int(relevant.sum())
    count = len(np.unique(groups[relevant]))
    return count if count >= LEAST_GROUPS else -1


def means(columns: NDArray[np.float64], groups: Groups | None = None, seed: int = 0) -> list[Interval]:
    """columns: [N, K], shares of 1 -> the mean of each column, with its interval."""
    return ratios(columns, np.ones_like(columns), groups, seed)


def ratios(
    over: NDArray[np.float64], under: NDArray[np.float64], groups: Groups | None = None, seed: int = 0
) -> list[Interval]:
    """over, under: [N, K] -> the K ratios of their sums, as of hits to tries, each with its interval."""

    def statistic(counts: Counts) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore", divide="ignore"):
            quotients: NDArray[np.float64] = (counts @ over) / (counts @ under)
        return quotients

    value, again = spread(statistic, len(over), groups, seed)
    return [ends(value[k], again[:, k], trials(under[:, k] > 0, groups)) for k in range(over.shape[1])]
