"""Splits: a pure function of the key and the seed, and what decides before the key does."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_core.catalog import splits
from resnet_core.catalog.splits import SplitConfig, assign, position
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


def images(*rows: tuple[str, str | None, str | None]) -> pa.Table:
    """(image_id, fixed by the labels, split of an earlier night) a row."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    names = ("image_id", "fixed", "before", "uri", "contradiction", "near", "excluded")
    nothing: list[None] = [None] * len(rows)
    values = [*columns, [f"/{name}.png" for name in columns[0]], nothing, nothing, nothing]
    return pa.table({name: pa.array(column, pa.string()) for name, column in zip(names, values, strict=True)})


def groups(**members: str) -> pa.Table:
    return pa.table({"image_id": list(members.keys()), "group": list(members.values())})


NO_PAIRS = np.empty((0, 2), dtype=np.int64)
CONFIG = SplitConfig(test=0.5, seed=1)


def test_alone_the_content_decides_and_in_a_group_the_group() -> None:
    names = [f"image-{k}" for k in range(50)]
    alone = splits.decide(images(*((name, None, None) for name in names)), groups(), NO_PAIRS, CONFIG)
    assert alone["split"].to_pylist() == [assign(name, CONFIG) for name in names]
    together = {name: f"g{k % 5}" for k, name in enumerate(names)}
    grouped = splits.decide(images(*((name, None, None) for name in names)), groups(**together), NO_PAIRS, CONFIG)
    assert grouped["split"].to_pylist() == [assign(together[name], CONFIG) for name in names]


@pytest.mark.parametrize("before", ["train", "validation", "test"])
def test_a_new_image_follows_its_elder_and_the_elder_stays(before: str) -> None:
    # The new ones form a chain: only the first looks like the elder.
    found = splits.decide(
        images(("old", None, before), ("a", None, None), ("b", None, None), ("c", None, None)),
        groups(),
        np.array([[0, 1], [1, 2], [3, 2]]),
        CONFIG,
    )
    assert found["split"].to_pylist() == [before] * 4
    assert found["excluded"].to_pylist() == [None] * 4
    assert found["near"].to_pylist()[1] == "old"


def test_a_new_image_that_looks_like_both_sides_goes() -> None:
    found = splits.decide(
        images(("learned", None, "train"), ("held", None, "test"), ("new", None, None)),
        groups(),
        np.array([[0, 2], [1, 2]]),
        CONFIG,
    )
    assert found["split"].to_pylist()[:2] == ["train", "test"]
    assert found["excluded"].to_pylist()[:2] == [None, None]
    assert found["excluded"].to_pylist()[2].startswith("near-duplicate of /")


def test_near_joins_all_that_look_alike_through_others() -> None:
    def joined(found: pa.Table) -> set[frozenset[str]]:
        trees = {name: {name} for name in found["image_id"].to_pylist()}
        for name, near in zip(found["image_id"].to_pylist(), found["near"].to_pylist(), strict=True):
            if near:
                for member in trees[name] | trees[near]:
                    trees[member] = trees[name] | trees[near]
        return {frozenset(tree) for tree in trees.values()}

    names = ["a", "b", "new", "c", "d"]
    rows = images(*((name, None, None if name == "new" else "train") for name in names))
    found = splits.decide(rows, groups(), np.array([[0, 2], [1, 2], [3, 4]]), CONFIG)
    assert joined(found) == {frozenset({"a", "b", "new"}), frozenset({"c", "d"})}
    assert found["split"].to_pylist() == ["train"] * 5
    # The next night: one that looks like both families, of whose elders nobody has looked at again.
    later = images(*((name, None, None if name == "x" else "train") for name in [*names, "x"]))
    later = later.set_column(
        later.schema.get_field_index("near"), "near", pa.chunked_array([[*found["near"].to_pylist(), None]])
    )
    found = splits.decide(later, groups(), np.array([[1, 5], [4, 5]]), CONFIG)
    assert joined(found) == {frozenset([*names, "x"])}


def test_labels_decide_for_the_whole_group_and_what_leaks_then_is_lost_to_the_training() -> None:
    found = splits.decide(
        images(("a", "test", None), ("b", None, "train"), ("c", "train", None)),
        groups(a="p", b="p"),
        np.array([[0, 2]]),
        CONFIG,
    )
    assert found["split"].to_pylist() == ["test", "test", "train"]
    assert found["excluded"].to_pylist() == [None, None, "near-duplicate of /a.png, which is in test"]


def test_labels_that_split_a_group_are_the_users_error() -> None:
    rows = images(("a", "test", None), ("b", "train", None))
    with pytest.raises(UserError, match="group 'p' is put into two splits, train and test"):
        splits.decide(rows, groups(a="p", b="p"), NO_PAIRS, CONFIG)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_near_pair_and_no_group_straddles_and_no_elder_moves(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    names = [f"i{k}" for k in range(count)]
    side = st.sampled_from(["train", "validation", "test"])
    group_split = {f"g{k}": data.draw(side) for k in range(4)}
    member = {name: data.draw(st.sampled_from([*group_split, ""])) for name in names}
    old = [data.draw(st.booleans()) for _ in names]
    before = [
        (group_split[member[name]] if member[name] else data.draw(side)) if elder else None
        for name, elder in zip(names, old, strict=True)
    ]
    # An earlier night has put two elders into the same split.
    pairs = np.array(
        [
            (a, b)
            for a, b in data.draw(
                st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=20)
            )
            if a != b and not (old[a] and old[b])
        ],
        dtype=np.int64,
    ).reshape(-1, 2)
    tied = groups(**{name: group for name, group in member.items() if group})
    rows = images(*((name, None, split) for name, split in zip(names, before, strict=True)))
    found = splits.decide(rows, tied, pairs, SplitConfig(test=0.3, validation=0.3))
    split, excluded = found["split"].to_pylist(), found["excluded"].to_pylist()
    assert all(now == then for now, then in zip(split, before, strict=True) if then)
    for a, b in pairs:
        assert split[a] == split[b] or excluded[a] or excluded[b]
    for a in range(count):
        assert not (excluded[a] and old[a])
        for b in range(a):
            if member[names[a]] and member[names[a]] == member[names[b]]:
                assert split[a] == split[b]
