"""Splits: a pure function of the key and the seed, and what decides before the key does."""

from collections import Counter
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_core.catalog import splits, ties
from resnet_core.catalog.splits import SplitConfig, assign, position
from resnet_core.catalog.ties import Pairs
from resnet_core.errors import UserError


@given(st.text(), st.integers(0, 1000))
def test_the_same_key_and_seed_always_give_the_same_split(key: str, seed: int) -> None:
    config = SplitConfig(0.3, 0.2, seed)
    assert assign(key, config) == assign(key, config)
    assert 0 <= position(key, seed) < 1


def test_shares_are_those_asked_for() -> None:
    counts = Counter(assign(str(k), SplitConfig(0.25, 0.1)) for k in range(20_000))
    assert abs(counts["test"] / 20_000 - 0.25) < 0.01
    assert abs(counts["validation"] / 20_000 - 0.1) < 0.01


def test_a_larger_test_share_only_adds_to_the_test_images() -> None:
    small, large = SplitConfig(0.2), SplitConfig(0.3)
    assert all(assign(str(k), large) == "test" for k in range(1000) if assign(str(k), small) == "test")


def test_another_seed_gives_another_split() -> None:
    first = [assign(str(k), SplitConfig(seed=0)) for k in range(1000)]
    assert first != [assign(str(k), SplitConfig(seed=1)) for k in range(1000)]


Row = tuple[str, str | None, str | None]


def images(*rows: Row, groups: dict[str, str] | None = None, near: dict[str, str] | None = None) -> pa.Table:
    """(image_id, fixed by the labels, split of an earlier night) a row; all have the same label."""
    ids = [row[0] for row in rows]
    columns = {
        "image_id": ids,
        "uri": [f"/{name}.png" for name in ids],
        "label": ["cat"] * len(ids),
        "group": [(groups or {}).get(name) for name in ids],
        "fixed": [row[1] for row in rows],
        "before": [row[2] for row in rows],
        "near": [(near or {}).get(name) for name in ids],
    }
    table = pa.table({name: pa.array(column, pa.string()) for name, column in columns.items()})
    return table.append_column("crowded", pa.nulls(len(ids), pa.bool_()))


def decided(rows: pa.Table, *pairs: tuple[int, int]) -> pa.Table:
    """Decide with copies: pairs of rows whose pixels hardly differ."""
    left, right = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    found = ties.find(rows, Pairs(left, right, np.linspace(1e-3, 1.1e-3, len(left), dtype=np.float32)), 0.02)
    return splits.decide(rows, found)


def test_alone_the_content_is_hashed_and_in_a_group_the_group() -> None:
    names = [f"image-{k}" for k in range(50)]
    rows: list[Row] = [(name, None, None) for name in names]
    assert decided(images(*rows))["key"].to_pylist() == names
    together = {name: f"g{k % 5}" for k, name in enumerate(names)}
    found = decided(images(*rows, groups=together))
    assert found["key"].to_pylist() == list(together.values())
    assert found["split"].to_pylist() == [None] * 50
    assert found["free"].to_pylist() == [True] * 50


@pytest.mark.parametrize("before", ["train", "validation", "test"])
def test_a_new_image_follows_the_elder_that_it_is_tied_to_and_the_elder_stays(before: str) -> None:
    # The new ones form a chain: only the first looks like the elder.
    rows = images(("a", None, None), ("b", None, None), ("c", None, None), ("old", None, before))
    found = decided(rows, (3, 0), (0, 1), (1, 2))
    assert found["split"].to_pylist() == [before] * 4
    assert found["free"].to_pylist() == [False] * 4
    assert found["near"].to_pylist() == ["old"] * 3 + [None]


def test_a_copy_of_both_sides_stays_and_nobody_moves() -> None:
    rows = images(("held", None, "test"), ("learned", None, "train"), ("new", None, None))
    found = decided(rows, (0, 2), (1, 2))
    assert found["split"].to_pylist() == ["test", "train", "train"]


def test_no_tie_joins_groups_and_images_without_one_may_be_tied() -> None:
    names = ["a", "b", "c", "d", "e"]
    rows = images(*((name, None, None) for name in names), groups={"a": "p", "b": "q", "c": "q"})
    found = decided(rows, (0, 1), (1, 3), (3, 4))
    assert found["key"].to_pylist() == ["p", "q", "q", "d", "d"]
    assert found["near"].to_pylist() == [None, None, None, None, "d"]


def test_a_group_named_like_an_image_is_another_unit() -> None:
    rows = images(("a", None, "test"), ("b", None, None), groups={"b": "a"})
    assert decided(rows)["split"].to_pylist() == ["test", None]


def test_near_names_the_first_of_all_that_are_tied_over_nights() -> None:
    rows = images(
        *((name, None, None if name == "new" else "train") for name in ["a", "b", "c", "new"]), near={"b": "a"}
    )
    found = decided(rows, (1, 3), (2, 3))
    assert found["near"].to_pylist() == [None, "a", "a", "a"]
    assert found["split"].to_pylist() == ["train"] * 4
    # The first has gone. What was tied through it still is.
    later = images(("b", None, "train"), ("c", None, "train"), ("x", None, None), near={"b": "a", "c": "a"})
    assert decided(later, (1, 2))["near"].to_pylist() == [None, "b", "b"]


def test_labels_decide_for_the_whole_group() -> None:
    rows = images(("a", "test", None), ("b", None, "train"), ("c", "train", None), groups={"a": "p", "b": "p"})
    assert decided(rows, (0, 2))["split"].to_pylist() == ["test", "test", "train"]


def test_labels_that_split_a_group_are_the_users_error() -> None:
    rows = images(("a", "test", None), ("b", "train", None), groups={"a": "p", "b": "p"})
    with pytest.raises(UserError, match="group 'p' is put into two splits, train and test"):
        decided(rows)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_what_is_placed_stays_and_a_unit_has_one_key(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    names = [f"i{k:02}" for k in range(count)]
    side = st.sampled_from(["train", "validation", "test"])
    group_split = {f"g{k}": data.draw(side) for k in range(4)}
    member = {name: data.draw(st.sampled_from([*group_split, ""])) for name in names}
    tied = {name: group for name, group in member.items() if group}
    before = [
        None if data.draw(st.booleans()) else group_split[member[name]] if member[name] else data.draw(side)
        for name in names
    ]
    place = st.integers(0, count - 1)
    pairs = {tuple(sorted(pair)) for pair in data.draw(st.lists(st.tuples(place, place), max_size=20))}
    found = decided(
        images(*((name, None, split) for name, split in zip(names, before, strict=True)), groups=tied),
        *((a, b) for a, b in pairs if a != b),
    )
    split, key = found["split"].to_pylist(), found["key"].to_pylist()
    assert all(now == then for now, then in zip(split, before, strict=True) if then)
    for a, b in combinations(range(count), 2):
        same_group = names[a] in tied and tied[names[a]] == tied.get(names[b])
        assert not same_group or split[a] == split[b]
        assert (key[a] == key[b]) >= same_group
        if key[a] == key[b] and found["free"][a].as_py():
            assert split[a] == split[b] is None
