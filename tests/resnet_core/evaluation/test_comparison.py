"""Two classifiers on the same images: what is let in by chance, and what is not."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binom, norm
from sklearn.linear_model import LogisticRegression

from benchmarks.gate import rates
from resnet_core.evaluation.comparison import (
    Pair,
    below,
    compare,
    compare_slices,
    mcnemar,
    numbered,
    score,
    score_bound,
)
from resnet_core.evaluation.metrics import METRICS, accuracy

macro_f1, roc_auc = METRICS["macro_f1"], METRICS["roc_auc"]
Digits = tuple[np.ndarray, list[str]]
Answers = tuple[np.ndarray, np.ndarray, np.ndarray]


def outcomes(gained: int, lost: int, both: int, neither: int) -> Answers:
    """Labels and two classifiers' answers of which so many differ."""
    labels = np.arange(gained + lost + both + neither) % 2
    kinds = np.repeat([0, 1, 2, 3], [gained, lost, both, neither])
    new, old = (np.where(np.isin(kinds, right), labels, 1 - labels) for right in ((0, 2), (1, 2)))
    return labels, np.eye(2, dtype=np.float32)[new], np.eye(2, dtype=np.float32)[old]


@pytest.fixture(scope="module")
def answers(digits: Digits) -> dict[str, np.ndarray]:
    """Real classifiers of real digits: one has learned from 900 of them, one from 40, one from 30 others."""
    images, labels = digits[0].reshape(len(digits[0]), -1) / 255, np.array(digits[1])
    found = {"labels": labels[900:].astype(int)}
    for name, rows in {"many": slice(0, 900), "few": slice(0, 40), "fewer": slice(40, 70)}.items():
        trained = LogisticRegression(max_iter=200).fit(images[rows], labels[rows])
        assert len(trained.classes_) == 10
        found[name] = trained.predict_proba(images[900:]).astype(np.float32)
    return found


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_chance_lets_few_in_and_keeps_few_out(share: float) -> None:
    """The bounds of 1,000 nights, at 300 of them; `python -m benchmarks gate` has all."""
    equal, worse, better = (rates(difference, share, 300) for difference in (0.0, -0.03, 0.01))
    assert equal["better"] <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 300)
    assert worse["better"] == 0
    assert worse["not_worse"] <= 0.01
    assert 0.6 <= equal["not_worse"] < 0.97
    assert better["not_worse"] > 0.85
    assert better["better"] > 3 * equal["better"]


def test_images_of_one_group_are_one_piece_of_evidence() -> None:
    """Ten patients, each with fifty images that agree: the difference rests on ten, not on five hundred."""
    labels, new, old = outcomes(gained=300, lost=100, both=100, neither=0)
    groups = np.repeat(np.arange(10), 50)
    alone = compare(accuracy, Pair(labels, new, old), 0.95)
    together = compare(accuracy, Pair(labels, new, old, groups), 0.95)
    assert alone.value == together.value == pytest.approx(0.4)
    assert alone.better
    assert alone.p < 1e-6
    assert not together.better
    assert together.lower <= 0 < alone.lower
    assert together.p == pytest.approx(sum(binom.pmf(k, 8, 0.5) for k in (6, 7, 8)))
    once = compare(macro_f1, Pair(*(each[::50] for each in (labels, new, old))), 0.95)
    assert together.lower == pytest.approx(once.lower, abs=0.15)


def test_better_and_not_worse_on_real_answers(answers: dict[str, np.ndarray]) -> None:
    labels = answers["labels"]
    for metric in (accuracy, macro_f1, roc_auc):
        up = compare(metric, Pair(labels, answers["many"], answers["few"]), 0.95)
        down = compare(metric, Pair(labels, answers["few"], answers["many"]), 0.95)
        assert up.better
        assert up.not_worse(0.0)
        assert up.p < 0.01
        assert not down.better
        assert not down.not_worse(0.01)
        assert down.value == pytest.approx(-up.value)
        assert (down.gained, down.lost) == (up.lost, up.gained)
        same = compare(metric, Pair(labels, answers["few"], answers["few"]), 0.95)
        assert (same.value, same.gained, same.lost) == (0, 0, 0)
        assert not same.better
        assert same.not_worse(0.01)


def test_the_bootstrap_and_the_score_test_agree_on_many_images() -> None:
    labels, new, old = outcomes(gained=90, lost=110, both=1600, neither=200)
    exact = compare(accuracy, Pair(labels, new, old), 0.95)
    each_its_own = np.arange(len(labels))
    drawn = compare(accuracy, Pair(labels, new, old, each_its_own), 0.95)
    assert drawn.lower == pytest.approx(exact.lower, abs=0.001)
    assert exact.lower < exact.value < 0


