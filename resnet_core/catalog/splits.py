"""Splits: whether an image is for training, validation or test.

First to decide  for
labels           the image and its group
earlier night    the image
unit             the image: its group, or the images without a group that it is tied to, if these are placed
hash             the unit: its key and the seed
repair           units that the hash has placed, if a class or the groups would be on one side only

The key is a group, or the least image id of a unit. So the hash depends neither on the order of files nor on the data
set's size. No tie joins two groups: they are the user's word.
"""

import hashlib
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from annotated_types import Ge, Gt, Lt
from numpy.typing import NDArray

from resnet_core.catalog.ties import Ties
from resnet_core.errors import UserError
from resnet_core.shards.format import Split

# Codes of splits are places here; 0 is undecided. Equal votes go to the lower code.
NAMES: tuple[Split | None, ...] = (None, "train", "validation", "test")

_Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class SplitConfig:
    """`test` and `validation` are expected shares of the images.

    `near_duplicates`: look for images that look the same, tie those that are, and count those on both sides.
    `folders`: folders and tables named like splits are splits.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    test: Annotated[float, Gt(0), Lt(1)] = 0.25
    validation: Annotated[float, Ge(0), Lt(1)] = 0.0
    seed: int = 0
    near_duplicates: bool = True
    folders: bool = True


def assign(key: str, config: SplitConfig) -> Split:
    """Return the split of a key by its position: the lowest `test` are test images, the next validation."""
    place = position(key, config.seed)
    if place < config.test:
        return "test"
    if place < config.test + config.validation:
        return "validation"
    return "train"


def position(key: str, seed: int) -> float:
    """Hash a key to a number in [0, 1), uniform over keys."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def decide(images: pa.Table, ties: Ties) -> pa.Table:
    """Decide the splits of images that are tied to others or in groups.

    images: image_id, ascending; uri, label, group; `fixed`, the labels' split; `before` and `near` of the last night.
    ties: of rows of `images`.

    Returns image_id, the `key` of its unit, split (null: the hash of the key decides), `free`, `near`, the image
    that stands for a cluster of ties, and `crowded`. Raises UserError if labels fix a group to two splits.
    """
    fixed, before = _codes(images["fixed"]), _codes(images["before"])
    grouped = np.asarray(pc.is_valid(images["group"]))
    names = pc.if_else(grouped, images["group"], images["image_id"].take(pa.array(ties.cluster)))
    # The prefix keeps a group apart from an image whose id is its name.
    prefix = pc.if_else(grouped, pa.scalar("group"), pa.scalar("image"))
    coded = pc.binary_join_element_wise(prefix, names, ":").combine_chunks().dictionary_encode()
    units, count = coded.indices.to_numpy().astype(np.int64), len(coded.dictionary)
    _check_groups(names, units[grouped], fixed[grouped], np.flatnonzero(grouped))
    by_labels = _by_vote(units[grouped], fixed[grouped], count)[units]
    voted = _by_vote(units, np.where(fixed > 0, fixed, before), count)[units]
    split = np.select([fixed > 0, by_labels > 0, before > 0], [fixed, by_labels, before], voted)
    return pa.table(
        {
            "image_id": images["image_id"],
            "key": names,
            "split": pa.array([NAMES[code] for code in split.tolist()], pa.string()),
            "free": pa.array(voted == 0),
            "near": _near(images, ties, before),
            "crowded": pa.array(ties.crowded),
        }
    )


def _near(images: pa.Table, ties: Ties, before: _Numbers) -> pa.Array:
    """Return for each image of a cluster its first image, which has none; for others the copy under another label.

    The first image is one that an earlier night has placed, if there is any.
    """
    ids, cluster = images["image_id"].to_pylist(), ties.cluster
    near: list[str | None] = [None] * len(ids)
    order = np.lexsort((np.arange(len(ids)), before == 0, cluster))
    first = order[np.searchsorted(cluster[order], cluster)]
    tied = np.bincount(cluster, minlength=len(ids))[cluster] > 1
    for row in np.flatnonzero(tied & (first != np.arange(len(ids)))).tolist():
        near[row] = ids[first[row]]
    old = images["near"].to_pylist()
    for row in np.flatnonzero(~tied).tolist():
        near[row] = old[row]
    for one, other in np.sort(ties.conflicts, axis=1).tolist():
        row, of = (other, one) if near[other] is None and not tied[other] else (one, other)
        if near[row] is None and not tied[row]:
            near[row] = ids[of]
    return pa.array(near, pa.string())


def _codes(column: pa.ChunkedArray) -> _Numbers:
    """Return the codes of split names."""
    codes = np.zeros(len(column), dtype=np.int64)
    for code, name in enumerate(NAMES):
        if name:
            codes[np.asarray(column.fill_null(""), dtype=object) == name] = code
    return codes


def _check_groups(names: pa.ChunkedArray, units: _Numbers, fixed: _Numbers, rows: _Numbers) -> None:
    """Raise UserError if the labels put a group into two splits."""
    sides = np.unique(np.stack([units, fixed], axis=1)[fixed > 0], axis=0)
    twice = np.flatnonzero(sides[1:, 0] == sides[:-1, 0])[:1]
    for k in twice.tolist():
        unit, one, other = sides[k, 0], NAMES[sides[k, 1]], NAMES[sides[k + 1, 1]]
        group = names[int(rows[units == unit][0])].as_py()
        raise UserError(
            f"labels: group {group!r} is put into two splits, {one} and {other}. "
            "A group stays on one side: correct `split` or `group`."
        )


def _by_vote(place: _Numbers, code: _Numbers, count: int) -> _Numbers:
    """Return the most frequent code at every place, int64 [count]; 0 if there is none."""
    votes = np.zeros((count, len(NAMES)), dtype=np.int64)
    np.add.at(votes, (place, code), 1)
    votes[:, 0] = 0
    return np.where(votes.any(1), votes.argmax(1), 0)
