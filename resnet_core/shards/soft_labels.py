"""Soft labels: an image's shares of several classes, for images on which people disagree.

In tables they are text: `defective=0.67; functional=0.33`. The share follows the last `=`; `;` separates classes.
Shares are at least 0 and sum to 1. They are training targets (Peterson et al. 2019, arXiv:1908.07086).
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from resnet_core.storage.names import fold_label

EXAMPLE = "defective=0.67; functional=0.33"
_TOLERANCE = 1e-3  # for rounded shares, such as three of 0.333


def parse(text: str) -> dict[str, float]:
    """Return the shares by class, scaled to sum 1. Raises ValueError with the fault."""
    shares: dict[str, float] = {}
    for part in filter(str.strip, text.split(";")):
        name, equals, number = part.rpartition("=")
        name = fold_label(name)
        if not equals or not name:
            raise ValueError(f"{part.strip()!r} is not like `class=0.5`")
        if name in shares:
            raise ValueError(f"names {name!r} twice")
        shares[name] = _share(number)
    total = sum(shares.values())
    if not abs(total - 1) <= _TOLERANCE + 1e-9:
        raise ValueError(f"its shares sum to {total:.4g}, not to 1")
    return {name: share / total for name, share in shares.items()}


def _share(number: str) -> float:
    try:
        share = float(number)
    except ValueError:
        share = math.nan
    if not 0 <= share < math.inf:
        raise ValueError(f"{number!r} is not a share of 0 or more")
    return share


class SoftLabels(NamedTuple):
    """Soft labels of S images, at 8 bytes a class. Those of fewer than K classes repeat their last."""

    rows: NDArray[np.int64]  # [S], the images that have one, ascending
    classes: NDArray[np.int32]  # [S, K], places in the class names
    shares: NDArray[np.float32]  # [S, K]
    of: int  # classes in all, C

    def targets(self, rows: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the shares of images, float32 [B, C]; 1 for the label of an image without a soft label.

        rows, labels: int64 [B].
        """
        targets = np.zeros((len(rows), self.of), np.float32)
        targets[np.arange(len(rows)), labels] = 1
        places = np.searchsorted(self.rows, rows).clip(max=len(self.rows) - 1)
        soft = np.flatnonzero(self.rows[places] == rows)
        targets[soft] = 0
        targets[soft[:, None], self.classes[places[soft]]] = self.shares[places[soft]]
        return targets


def read_column(column: pa.ChunkedArray, classes: Sequence[str]) -> SoftLabels | None:
    """Parse texts [N], null for none; return None if all are null.

    Raises ValueError for a text that is not a soft label, or that names an unknown class.
    """
    if column.null_count == len(column):
        return None
    encoded = column.combine_chunks().dictionary_encode()
    place = {name: k for k, name in enumerate(classes)}
    pairs = []
    for text in encoded.dictionary.to_pylist():
        shares = parse(text)
        if unknown := [name for name in shares if name not in place]:
            raise ValueError(f"{unknown[0]!r} in the soft label {text!r} is not one of {', '.join(classes)}")
        pairs.append([(place[name], share) for name, share in shares.items()])
    most = max(map(len, pairs))
    padded = [pair + pair[-1:] * (most - len(pair)) for pair in pairs]
    rows = np.flatnonzero(encoded.is_valid().to_numpy(zero_copy_only=False))
    codes = encoded.indices.drop_null().to_numpy()
    named = np.array([[k for k, _ in pair] for pair in padded], np.int32)
    shares_of = np.array([[share for _, share in pair] for pair in padded], np.float32)
    return SoftLabels(rows, named[codes], shares_of[codes], len(classes))


def joined(parts: Iterable[tuple[int, SoftLabels | None]]) -> SoftLabels | None:
    """Join the soft labels of consecutive images. parts: the number of the first image, and its soft labels."""
    soft = [(first, part) for first, part in parts if part is not None]
    if not soft:
        return None
    most = max(part.classes.shape[1] for _, part in soft)

    def widened(values: NDArray[np.generic]) -> NDArray[np.generic]:
        return np.pad(values, ((0, 0), (0, most - values.shape[1])), mode="edge")

    return SoftLabels(
        np.concatenate([first + part.rows for first, part in soft]),
        np.concatenate([widened(part.classes) for _, part in soft]),
        np.concatenate([widened(part.shares) for _, part in soft]),
        soft[0][1].of,
    )
