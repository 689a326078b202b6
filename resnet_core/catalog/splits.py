"""Splits: whether an image is for training, validation or test.

First to decide  for
labels           the image and its group
earlier night    the image
group            the image
near-duplicate   the image, if an earlier night has placed the other
hash             the image: its key and the seed

The key is the image's id or its group. So a split depends neither on the order of files nor on the data set's size.
"""

import hashlib
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import pyarrow as pa
from annotated_types import Ge, Gt, Lt
from numpy.typing import NDArray

from resnet_core.catalog.near_duplicates import clusters
from resnet_core.errors import UserError
from resnet_core.shards.format import Split

# Codes of splits are places here; 0 is undecided. If near-duplicates cannot both stay, the lower code goes.
NAMES: tuple[Split | None, ...] = (None, "train", "validation", "test")

_Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class SplitConfig:
    """`test` and `validation` are expected shares of the images.

    `near_duplicates`: put images that look the same into the same split.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    test: Annotated[float, Gt(0), Lt(1)] = 0.25
    validation: Annotated[float, Ge(0), Lt(1)] = 0.0
    seed: int = 0
    near_duplicates: bool = True


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


def decide(images: pa.Table, groups: pa.Table, pairs: _Numbers, config: SplitConfig) -> pa.Table:
    """Decide the splits of images that are tied to others, and exclude near-duplicates across splits.

    images: image_id, uri; `fixed`, the labels' split, and its `contradiction`; `before`, `near` and `excluded` of
        the last night.
    groups: image_id, group.
    pairs: int64 [M, 2], rows of `images` that are near-duplicates.

    Returns image_id, split, near (a near-duplicate's image_id) and excluded (the reason or null). Raises UserError
    if labels fix a group to two splits.
    """
    ids = images["image_id"].to_pylist()
    fixed, before = _codes(images["fixed"]), _codes(images["before"])
    units, keys = _make_units(ids, groups)
    _check_labels(images, units, keys, fixed)
    decided = _by_unit(units, fixed)
    decided = np.where(decided > 0, decided, _by_vote(units, before, len(keys)))
    pairs = np.sort(pairs, axis=1).reshape(-1, 2)
    decided = _join_elders(decided, units[pairs], keys, config)
    unit_fixed = _by_unit(units, fixed)[units]
    split = np.where(unit_fixed > 0, unit_fixed, np.where(before > 0, before, decided[units]))
    near, excluded = images["near"].to_pylist(), images["excluded"].to_pylist()
    uris = images["uri"].to_pylist() if len(pairs) else []
    for one, other in pairs.tolist():
        younger, elder = _order(one, other, split, before)
        near[younger] = near[younger] or ids[elder]
        if split[one] != split[other] and not excluded[one] and not excluded[other]:
            excluded[younger] = f"near-duplicate of {uris[elder]}, which is in {NAMES[split[elder]]}"
    stay = np.array([reason is None for reason in excluded], dtype=bool)
    _join_all(near, ids, pairs[stay[pairs].all(1)])
    return pa.table(
        {
            "image_id": images["image_id"],
            "split": pa.array([NAMES[code] for code in split.tolist()], pa.string()),
            "near": pa.array(near, pa.string()),
            "excluded": pa.array(excluded, pa.string()),
        }
    )


def _codes(column: pa.ChunkedArray) -> _Numbers:
    """Return the codes of split names."""
    codes = np.zeros(len(column), dtype=np.int64)
    for code, name in enumerate(NAMES):
        if name:
            codes[np.asarray(column.fill_null(""), dtype=object) == name] = code
    return codes


def _make_units(ids: list[str], groups: pa.Table) -> tuple[_Numbers, list[str]]:
    """Return the unit of every image, and the key of every unit, its least group or its image id.

    Images of a group are a unit, and so are groups that share an image.
    """
    if not len(groups):
        return np.arange(len(ids)), ids
    place = {image: k for k, image in enumerate(ids)}
    names = sorted(set(groups["group"].to_pylist()))
    number = {name: len(ids) + k for k, name in enumerate(names)}
    edges = [
        (place[i], number[g]) for i, g in zip(*(groups[c].to_pylist() for c in ("image_id", "group")), strict=True)
    ]
    units = _components(np.array(edges), len(ids) + len(names))
    keys: list[str] = [""] * (int(units.max()) + 1)
    for name, k in number.items():
        keys[units[k]] = min(keys[units[k]] or name, name)
    for k, image in enumerate(ids):
        keys[units[k]] = keys[units[k]] or image
    return units[: len(ids)], keys


def _components(edges: _Numbers, nodes: int) -> _Numbers:
    """Return the connected component of every node, int64 [nodes]."""
    _, numbers = np.unique(clusters(nodes, edges[:, 0], edges[:, 1]), return_inverse=True)
    return numbers


def _check_labels(images: pa.Table, units: _Numbers, keys: list[str], fixed: _Numbers) -> None:
    """Raise UserError if the labels put an image, or a group, into two splits."""
    for k, other in enumerate(images["contradiction"].to_pylist()):
        if other:
            raise UserError(
                f"{images['uri'][k].as_py()}: the labels put the same bytes into two splits, "
                f"{NAMES[fixed[k]]} and {other}. Keep one."
            )
    least, most = np.full(len(keys), len(NAMES)), np.zeros(len(keys), dtype=np.int64)
    np.minimum.at(least, units[fixed > 0], fixed[fixed > 0])
    np.maximum.at(most, units, fixed)
    for unit in np.flatnonzero(least < most)[:1]:
        raise UserError(
            f"labels: group {keys[unit]!r} is put into two splits, {NAMES[least[unit]]} and {NAMES[most[unit]]}. "
            "A group stays on one side: correct `split` or `group`."
        )


def _by_unit(units: _Numbers, code: _Numbers) -> _Numbers:
    """Return the code of every unit, which its images share; 0 if none has any."""
    codes = np.zeros(int(units.max(initial=-1)) + 1, dtype=np.int64)
    np.maximum.at(codes, units, code)
    return codes


def _by_vote(place: _Numbers, code: _Numbers, count: int) -> _Numbers:
    """Return the most frequent code at every place, int64 [count]; 0 if there is none."""
    votes = np.zeros((count, len(NAMES)), dtype=np.int64)
    np.add.at(votes, (place, code), 1)
    votes[:, 0] = 0
    return np.where(votes.any(1), votes.argmax(1), 0)


def _join_elders(decided: _Numbers, pairs: _Numbers, keys: list[str], config: SplitConfig) -> _Numbers:
    """Decide for undecided units: like the decided units that look the same, or else by the least key of them all."""
    open_pairs = pairs[(decided[pairs] == 0).all(1)] if len(pairs) else pairs
    alike = _components(open_pairs, len(decided)) if len(open_pairs) else np.arange(len(decided))
    mixed = pairs[(decided[pairs] == 0).sum(1) == 1] if len(pairs) else pairs
    undecided_side = (decided[mixed] > 0).argmin(1) if len(mixed) else np.empty(0, dtype=np.int64)
    rows = np.arange(len(mixed))
    votes = _by_vote(alike[mixed[rows, undecided_side]], decided[mixed[rows, 1 - undecided_side]], len(decided))
    result = np.where(decided > 0, decided, votes[alike])
    least: dict[int, str] = {}
    waiting = np.flatnonzero(result == 0).tolist()
    for unit in waiting:
        together = int(alike[unit])
        least[together] = min(least.get(together, keys[unit]), keys[unit])
    code = {together: NAMES.index(assign(key, config)) for together, key in least.items()}
    for unit in waiting:
        result[unit] = code[int(alike[unit])]
    return result


def _join_all(near: list[str | None], ids: list[str], pairs: _Numbers) -> None:
    """Change `near` so that it connects all images that look the same, directly or through others.

    A single `near` is too little for an image between two others that differ.
    """
    if not len(pairs):
        return
    place = {image: k for k, image in enumerate(ids)}
    links = [(k, place[name]) for k, name in enumerate(near) if name in place]
    edges = np.concatenate([np.array(links, dtype=np.int64).reshape(-1, 2), pairs])
    linked, alike = _components(edges[: len(links)], len(ids)), _components(edges, len(ids))
    apart = np.unique(alike[pairs[linked[pairs[:, 0]] != linked[pairs[:, 1]]]])
    if not len(apart):
        return
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import breadth_first_order

    root = len(ids)  # of a tree whose branches begin at an image of each component
    members = [np.flatnonzero(alike == number) for number in apart]
    firsts = [min(rows.tolist(), key=lambda k: near[k] in place) for rows in members]
    edges = np.concatenate([edges, [(root, first) for first in firsts]])
    tree = coo_matrix((np.ones(len(edges), np.bool_), edges.T), (root + 1, root + 1))
    _, leads_to = breadth_first_order(tree, root, directed=False)
    for k in np.concatenate(members).tolist():
        if leads_to[k] != root:
            near[k] = ids[leads_to[k]]
        elif near[k] in place:
            near[k] = None


def _order(one: int, other: int, split: _Numbers, before: _Numbers) -> tuple[int, int]:
    """Return (younger, elder). The younger image is excluded if they are in different splits.

    The elder is the image that an earlier night has placed, else the held-out one, else the first.
    """
    if bool(before[one]) != bool(before[other]):
        return (other, one) if before[one] else (one, other)
    return (one, other) if split[one] < split[other] else (other, one)
