"""Repair: classes and groups are on both sides, by the least moves, and nothing that is placed moves."""

from collections.abc import Iterator

import pytest
from duckdb import DuckDBPyConnection
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_core.catalog.repair import repair
from resnet_core.catalog.splits import SplitConfig
from resnet_core.storage.database import database

# unit, label, chance (None: placed), split (None: by chance)
Row = tuple[str, str, float | None, str | None]
CONFIG = SplitConfig(test=0.25)


@pytest.fixture
def db() -> Iterator[DuckDBPyConnection]:
    with database() as found:
        yield found


def repaired(db: DuckDBPyConnection, rows: list[Row], *, grouped: bool = True) -> dict[str, str]:
    """Return the split of each unit."""
    db.execute("create or replace table placed (unit varchar, label varchar, split varchar, free bool, chance double, "
               "grouped bool)")  # fmt: skip
    for unit, label, chance, split in rows:
        by_chance = "test" if chance is not None and chance < 0.25 else "train"
        values = [unit, label, split or by_chance, chance is not None, chance, grouped]
        db.execute("insert into placed values ($1, $2, $3, $4, $5, $6)", values)
    repair(db, CONFIG)
    found = db.sql("select distinct unit, split from placed").fetchall()
    assert len(found) == len(dict(found)), "a unit is on two sides"
    return dict(found)


def test_what_is_right_stays(db: DuckDBPyConnection) -> None:
    rows: list[Row] = [(f"u{k}", "a", 0.1 + 0.1 * k, None) for k in range(8)]
    assert repaired(db, rows, grouped=False) == {f"u{k}": "test" if k < 2 else "train" for k in range(8)}


def test_the_nearest_to_the_border_moves(db: DuckDBPyConnection) -> None:
    rows: list[Row] = [("a1", "a", 0.05, None), ("a2", "a", 0.2, None), ("a3", "a", 0.1, None)]
    rows += [("b1", "b", 0.9, None), ("b2", "b", 0.3, None), ("b3", "b", 0.31, None)]
    assert repaired(db, rows, grouped=False) == {
        "a1": "test", "a2": "train", "a3": "test", "b1": "train", "b2": "test", "b3": "train",
    }  # fmt: skip


def test_what_is_placed_stays_though_it_is_nearer(db: DuckDBPyConnection) -> None:
    rows: list[Row] = [("old", "a", None, "train"), ("new", "a", 0.8, None), ("other", "b", 0.1, None)]
    rows += [("more", "b", 0.7, None)]
    assert repaired(db, rows, grouped=False) == {"old": "train", "new": "test", "other": "test", "more": "train"}


def test_a_class_in_one_unit_is_trained_on(db: DuckDBPyConnection) -> None:
    rows: list[Row] = [("only", "a", 0.1, None), *[(f"u{k}", "b", 0.1 + 0.2 * k, None) for k in range(4)]]
    assert repaired(db, rows, grouped=False)["only"] == "train"


def test_a_group_moves_only_if_its_side_keeps_its_classes(db: DuckDBPyConnection) -> None:
    # "near" is the nearest to test, but has the only training images of b.
    rows: list[Row] = [("near", "a", 0.3, None), ("near", "b", 0.3, None), ("far", "a", 0.9, None)]
    rows += [("held", "b", 0.1, None)]
    assert repaired(db, rows) == {"near": "train", "far": "test", "held": "test"}


@pytest.mark.parametrize(("count", "wanted"), [(4, 1), (6, 2), (12, 3), (40, 3)])
def test_groups_are_on_both_sides(db: DuckDBPyConnection, count: int, wanted: int) -> None:
    low: list[Row] = [(f"g{k:02}", "a", 0.3 + k / 100, None) for k in range(count)]
    assert repaired(db, low) == {f"g{k:02}": "test" if k < wanted else "train" for k in range(count)}
    high: list[Row] = [(f"g{k:02}", "a", k / 200, None) for k in range(count)]
    trained = min(3, count - wanted)
    assert repaired(db, high) == {f"g{k:02}": "train" if k >= count - trained else "test" for k in range(count)}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_class_that_has_two_free_units_of_its_own_is_on_both_sides(data: st.DataObject) -> None:
    rows: list[Row] = []
    for label in "abc":
        for k in range(data.draw(st.integers(2, 5))):
            rows.append((f"{label}{k}", label, data.draw(st.floats(0, 0.999)), None))
    for k in range(data.draw(st.integers(0, 5))):
        side = data.draw(st.sampled_from(["train", "test"]))
        rows.append((f"old{k}", data.draw(st.sampled_from("abc")), None, side))
    grouped = data.draw(st.booleans())
    with database() as db:
        found = repaired(db, rows, grouped=grouped)
        assert found == repaired(db, rows[::-1], grouped=grouped)
    for label in "abc":
        assert {found[unit] for unit, name, _, _ in rows if name == label} >= {"train", "test"}
    assert all(found[unit] == split for unit, _, _, split in rows if split)
