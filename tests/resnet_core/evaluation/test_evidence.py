"""Evidence. An answer that does not look at the image is never enough, and a few groups say what they can."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from resnet_core.evaluation.comparison import Pair
from resnet_core.evaluation.evidence import against_constant, gather, in_words, told_by, told_from, usable
from resnet_core.evaluation.metrics import Labels, Scores, measure


def sure(decided: np.ndarray, classes: int = 2) -> Scores:
    return np.eye(classes, dtype=np.float32)[decided]


def rare(count: int = 100, share: float = 0.05) -> Labels:
    """Labels of which the first `share` are of class 1."""
    return (np.arange(count) < count * share).astype(np.int64)


@pytest.mark.parametrize("answer", [0, 1])
@pytest.mark.parametrize("group", [None, 1, 5])
def test_one_label_for_every_image_is_never_enough(answer: int, group: int | None) -> None:
    """95% of the answers are right, and nothing was learned."""
    groups = None if group is None else np.arange(100) // group
    found = against_constant(rare(), sure(np.full(100, answer)), groups)
    assert (found.value, found.constant, found.passed) == (0.5, 0.5, False)
    assert found.p == 1


def test_chance_is_not_enough_and_a_little_more_is() -> None:
    passed = {"chance": 0, "better": 0}
    for seed in range(100):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 3, 300)
        answers = {"chance": rng.integers(0, 3, 300), "better": np.where(rng.random(300) < 0.3, labels, 0)}
        for name, decided in answers.items():
            passed[name] += against_constant(labels, sure(decided, 3)).passed
    assert passed == {"chance": pytest.approx(0, abs=2), "better": 100}


def test_few_images_of_a_class_that_are_all_found_are_enough() -> None:
    """5 of 100 by chance: 1 in 75 million."""
    labels = rare()
    assert against_constant(labels, sure(labels)).passed
    some = labels.copy()
    some[3:5] = 0  # three of five found, no false alarm
    assert against_constant(labels, sure(some)).passed


def test_one_group_shows_nothing_however_many_images_it_has() -> None:
    labels = rare(400, 0.5)
    assert not against_constant(labels, sure(labels), np.zeros(400, np.int64)).passed
    alone = np.where(labels == 1, 0, 1 + np.arange(400) % 40)  # the defects come from one part
    assert not against_constant(labels, sure(labels), alone).passed
    mixed = np.where(labels == 1, 0, np.arange(400) % 40)
    assert against_constant(labels, sure(labels), mixed).p == 0.5


def test_five_groups_are_enough_if_every_one_is_won() -> None:
    labels, groups = np.tile(rare(20, 0.25), 5), np.repeat(np.arange(5), 20)
    found = against_constant(labels, sure(labels), groups)
    assert (found.p, found.passed) == (1 / 32, True)
    wrong = labels.copy()
    wrong[:20] = 0  # every defect of one group is missed
    found = against_constant(labels, sure(wrong), groups)
    assert (found.p, found.passed) == (1 / 16, False)


@pytest.mark.parametrize(("sick", "well", "passed"), [(3, 2, False), (3, 3, True), (2, 4, False), (6, 6, True)])
def test_groups_of_one_label_are_dealt_the_labels_at_random(sick: int, well: int, passed: bool) -> None:
    """Of 6 patients, 3 can be chosen in 20 ways. For 3 of 5 it is 10, for 2 of 6 15. More than 1 in 20 is not shown."""
    sizes = np.arange(4, 4 + sick + well)
    groups = np.repeat(np.arange(sick + well), sizes)
    labels = (groups < sick).astype(np.int64)
    found = against_constant(labels, sure(labels), groups)
    assert found.passed == passed
    assert found.p == pytest.approx(1 / math.comb(sick + well, sick), abs=0.03)
    wrong = np.where(groups < 2, 0, labels)  # two patients taken for well
    assert not against_constant(labels, sure(wrong), groups).passed or sick > 3


def test_classes_without_an_image_are_named_and_the_part_without_look_alikes_needs_them_all() -> None:
    labels = np.arange(60) % 3

    def weighed(rows: np.ndarray, groups: np.ndarray | None = None) -> object:
        scores = sure(labels[rows], 4)
        return gather(labels[rows], scores, measure(labels[rows], scores, "abcd", groups), groups)

    every = weighed(np.arange(60))
    assert every.missing == ["d"]  # type: ignore[attr-defined]
    assert every.supports == {"a": 20, "b": 20, "c": 20, "d": 0}  # type: ignore[attr-defined]
    for rows, enough in ((np.arange(20), True), (np.arange(19), False), (np.flatnonzero(labels < 2), False)):
        assert usable(weighed(rows), every, 20) == enough  # type: ignore[arg-type]
    assert not usable(every, every, 20)  # type: ignore[arg-type]
    assert not usable(None, every, 20)  # type: ignore[arg-type]
    four = weighed(np.arange(20), np.arange(20) // 5)
    assert not usable(four, every, 20)  # type: ignore[arg-type]


def test_what_cannot_be_told_is_said_by_its_number() -> None:
    assert in_words(told_from(120, 0.15), 120) == "with 120 images, differences under 9 points cannot be told"
    assert in_words(told_from(20_000, 0.1), 20_000) == "with 20,000 images, differences under 0.6 points cannot be told"
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 1000)
    old = np.where(rng.random(1000) < 0.1, 1 - labels, labels)
    new = np.where(rng.random(1000) < 0.1, 1 - labels, labels)
    pair = Pair(labels, sure(new), sure(old))
    share = (new != old).mean()
    assert told_by(pair) == pytest.approx((norm.ppf(0.95) + norm.ppf(0.8)) * math.sqrt(share / 1000))
    grouped = Pair(
        np.repeat(labels, 4), sure(np.repeat(new, 4)), sure(np.repeat(old, 4)), np.repeat(np.arange(1000), 4)
    )
    assert told_by(grouped) == pytest.approx(told_by(pair))
