"""Repair: put every class and enough groups on both sides, where the hash has dealt them to one.

The units with the least distance to the border move. Units that a night or the labels have placed stay.
The outcome depends on units and hashes alone, not on the order of files.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from duckdb import DuckDBPyConnection

from resnet_core.catalog.splits import SplitConfig
from resnet_core.shards.format import Split

GROUPS = 3  # on each side, from which an interval over groups is possible
_LEAST_SHARE = 0.1  # of the groups, where GROUPS are more

_COUNTS = """
select label, split, count(distinct unit) from placed group by label, split
"""
_GROUPS = """
select split, count(distinct unit) from placed where (select bool_or(grouped) from placed) group by split
"""
_FREE = """
select unit, any_value(split), any_value(chance), list(distinct label order by label) as labels from placed where free
group by unit having $all or list_has_any(labels, $labels) order by unit
"""
_SIDES: tuple[Split, Split] = ("train", "test")


@dataclass
class _Unit:
    """A group, images that are tied, or an image: where it is, its hash in [0, 1), and its classes."""

    key: str
    split: Split
    chance: float
    labels: list[str]


def repair(db: DuckDBPyConnection, config: SplitConfig) -> int:
    """Move units in `placed` until no class and no side lacks what can be moved. Returns the number of units moved."""
    on = Counter({(label, split): units for label, split, units in db.sql(_COUNTS).fetchall()})
    groups = Counter(dict(db.sql(_GROUPS).fetchall()))
    labels = sorted({label for label, _ in on})
    wanted = _wanted_groups(groups.total(), config)
    few = any(groups[side] < wanted[side] for side in _SIDES)
    lacking = [label for label in labels if not all(on[label, side] for side in _SIDES)]
    if not few and not lacking:
        return 0
    units = [_Unit(*row) for row in db.execute(_FREE, {"all": bool(groups), "labels": lacking}).fetchall()]
    moved: dict[str, Split] = {}

    def move(unit: _Unit, to: Split) -> None:
        for label in unit.labels:
            on[label, unit.split] -= 1
            on[label, to] += 1
        groups[unit.split] -= 1
        groups[to] += 1
        unit.split = moved[unit.key] = to

    def spared(unit: _Unit) -> bool:
        """Return whether its side keeps the unit's classes without it."""
        return unit.split == "validation" or all(on[label, unit.split] > 1 for label in unit.labels)

    for side in _SIDES:
        for label in labels:
            if on[label, side]:
                continue
            nearest = [unit for unit in _by_distance(units, side) if label in unit.labels]
            # A class without a training image cannot be learned: a test side may lose it to the training.
            unit = next(filter(spared, nearest), nearest[0] if nearest and side == "train" else None)
            if unit:
                move(unit, side)
    for side, other in (_SIDES, _SIDES[::-1]) if few else ():
        for unit in _by_distance(units, side):
            if groups[side] >= wanted[side]:
                break
            if spared(unit) and (unit.split != other or groups[other] > wanted[other]):
                move(unit, side)
    if moved:
        db.execute("create or replace temp table moved (unit varchar, split varchar)")
        db.executemany("insert into moved values ($1, $2)", sorted(moved.items()))
        db.execute("update placed set split = moved.split from moved where placed.unit = moved.unit and free")
    return len(moved)


def _wanted_groups(count: int, config: SplitConfig) -> dict[Split, int]:
    """Return the least number of groups on each side, of `count`. It is GROUPS, 10% of them, or the share asked for."""
    test = min(GROUPS, ceil(max(config.test, _LEAST_SHARE) * count), count // 2)
    return {"train": min(GROUPS, count - test), "test": test}


def _by_distance(units: list[_Unit], side: Split) -> Iterator[_Unit]:
    """Yield the units that are not on this side, the nearest to its border first. Test is below, train is above."""
    sign = -1 if side == "train" else 1
    return (unit for unit in sorted(units, key=lambda unit: (sign * unit.chance, unit.key)) if unit.split != side)
