"""Slices: accuracy on parts of the held-out images, to find where a model is worse than elsewhere.

A column of numbers is cut at its quantiles, a column of text by its values. A slice is compared with all other
images: by Fisher's exact test, or, for images in groups, by the spread of the difference over resampled groups.
With fewer than SIDE_GROUPS groups in the slice or in the rest, it cannot be told.
Among many slices some are worse by chance alone. Their p-values are therefore corrected (Holm 1979, A simple
sequentially rejective multiple test procedure).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from resnet_core.evaluation.bootstrap import Counts, Groups, Interval, ends, spread, trials

_SIGNIFICANT = 0.05
SIDE_GROUPS = 3
SMALLEST = 10  # images; fewer show nothing
MOST_VALUES = 50
_FEW_NUMBERS = 10  # as many different numbers or fewer are values, like text
_DECILES_FROM = 1000  # images; fewer are cut into fifths
OTHERS, NOTHING = "(others)", "(none)"

_Correct = NDArray[np.bool_]  # [N]


@dataclass(frozen=True)
class Slice:
    """Accuracy on the `images` held-out images with this value; `rest` is the accuracy on the others.

    `p`: the probability of such a gap by chance, corrected for the number of slices that can be told; NaN for others.
    """

    column: str
    value: str
    images: int
    accuracy: Interval
    rest: float
    worse: bool
    p: float

    @property
    def name(self) -> str:
        return f"{self.column} {self.value}"

    @property
    def told(self) -> bool:
        """True if the slice and the rest have groups enough to tell."""
        return not np.isnan(self.p)


def find_slices(
    correct: _Correct, columns: Mapping[str, Sequence[Any]], groups: Groups | None = None, seed: int = 0
) -> list[Slice]:
    """Return all slices of the columns: N values each, numbers or text, None for a missing value.

    A column with one value makes no slice. Values in fewer than SMALLEST images are put together.
    """
    cuts = [(column, value, rows) for column, values in columns.items() for value, rows in cut(values)]
    if not cuts:
        return []
    inside = np.stack([rows for _, _, rows in cuts], axis=1).astype(np.float64)  # [N, K]
    right = correct.astype(np.float64)[:, None]

    def accuracies(counts: Counts) -> NDArray[np.float64]:
        """[R, 2, K]: in each slice, and in the rest."""
        with np.errstate(invalid="ignore", divide="ignore"):
            within = (counts @ (inside * right)) / (counts @ inside)
            without = (counts @ ((1 - inside) * right)) / (counts @ (1 - inside))
        return np.stack([within, without], axis=1)

    value, again = spread(accuracies, len(correct), groups, seed)
    slices = []
    for k, (column, name, rows) in enumerate(cuts):
        gap, gaps = value[0, k] - value[1, k], again[:, 0, k] - again[:, 1, k]
        p = _chance(correct, rows) if groups is None else _chance_by_groups(float(gap), gaps, rows, groups)
        within = ends(value[0, k], again[:, 0, k], trials(rows, groups))
        slices.append(Slice(column, name, int(rows.sum()), within, float(value[1, k]), False, p))
    corrected = holm([part.p for part in slices])
    return [replace(part, p=p, worse=p < _SIGNIFICANT) for part, p in zip(slices, corrected, strict=True)]


def _chance(correct: _Correct, rows: _Correct) -> float:
    """Return the p of so few correct images in the slice if being correct did not depend on it."""
    table = [[int((correct & rows).sum()), int((~correct & rows).sum())],
             [int((correct & ~rows).sum()), int((~correct & ~rows).sum())]]  # fmt: skip
    return float(scipy.stats.fisher_exact(table, alternative="less").pvalue)


def _chance_by_groups(gap: float, gaps: NDArray[np.float64], rows: _Correct, groups: Groups) -> float:
    """Return the same p from resampled gaps [R], by Student's distribution over the groups of the smaller side.

    NaN if that side has too few groups; 1 if nothing varies.
    """
    fewest = min(len(np.unique(groups[rows])), len(np.unique(groups[~rows])))
    count = len(np.unique(groups))
    deviation = float(np.nanstd(gaps)) * (count / max(count - 1, 1)) ** 0.5
    if fewest < SIDE_GROUPS:
        return float("nan")
    return float(scipy.stats.t.cdf(gap / deviation, fewest - 1)) if deviation > 0 else 1.0


def holm(chances: Sequence[float]) -> list[float]:
    """Correct p-values for their number, so that the smallest may be taken at its word. NaN is not counted."""
    order = np.argsort(chances, kind="stable")  # NaN last
    known = int(np.sum(~np.isnan(chances)))
    corrected, largest = [float("nan")] * len(order), 0.0
    for rank, k in enumerate(order[:known]):
        largest = max(largest, min(1.0, chances[k] * (known - rank)))
        corrected[k] = largest
    return corrected


def in_words(names: Sequence[str], told: int, untold: int) -> str:
    """Return a sentence on the slices that are significantly worse, of `told` ones; `untold` ones cannot be told."""
    few = f"{untold:,} cannot be told: fewer than {SIDE_GROUPS} groups on a side"
    if names:
        return f"Significantly worse than the rest: {', '.join(names)}" + (f"; {few}." if untold else ".")
    if untold:
        return f"{few[0].upper()}{few[1:]}" + (f"; none of the other {told:,} is significantly worse." if told else ".")
    return "No slice is significantly worse than the rest."


def cut(values: Sequence[Any]) -> list[tuple[str, _Correct]]:
    """Return the values that make slices, and the rows [N] of each."""
    numbers = _as_numbers(values)
    if numbers is None or len({value for value in values if value is not None}) <= _FEW_NUMBERS:
        return _cut_text([None if value is None else _shorter(str(value)) for value in values])
    return _cut_numbers(numbers)


def _shorter(text: str) -> str:
    """Round a fraction to four digits; `007` stays as it is."""
    try:
        return f"{float(text):.4g}" if "." in text else text
    except ValueError:
        return text


def _as_numbers(values: Sequence[Any]) -> NDArray[np.float64] | None:
    """Return float64 [N], NaN for a missing value; None for a column of text."""
    try:
        return np.array([np.nan if value is None else float(value) for value in values], dtype=np.float64)
    except ValueError:
        return None


def _cut_text(values: Sequence[str | None]) -> list[tuple[str, _Correct]]:
    """Cut by value, the most frequent first."""
    counts = Counter(NOTHING if value is None else value for value in values)
    frequent = [value for value, count in counts.most_common(MOST_VALUES) if count >= SMALLEST]
    kept = set(frequent)
    named = np.array([name if (name := NOTHING if value is None else value) in kept else OTHERS for value in values])
    slices = [(name, named == name) for name in [*frequent, OTHERS]]
    slices = [(name, rows) for name, rows in slices if rows.sum() >= SMALLEST]
    return slices if len(slices) > 1 else []


def _cut_numbers(numbers: NDArray[np.float64]) -> list[tuple[str, _Correct]]:
    """Cut at the quantiles, into slices of equally many images as far as ties allow."""
    known = np.isfinite(numbers)
    pieces = 10 if known.sum() >= _DECILES_FROM else 5
    edges = np.unique(np.quantile(numbers[known], np.linspace(0, 1, pieces + 1)))
    slices = []
    for k, (low, high) in enumerate(pairwise(edges)):
        last = k == len(edges) - 2
        rows = known & (numbers >= low) & ((numbers <= high) if last else (numbers < high))
        slices.append((f"{low:.4g} to {high:.4g}", rows))
    slices.append((NOTHING, ~known))
    slices = [(name, rows) for name, rows in slices if rows.sum() >= SMALLEST]
    return slices if len(slices) > 1 else []
