"""Slices: what is worse is named, what is not is not, however many are looked at."""

import numpy as np
import pytest

from resnet_core.evaluation.slices import MOST_VALUES, NOTHING, OTHERS, cut, find_slices, holm, in_words


def some(count: int, accuracy: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(count) < accuracy


def test_the_worse_part_of_a_column_is_found_and_only_it() -> None:
    brightness = np.random.default_rng(11).uniform(0, 255, 2000)
    correct = np.where(brightness < 25, some(2000, 0.7), some(2000, 0.95, 1))
    found = find_slices(correct, {"brightness": brightness.tolist(), "noise": some(2000, 0.5, 3).tolist()})
    assert len(found) == 10 + 2
    (worse,) = [each for each in found if each.worse]
    low, high = (float(end) for end in worse.value.split(" to "))
    assert (worse.column, low < 1, 20 < high < 30) == ("brightness", True, True)
    inside = (brightness >= brightness.min()) & (brightness < np.quantile(brightness, 0.1))
    assert worse.images == inside.sum() == 200
    assert worse.accuracy.value == pytest.approx(correct[inside].mean())
    assert worse.accuracy.low < worse.accuracy.value < worse.accuracy.high
    assert worse.rest == pytest.approx(correct[~inside].mean())


def test_nothing_is_worse_where_nothing_is_though_many_are_looked_at() -> None:
    """20 columns that mean nothing: of 100 slices, five would be worse by chance, each on its own."""
    alarms, uncorrected = 0, 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        columns = {f"c{k}": rng.normal(size=400).tolist() for k in range(20)}
        found = find_slices(some(400, 0.85, seed + 1000), columns)
        alarms += any(each.worse for each in found)
        uncorrected += any(each.p / len(found) < 0.05 for each in found)
    assert alarms <= 5  # 40 nights at 5%: six or more happen once in 70 times
    assert uncorrected > 25


@pytest.mark.parametrize("within", [True, False])
def test_groups_do_not_cry_wolf(within: bool) -> None:
    """Twelve cameras that differ, and a column that means nothing: how often is a slice called worse?"""
    alarms = nights = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(12), 20)
        correct = rng.random(240) < rng.beta(4, 1, 12)[groups]
        column = rng.random(240) < 0.3 if within else (rng.random(12) < 0.3)[groups]
        found = find_slices(correct, {"c": column.tolist()}, groups)
        nights += bool(found)
        alarms += any(each.worse for each in found)
    assert nights > 130
    assert alarms / nights < 0.1


def test_a_slice_that_is_worse_in_every_group_is_found_through_them() -> None:
    groups = np.repeat(np.arange(30), 20)
    column = np.tile(np.arange(20) < 6, 30)
    correct = np.where(column, some(600, 0.75), some(600, 0.92, 1))
    found = {each.value: each for each in find_slices(correct, {"c": column.tolist()}, groups)}
    assert (found["True"].worse, found["False"].worse) == (True, False)
    # In one group alone it may be the group's fault.
    alone = find_slices(correct, {"g": [str(g) if g == 0 else "rest" for g in groups]}, groups)
    assert not any(each.worse for each in alone)


def test_holm_is_between_nothing_and_bonferroni() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.9]) == [1, 1]
    assert holm([]) == []


def test_a_slice_is_worse_only_when_it_is_lower() -> None:
    column = ["a"] * 300 + ["b"] * 300
    correct = np.concatenate([some(300, 0.99), some(300, 0.8)])
    assert {each.value: each.worse for each in find_slices(correct, {"c": column})} == {"a": False, "b": True}


def test_how_columns_are_cut() -> None:
    assert cut(["x"] * 100) == []
    assert cut([1.5] * 100) == []
    assert cut([None] * 50) == []
    assert [name for name, _ in cut([None] * 20 + ["a"] * 30)] == ["a", NOTHING]
    # Few numbers are values; codes stay as they are written, and fractions need four digits.
    assert [name for name, _ in cut(["007"] * 20 + ["0.33333333"] * 10)] == ["007", "0.3333"]
    # As many in each as there can be, and every image in one.
    slices = cut(np.random.default_rng(0).normal(size=500).tolist())
    assert [int(rows.sum()) for _, rows in slices] == [100] * 5
    assert np.sum([rows for _, rows in slices], axis=0).tolist() == [1] * 500
    assert len(cut(np.arange(1000).tolist())) == 10
    ties = cut([0] * 900 + list(range(1, 101)))
    assert sum(int(rows.sum()) for _, rows in ties) == 1000
    numbers = cut([*np.linspace(0, 1, 300).tolist(), *[None] * 20])
    assert [int(rows.sum()) for _, rows in numbers] == [60, 60, 60, 60, 60, 20]
    assert numbers[-1][0] == NOTHING


def test_rare_values_are_put_together() -> None:
    values = ["a"] * 50 + ["b"] * 40 + [f"rare {k}" for k in range(30)]
    assert [(name, int(rows.sum())) for name, rows in cut(values)] == [("a", 50), ("b", 40), (OTHERS, 30)]
    many = [f"camera {k}" for k in range(80) for _ in range(12)]
    slices = cut(many)
    assert len(slices) == MOST_VALUES + 1
    assert slices[-1][0] == OTHERS
    assert slices[-1][1].sum() == 30 * 12


def test_few_images_make_no_slice() -> None:
    assert cut(["a"] * 95 + ["b"] * 5) == []
    assert find_slices(some(100, 0.9), {"c": ["a"] * 95 + ["b"] * 5}) == []
    assert find_slices(some(100, 0.9), {}) == []


def test_two_groups_on_a_side_cannot_tell_and_nobody_says_that_nothing_is_worse() -> None:
    groups = np.repeat(np.arange(10), 20)
    camera = np.where(groups < 2, "new", "old")
    correct = np.where(camera == "new", some(200, 0.3), some(200, 0.95, 1))
    found = {each.value: each for each in find_slices(correct, {"camera": camera.tolist()}, groups)}
    assert [(each.told, each.worse) for each in found.values()] == [(False, False)] * 2
    three = find_slices(correct, {"camera": np.where(groups < 3, "new", "old").tolist()}, groups)
    assert all(each.told for each in three)
    assert all(each.told for each in find_slices(correct, {"camera": camera.tolist()}))
    assert in_words([], 0, 2) == "2 cannot be told: fewer than 3 groups on a side."
    assert "No slice" not in in_words([], 3, 2)
    assert in_words(["camera new"], 3, 2).startswith("Significantly worse than the rest: camera new; 2 cannot")
    assert in_words([], 5, 0) == "No slice is significantly worse than the rest."


def test_slices_that_cannot_be_told_do_not_weaken_the_others() -> None:
    corrected = holm([0.01, float("nan"), 0.04, float("nan")])
    assert corrected[0] == pytest.approx(0.02)
    assert corrected[2] == pytest.approx(0.04)
    assert np.isnan([corrected[1], corrected[3]]).all()