@pytest.mark.parametrize(("gained", "lost", "images"), [(12, 7, 200), (0, 9, 50), (5, 0, 30), (300, 280, 2000)])
@pytest.mark.parametrize("difference", [-0.2, -0.01, 0.0, 0.05])
def test_the_score_is_that_of_the_likeliest_shares(gained: int, lost: int, images: int, difference: float) -> None:
    """Against the constrained likelihood, maximised by brute force."""

    def against(share: float) -> float:  # lost images' share; that of gained ones is higher by the difference
        shares = np.array([share + difference, share, 1 - 2 * share - difference])
        counts = np.array([gained, lost, images - gained - lost])
        return -float(np.sum(counts * np.log(np.maximum(shares, 1e-300))))

    low, high = max(0.0, -difference), (1 - difference) / 2
    share = minimize_scalar(against, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    variance = images * (2 * share + difference - difference**2)
    expected = (gained - lost - images * difference) / np.sqrt(variance)
    assert score(gained, lost, images, difference) == pytest.approx(expected, abs=2e-3)
    bound = score_bound(gained, lost, images, 0.9)
    assert score(gained, lost, images, bound) == pytest.approx(norm.ppf(0.9), abs=1e-6)


def test_mcnemar_counts_coins() -> None:
    assert mcnemar(9, 1) == pytest.approx(binom.sf(8, 10, 0.5))
    assert mcnemar(1, 9) == pytest.approx(binom.sf(0, 10, 0.5))
    assert mcnemar(0, 0) == 1


def test_a_handful_of_images_shows_nothing() -> None:
    """Three gained and none lost is a coin that fell three times on one side."""
    labels, new, old = outcomes(gained=3, lost=0, both=20, neither=0)
    assert not compare(accuracy, Pair(labels, new, old), 0.95).better
    labels, new, old = outcomes(gained=5, lost=0, both=20, neither=0)
    assert compare(accuracy, Pair(labels, new, old), 0.95).better


def test_the_slice_that_got_worse_is_found_and_no_other() -> None:
    labels, new, old = (np.tile(each, (4, 1))[:2000] if each.ndim > 1 else np.tile(each, 4)[:2000]
                        for each in outcomes(25, 25, 400, 50))  # fmt: skip
    slices = {f"camera {k}": np.arange(2000) % 20 == k for k in range(20)}
    assert all(found.p > 0.05 for found in compare_slices(slices, Pair(labels, new, old), 0.0))
    broken = slices["camera 7"] & (old.argmax(1) == labels) & (np.arange(2000) % 3 == 0)
    new[broken] = 1 - new[broken]
    found = {each.name: each for each in compare_slices(slices, Pair(labels, new, old), 0.05)}
    assert found["camera 7"].value < -0.2
    assert [name for name, each in found.items() if each.p <= 0.05] == ["camera 7"]
    assert found["camera 7"].images == 100
    lenient = compare_slices(slices, Pair(labels, new, old), 0.4)
    assert all(each.p > 0.05 for each in lenient)
    groups = np.arange(2000) // 2
    assert all(each.p > 0.05 for each in compare_slices(slices, Pair(labels, new, old, groups), 0.4))
    grouped = {each.name: each.p for each in compare_slices(slices, Pair(labels, new, old, groups), 0.05)}
    assert [name for name, p in grouped.items() if p <= 0.05] == ["camera 7"]
    whole = np.where(slices["camera 7"], 0, groups + 1)  # all from one part: one piece of evidence
    alone = compare_slices(slices, Pair(labels, new, old, np.unique(whole, return_inverse=True)[1]), 0.05)
    assert [each.name for each in alone if np.isnan(each.p)] == ["camera 7"]
    assert all(each.p > 0.05 for each in alone if each.name != "camera 7")


def test_of_forty_slices_of_an_equal_challenger_none_is_worse() -> None:
    """One by one, some would be by chance."""
    random = np.random.default_rng(4)
    labels, new, old = outcomes(gained=200, lost=200, both=1600, neither=0)
    camera = random.integers(0, 40, len(labels))
    slices = {str(k): camera == k for k in range(40)}
    gained, lost = ((one.argmax(1) == labels) & (two.argmax(1) != labels) for one, two in ((new, old), (old, new)))
    alone = [mcnemar(int(lost[rows].sum()), int(gained[rows].sum())) for rows in slices.values()]
    assert min(alone) < 0.05
    assert all(found.p > 0.05 for found in compare_slices(slices, Pair(labels, new, old), 0.0))


def test_below_the_floor_is_shown_not_guessed(answers: dict[str, np.ndarray]) -> None:
    labels, few = answers["labels"], answers["few"]
    value = accuracy(labels, few)
    right = int((few.argmax(1) == labels).sum())
    assert below(accuracy, labels, few, value + 0.05) < 0.01
    assert below(accuracy, labels, few, value + 0.005) > 0.1
    assert below(accuracy, labels, few, value + 0.05) == pytest.approx(binom.cdf(right, len(labels), value + 0.05))
    score_f1 = macro_f1(labels, few)
    assert below(macro_f1, labels, few, score_f1 + 0.08) < 0.01
    assert below(macro_f1, labels, few, score_f1 - 0.08) > 0.99
    assert below(accuracy, labels[:30], few[:30], accuracy(labels[:30], few[:30]) + 0.05) > 0.05


def test_groups_are_numbered_and_lone_images_stay_alone() -> None:
    numbers = numbered(["a", None, "b", "a", None])
    assert numbers is not None
    assert numbers[0] == numbers[3]
    assert len(set(numbers.tolist())) == 4
    assert max(numbers) == 3
    assert numbered([None, None, None]) is None
    assert numbered(["a", "b", "c"]) is None
    assert numbered(["a", "a", "a"]) is None


def test_swaps_of_the_answers_are_mcnemars_test_for_any_metric() -> None:
    labels, new, old = outcomes(gained=20, lost=8, both=60, neither=12)
    exact = compare(accuracy, Pair(labels, new, old), 0.95)
    for name in ("balanced_accuracy", "macro_f1", "roc_auc"):
        assert compare(METRICS[name], Pair(labels, new, old), 0.95).p == pytest.approx(exact.p, abs=0.02)


def test_a_part_of_a_pair_keeps_its_groups() -> None:
    labels, new, old = outcomes(gained=30, lost=0, both=30, neither=0)
    rows = np.arange(60) % 2 == 0
    part = Pair(labels, new, old, np.repeat(np.arange(12), 5)).only(rows)
    assert len(part.labels) == 30
    assert part.groups is not None
    assert part.groups.max() == 11
    assert part.changed()[0].sum() == 15
