"""Ties: isolated pairs of one label are tied; crowds, groups and other labels are not."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_core.catalog import ties
from resnet_core.catalog.ties import Pairs, Ties

MOST = 0.02


def found(
    count: int,
    pairs: list[tuple[int, int, float]],
    labels: str | None = None,
    groups: dict[int, str] | None = None,
    near: dict[int, str] | None = None,
    crowded: tuple[int, ...] = (),
    around: list[tuple[int, int, float]] | None = None,
) -> Ties:
    """Find the ties of images 0, 1, ...; a label is a letter."""
    names = [f"{number:02}" for number in range(count)]
    images = pa.table({
        "image_id": pa.array(names),
        "label": pa.array(list(labels or "a" * count)),
        "group": pa.array([(groups or {}).get(k) for k in range(count)], pa.string()),
        "near": pa.array([(near or {}).get(k) for k in range(count)], pa.string()),
        "crowded": pa.array([k in crowded or None for k in range(count)], pa.bool_()),
    })  # fmt: skip
    return ties.find(images, pairs_of(pairs), MOST, pairs_of(pairs).joined(pairs_of(around)) if around else None)


def pairs_of(pairs: list[tuple[int, int, float]]) -> Pairs:
    left, right, residual = zip(*pairs, strict=True) if pairs else ((), (), ())
    return Pairs(np.array(left, int), np.array(right, int), np.array(residual, np.float32))


def test_a_copy_is_tied_and_an_image_that_differs_is_not() -> None:
    result = found(4, [(0, 1, 0.001), (2, 3, 0.021)])
    assert result.cluster.tolist() == [0, 0, 2, 3]
    assert not result.crowded.any()


@pytest.mark.parametrize(("others", "tied"), [(3, True), (4, False)])
def test_a_copy_may_have_three_others_within_three_times_its_residual(others: int, tied: bool) -> None:
    crowd = [(0, 2 + k, 0.0029) for k in range(others)]
    result = found(7, [(0, 1, 0.001), *crowd])
    assert bool(result.cluster[1] == 0) == tied
    assert bool(result.crowded[1]) != tied
    far = [(0, 2 + k, 0.0031) for k in range(others)]
    assert found(7, [(0, 1, 0.001), *far]).cluster[1] == 0


def test_a_crowd_beyond_the_limit_counts_too() -> None:
    crowd = [(0, 2 + k, 0.05) for k in range(4)]
    assert found(6, [(0, 1, 0.019), *crowd]).cluster.tolist() == [0, 1, 2, 3, 4, 5]


def test_neighbours_of_earlier_nights_count_and_are_not_tied_themselves() -> None:
    """Tonight's image 9 has one pair; its elder has four others that no pair of tonight tells."""
    elders = [(0, k, 0.001) for k in range(1, 5)]
    assert found(10, [(0, 9, 0.001)]).cluster[9] == 0
    crowd = found(10, [(0, 9, 0.001)], around=[(9, 0, 0.001), *elders])
    assert crowd.cluster.tolist() == list(range(10))
    assert np.flatnonzero(crowd.crowded).tolist() == [0, 9]
    fewer = found(10, [(0, 9, 0.001)], around=[(9, 0, 0.001), *elders[:3]])
    assert np.flatnonzero(fewer.cluster == 0).tolist() == [0, 9]
    assert ties.suspects(
        pairs_of([(0, 9, 0.001), (3, 4, 0.03), *[(5, k, 0.01) for k in (6, 7, 8, 9, 10)]]), MOST
    ).tolist() == [0, 9]


def test_a_crowd_of_an_earlier_night_lasts_until_it_is_tied_or_has_a_group() -> None:
    result = found(6, [(0, 1, 0.001)], groups={2: "g"}, crowded=(0, 2, 3))
    assert np.flatnonzero(result.crowded).tolist() == [3]


def test_a_copy_under_another_label_is_a_conflict_and_no_tie() -> None:
    result = found(2, [(0, 1, 0.001)], labels="ab")
    assert result.cluster.tolist() == [0, 1]
    assert result.conflicts.tolist() == [[0, 1]]


def test_no_tie_has_a_group_on_either_end() -> None:
    result = found(6, [(0, 1, 0.001), (2, 3, 0.001), (4, 5, 0.001)], groups={0: "g", 1: "g", 2: "h"})
    assert result.cluster.tolist() == [0, 1, 2, 3, 4, 4]


def test_more_than_eight_are_dissolved_and_what_was_tied_before_stays() -> None:
    chain = [(k, k + 1, 0.001) for k in range(7)]
    assert set(found(8, chain).cluster.tolist()) == {0}
    longer = found(9, [*chain, (7, 8, 0.001)])
    assert longer.cluster.tolist() == list(range(9))
    assert longer.crowded.all()
    grown = found(9, [(7, 8, 0.001)], near=dict.fromkeys(range(1, 8), "00"))
    assert grown.cluster.tolist() == [0] * 8 + [8]
    assert grown.crowded.tolist() == [False] * 8 + [True]


def test_a_tie_of_an_earlier_night_ends_with_its_label_and_lasts_without_its_first_image() -> None:
    near = {1: "00", 2: "gone", 3: "gone"}
    assert found(4, [], near=near).cluster.tolist() == [0, 0, 2, 2]
    assert found(4, [], labels="abaa", near=near).cluster.tolist() == [0, 1, 2, 2]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_cluster_of_new_ties_is_large_and_all_have_one_label(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 30))
    place = st.integers(0, count - 1)
    pairs = {
        (min(a, b), max(a, b)): share
        for a, b, share in data.draw(st.lists(st.tuples(place, place, st.floats(0, 0.0625, width=32)), max_size=60))
        if a != b
    }
    labels = data.draw(st.text("ab", min_size=count, max_size=count))
    result = found(count, [(a, b, share) for (a, b), share in pairs.items()], labels)
    assert np.bincount(result.cluster).max() <= 8
    for row, first in enumerate(result.cluster.tolist()):
        assert labels[row] == labels[first]
        assert first <= row
