"""Ties: which pairs of look-alikes are the same picture, and stay on one side of the split.

A small residual alone does not tell: under a fixed camera all images are within it. Chains of single false links join
most of a large data set. So a tie is isolated: each of its two images has few others about as close.
Both have the same label and no group, for groups are the user's word. A cluster of more than _LARGEST is dissolved.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from resnet_core.catalog.near_duplicates import clusters

_Numbers = NDArray[np.int64]
_Flags = NDArray[np.bool_]

CLOSE = 3.0  # times a pair's residual: within it an image has few others
_OTHERS = 3
_LARGEST = 8


@dataclass(frozen=True)
class Pairs:
    """Pairs of rows, int64 [M], and the share of variance by which their pixels differ, float32 [M]."""

    left: _Numbers
    right: _Numbers
    residual: NDArray[np.float32]

    def joined(self, more: "Pairs") -> "Pairs":
        """Return these pairs and those of `more` that are not among them, in either order."""
        ends = np.sort(np.r_[np.c_[self.left, self.right], np.c_[more.left, more.right]], axis=1)
        rows = np.sort(np.unique(ends, axis=0, return_index=True)[1])
        return Pairs(ends[rows, 0], ends[rows, 1], np.r_[self.residual, more.residual][rows])

    def where(self, rows: _Flags) -> "Pairs":
        return Pairs(self.left[rows], self.right[rows], self.residual[rows])

    def __len__(self) -> int:
        return len(self.left)


NO_PAIRS = Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))


@dataclass(frozen=True)
class Ties:
    """`cluster`: the least row that ties connect an image with, int64 [N].

    `conflicts`: rows of the same picture under two labels, int64 [C, 2]. `crowded`: bool [N], images that look like
    others of their label, tonight or earlier, but like too many to be tied.
    """

    cluster: _Numbers
    conflicts: _Numbers
    crowded: _Flags


def suspects(pairs: Pairs, most: float) -> _Numbers:
    """Return the images that these pairs would tie, sorted. Only a search around them tells who else is as close."""
    found = pairs.where((pairs.residual <= most) & _isolated(pairs, pairs))
    return np.unique(np.r_[found.left, found.right])


def find(images: pa.Table, pairs: Pairs, most: float, around: Pairs | None = None) -> Ties:
    """Find the ties among pairs of rows of `images`. Pairs beyond `most` only count as neighbours.

    images: image_id, label, group; `near`, which holds the ties of earlier nights; and `crowded`, of earlier nights.
    around: the pairs and further ones, which only count as neighbours.
    """
    labels = images["label"].combine_chunks().dictionary_encode().indices
    label, alone = labels.to_numpy(), np.asarray(pc.is_null(images["group"]))
    elder = _known(images)
    close, isolated = pairs.residual <= most, _isolated(pairs, around or pairs)
    same = label[pairs.left] == label[pairs.right]
    may = close & same & alone[pairs.left] & alone[pairs.right]
    new = pairs.where(may & isolated)
    count = max(len(label), int(elder.max(initial=-1)) + 1)
    cluster = clusters(count, np.r_[new.left, elder[:, 0]], np.r_[new.right, elder[:, 1]])[: len(label)]
    size = np.bincount(cluster, minlength=count)
    tied = may & isolated & (size[cluster[pairs.left]] <= _LARGEST)
    new = pairs.where(tied)
    cluster = clusters(count, np.r_[new.left, elder[:, 0]], np.r_[new.right, elder[:, 1]])[: len(label)]
    crowded = np.array(images["crowded"].fill_null(False)) & alone
    crowded[_ends(pairs, may & ~tied)] = True
    crowded[np.bincount(cluster, minlength=len(label))[cluster] > 1] = False
    return Ties(cluster, _ends(pairs, close & isolated & ~same), crowded)


def _known(images: pa.Table) -> _Numbers:
    """Return the ties of earlier nights, int64 [K, 2]. They are rows of `images`; beyond them is a row per lost image.

    A tie joins images without a group; `near` also names images that people have given another label.
    """
    near = images["near"].combine_chunks()
    ids, labels = images["image_id"].combine_chunks(), images["label"].combine_chunks()
    alone = np.asarray(pc.is_null(images["group"]))
    row = pc.index_in(near, value_set=ids)
    lost = pc.if_else(pc.is_null(row), near, None).dictionary_encode().indices
    other = np.asarray(pc.coalesce(row, pc.add(lost, len(ids)), pa.scalar(-1, pa.int32())), dtype=np.int64)
    same = np.asarray(pc.fill_null(pc.equal(labels, labels.take(row)), True))
    there = (other >= 0) & (other < len(ids))
    same &= ~there | alone[np.where(there, other, 0)]
    rows = np.flatnonzero((other >= 0) & alone & same)
    return np.stack([rows, other[rows]], axis=1)


def _ends(pairs: Pairs, rows: _Flags) -> _Numbers:
    return np.stack([pairs.left[rows], pairs.right[rows]], axis=1)


def _isolated(pairs: Pairs, around: Pairs) -> _Flags:
    """Return for each pair whether both of its images have at most _OTHERS others within CLOSE times its residual.

    around: the pairs, and further ones.
    """
    # Residuals are below 1, so that the sum sorts by image, then by residual.
    near = around.residual < 1
    image, residual = np.r_[around.left[near], around.right[near]], np.tile(around.residual[near], 2)
    place = np.sort(image + residual.astype(np.float64))

    def others(image: _Numbers) -> _Numbers:
        within = image + np.minimum(CLOSE * pairs.residual.astype(np.float64), 0.999)
        return np.searchsorted(place, within, "right") - np.searchsorted(place, image, "left") - 1

    return (others(pairs.left) <= _OTHERS) & (others(pairs.right) <= _OTHERS)
