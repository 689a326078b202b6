"""Intervals: as wide as they should be, and as wide as groups make them."""

import numpy as np
import pytest

from resnet_core.evaluation.bootstrap import RESAMPLES, Interval, draw, ends, means, ratios
from resnet_core.evaluation.metrics import GATE_METRICS, METRICS, measure
from tests.resnet_core.evaluation.test_metrics import predictions


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("classes", [2, 4])
def test_a_metric_of_a_resample_is_that_of_its_rows(name: str, classes: int) -> None:
    """What counts say by products of matrices, rows that are drawn say one by one."""
    labels, shares = predictions(classes, 60)
    shares = np.round(shares, 1)  # with ties
    shares /= shares.sum(1, keepdims=True)
    counts = next(draw(60, seed=3))[:50]
    found = METRICS[name].resampled(labels, shares, counts)
    for row, value in zip(counts.astype(int), found, strict=True):
        rows = np.repeat(np.arange(60), row)
        assert value == pytest.approx(METRICS[name](labels[rows], shares[rows]), abs=1e-9)


def test_every_resample_has_as_many_images_and_groups_stay_whole() -> None:
    groups = np.repeat(np.arange(30), 5)
    for counts in (np.concatenate(list(draw(150))), np.concatenate(list(draw(150, groups)))):
        assert counts.shape == (RESAMPLES, 150)
        assert (counts.sum(1) == 150).all()
        assert abs(counts.mean() - 1) < 1e-9
    by_group = np.concatenate(list(draw(150, groups))).reshape(RESAMPLES, 30, 5)
    assert (by_group == by_group[:, :, :1]).all()


def test_the_interval_of_a_mean_is_the_textbooks() -> None:
    values = np.random.default_rng(0).normal(3, 2, 900)
    (found,) = means(values[:, None])
    error = values.std() / 30
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((found.value - 1.96 * error, found.value + 1.96 * error), abs=0.02)


def test_groups_that_are_alike_widen_the_interval_by_the_root_of_their_size() -> None:
    """100 groups of 9 equal images say as much as 100 images."""
    values = np.repeat(np.random.default_rng(0).normal(size=100), 9)[:, None]
    (alone,), (grouped,) = means(values), means(values, np.repeat(np.arange(100), 9))
    assert (grouped.high - grouped.low) / (alone.high - alone.low) == pytest.approx(3, rel=0.1)


def test_groups_widen_the_metrics_too() -> None:
    labels, shares = predictions(3, 100)
    groups, many = np.repeat(np.arange(100), 9), (np.repeat(labels, 9), np.repeat(shares, 9, axis=0))
    once = measure(labels, shares, "abc")
    grouped = measure(*many, "abc", groups)
    for name, interval in once.overall.items():
        assert grouped.overall[name].value == pytest.approx(interval.value)
        assert grouped.overall[name].high - grouped.overall[name].low == pytest.approx(
            interval.high - interval.low, rel=0.15
        )
    recall = measure(*many, "abc").per_class["b"].recall
    wide = grouped.per_class["b"].recall
    assert wide.high - wide.low > 2 * (recall.high - recall.low)


def test_a_ratio_is_of_sums_and_unknown_where_there_is_nothing_below() -> None:
    hits, tries = np.array([[1.0, 0], [0, 0], [1, 0]]), np.array([[1.0, 0], [1, 0], [1, 0]])
    first, second = ratios(hits, tries)
    assert first.value == pytest.approx(2 / 3)
    assert np.isnan([second.value, second.low, second.high]).all()
    assert np.isnan(ends(float("nan"), np.ones(3)).low)


def test_ten_images_that_are_all_right_are_not_certainty() -> None:
    """Clopper and Pearson: 0.025 to the power 1/10 is 0.692. To the power 1/5, of five images a class, it is 0.478."""
    labels = np.repeat([0, 1], 5)
    found = measure(labels, np.eye(2, dtype=np.float32)[labels], "ab")
    low = {name: found.overall[name].low for name in GATE_METRICS}
    assert low == pytest.approx(dict.fromkeys(GATE_METRICS, 0.692) | {"roc_auc": 0.478}, abs=1e-3)
    assert found.per_class["a"].recall.low == pytest.approx(0.478, abs=1e-3)
    assert {interval.high for name, interval in found.overall.items() if name in GATE_METRICS} == {1.0}
    wrong = measure(labels, np.eye(2, dtype=np.float32)[1 - labels], "ab").overall["accuracy"]
    assert (wrong.low, wrong.high) == pytest.approx((0, 0.308), abs=1e-3)
    rare = np.array([0] * 38 + [1] * 2)  # means over classes are no surer than the smallest class
    found = measure(rare, np.eye(2, dtype=np.float32)[rare], "ab")
    assert found.overall["accuracy"].low == pytest.approx(0.912, abs=1e-3)
    assert found.overall["macro_f1"].low == pytest.approx(0.025 ** (1 / 4), abs=1e-3)


def test_groups_stand_for_their_images_where_nothing_is_wrong_and_four_make_no_interval() -> None:
    labels = np.tile([0, 1], 300)
    shares = np.eye(2, dtype=np.float32)[labels]
    assert measure(labels, shares, "ab", np.arange(600) // 100).overall["accuracy"].low == pytest.approx(
        0.541, abs=1e-3
    )
    for count in (1, 4):
        few = measure(labels, shares, "ab", np.arange(600) % count)
        intervals = [*few.overall.values(), few.per_class["a"].recall]
        assert all(np.isnan([each.low, each.high]).all() for each in intervals)
        assert str(few.overall["accuracy"]) == "1.000"
    pure = measure(labels, shares, "ab", np.where(labels, np.arange(600) % 40, 40))  # one group has all of a
    assert np.isnan(pure.per_class["a"].recall.low)
    assert not np.isnan(pure.per_class["b"].recall.low)
    assert str(Interval(0.5, 0.4, 0.6)) == "0.500 (0.400 to 0.600)"
