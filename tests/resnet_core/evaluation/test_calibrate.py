"""Calibration on predictions whose truth is known: temperatures, sets, decisions."""

from pathlib import Path

import numpy as np
import pytest

from resnet_core.errors import UserError
from resnet_core.evaluation.assess import HeldOut, assess
from resnet_core.evaluation.calibrate import (
    CROSSWISE,
    VALIDATION,
    Requirements,
    find_calibrations,
    find_temperature,
    fit,
    halves,
    helps,
)
from resnet_core.evaluation.decide import class_costs, class_recalls, find_weights, paid, smallest_that_holds, threshold
from resnet_core.evaluation.metrics import METRICS, Labels, Probabilities, nll
from resnet_core.model.calibration import Calibration, in_words, load_calibration


def true_and_said(
    count: int, classes: int = 3, temperature: float = 1.0, seed: int = 0
) -> tuple[Labels, Probabilities]:
    """Labels drawn from probabilities, and those probabilities as a model says them that errs. It is too sure of itself
    (a temperature below 1) or not sure enough.
    """
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (count, classes))
    true = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (true.cumsum(1) < rng.random((count, 1))).sum(1).clip(max=classes - 1)
    said = np.exp(logits / temperature)
    return labels, (said / said.sum(1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("wrong", [0.4, 1.0, 2.5])
def test_the_temperature_undoes_what_is_wrong(wrong: float) -> None:
    labels, said = true_and_said(20_000, temperature=wrong)
    found = Calibration(find_temperature(labels, said))
    assert found.temperature == pytest.approx(1 / wrong, rel=0.06)
    after = found.calibrated(said)
    assert METRICS["calibration_error"](labels, after) < 0.012
    assert nll(labels, after) <= nll(labels, said)
    assert (after.argmax(1) == said.argmax(1)).all()
    np.testing.assert_allclose(after.sum(1), 1, atol=1e-6)


def test_few_images_that_are_all_right_do_not_make_a_model_that_is_never_in_doubt() -> None:
    said = np.tile(np.array([[0.9, 0.1]], np.float32), (10, 1))
    found = find_temperature(np.zeros(10, np.int64), said)
    assert 0.2 < found < 1
    assert find_temperature(np.zeros(0, np.int64), said[:0]) == 1


def test_probabilities_of_zero_and_one_survive() -> None:
    sure = np.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]], np.float32)
    for temperature in (0.05, 3.0):
        found = Calibration(temperature).calibrated(sure)
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
    assert Calibration().calibrated(sure) is sure


@pytest.mark.parametrize("coverage", [0.8, 0.95])
def test_sets_hold_the_true_class_as_often_as_promised(coverage: float) -> None:
    """Over draws of the images it was found on and of those it is used on. They may be few, and the model much too sure
    of itself.
    """
    held = []
    for seed in range(300):
        labels, said = true_and_said(60 + 40, temperature=0.3, seed=seed)
        found = fit(labels[:60], said[:60], Requirements(coverage=coverage), VALIDATION)
        sets = found.sets(found.calibrated(said[60:]))
        assert sets is not None
        assert sets.any(1).all()
        held.append(sets[np.arange(40), labels[60:]].mean())
    # The mean over draws is at least the promise, and not far above it.
    assert coverage - 0.01 < np.mean(held) < coverage + 0.03


def test_too_few_images_to_promise_anything_put_every_class_into_the_set() -> None:
    labels, said = true_and_said(18)
    assert threshold(labels, said, 0.95) == 1.0
    sets = Calibration(coverage=0.95, threshold=1.0).sets(said)
    assert sets is not None
    assert sets.all()
    assert threshold(*true_and_said(19), 0.95) < 1.0  # the largest of 19 holds for 19 of 20


def test_the_place_of_the_quantile() -> None:
    scores = np.arange(1.0, 100.0)
    assert smallest_that_holds(scores, 0.9, np.inf) == 90
    assert smallest_that_holds(scores, 0.901, np.inf) == 91
    assert smallest_that_holds(scores, 0.995, np.inf) == np.inf


def test_a_set_has_the_most_probable_class_and_those_at_the_threshold() -> None:
    shares = np.array([[0.4, 0.35, 0.25], [0.9, 0.06, 0.04], [0.34, 0.33, 0.33]], np.float32)
    sets = Calibration(coverage=0.9, threshold=0.65).sets(shares)
    assert sets is not None
    assert sets.tolist() == [[True, True, False], [True, False, False], [True, False, False]]
    assert Calibration().sets(shares) is None


def test_costs_move_the_decision_to_where_it_is_cheapest() -> None:
    labels, said = true_and_said(6000, classes=2, seed=1)
    costs = class_costs({"missed_b": 10, "false_alarm": 1}, ("a", "b"))
    assert costs is not None
    weights = find_weights(labels[:3000], said[:3000], costs, {})
    found = Calibration(weights=weights)
    assert weights[0] / sum(weights) == pytest.approx(1 / 11, abs=0.05)  # Elkan 2001, for true probabilities
    new, shares = labels[3000:], said[3000:]

    def cost(threshold: float) -> float:
        return float(paid(new, (shares[:, 1] >= threshold).astype(np.int64), costs).mean())

    ours = float(paid(new, found.decided(shares), costs).mean())
    assert ours < 0.6 * cost(0.5)
    assert ours < 1.1 * min(cost(t) for t in np.linspace(0.01, 0.99, 99))


def test_where_labelled_images_do_not_tell_the_costs_do() -> None:
    said = np.array([[0.99, 0.01], [0.01, 0.99]], np.float32)
    weights = find_weights(np.array([0, 1]), said, np.array([1.0, 10.0]), {})
    assert weights[0] / sum(weights) == pytest.approx(1 / 11)
    assert find_weights(np.zeros(0, np.int64), said[:0], np.array([1.0, 10.0]), {}) == pytest.approx((0.1, 1))


def test_costs_make_up_for_probabilities_that_are_wrong() -> None:
    """A threshold that labelled images chose does not rely on what the probabilities claim to be."""
    labels, said = true_and_said(8000, classes=2, temperature=0.3)
    costs = np.array([1.0, 10.0])
    decided = Calibration(weights=find_weights(labels[:4000], said[:4000], costs, {})).decided(said[4000:])
    by_claim = Calibration(weights=(1.0, 10.0)).decided(said[4000:])
    assert paid(labels[4000:], decided, costs).mean() < 0.9 * paid(labels[4000:], by_claim, costs).mean()


def test_costs_of_many_classes_are_weights() -> None:
    labels, said = true_and_said(4000, classes=4, seed=2)
    costs = class_costs({"missed_c": 8}, "abcd")
    assert costs is not None
    assert costs.tolist() == [1, 1, 8, 1]
    decided = Calibration(weights=find_weights(labels, said, costs, {})).decided(said)
    assert paid(labels, decided, costs).mean() < 0.8 * paid(labels, said.argmax(1), costs).mean()


@pytest.mark.parametrize("classes", [2, 5])
def test_a_wanted_recall_is_reached_on_average_and_no_more_is_given_for_it(classes: int) -> None:
    names = "abcde"[:classes]
    recalls = class_recalls({"b": 0.9}, names)
    found = []
    for seed in range(60):
        labels, said = true_and_said(800, classes, seed=seed)
        decided = Calibration(weights=find_weights(labels[:400], said[:400], None, recalls)).decided(said[400:])
        found.append((decided[labels[400:] == 1] == 1).mean())
    assert 0.89 < np.mean(found) < 0.93


def test_a_recall_that_is_there_already_changes_nothing() -> None:
    labels, said = true_and_said(2000)
    assert find_weights(labels, said, None, {1: 0.1}) == (1.0, 1.0, 1.0)


def test_two_recalls_that_cannot_both_be_had_end() -> None:
    labels, said = true_and_said(500, classes=2)
    weights = find_weights(labels, said, None, {0: 0.99, 1: 0.99})
    assert np.isfinite(weights).all()
    assert min(weights) > 0


@pytest.mark.parametrize(
    ("costs", "message"),
    [
        ({"missed_defectiv": 2}, "evaluate.costs.missed_defectiv: unknown class. Did you mean 'missed_def"),
        (
            {"false_alarm": 2},
            "evaluate.costs: the cost of a missed class is missing. Add one of missed_defective, missed_fine",
        ),
        ({"missed_defective": 2, "missed_fine": 1, "false_alarm": 3}, "evaluate.costs.false_alarm: every missed class"),
    ],
)
def test_costs_that_cannot_be_meant_are_the_users_error(costs: dict[str, float], message: str) -> None:
    with pytest.raises(UserError) as caught:
        class_costs(costs, ("defective", "fine"))
    assert message in str(caught.value)


def test_a_recall_of_no_class_is_the_users_error() -> None:
    with pytest.raises(UserError, match=r"evaluate\.recall\.fin: unknown class. Did you mean 'fine'"):
        class_recalls({"fin": 0.9}, ("defective", "fine"))


def test_halves_are_halves_and_groups_stay_whole() -> None:
    assert halves(101, None, 0).sum() == 50
    groups = np.repeat(np.arange(20), 5)
    first = halves(100, groups, 0).reshape(20, 5)
    assert (first == first[:, :1]).all()
    assert first[:, 0].sum() == 10
    assert halves(10, np.zeros(10, np.int64), 0).sum() == 5  # one group: better than nothing


def test_no_image_is_judged_by_what_it_has_taught() -> None:
    labels, said = true_and_said(200)
    groups = np.repeat(np.arange(40), 5)
    wanted = Requirements(coverage=0.9)
    _, parts = find_calibrations(labels, said, None, wanted, groups)
    assert (parts[0].rows != parts[1].rows).all()
    for part in parts:
        taught = np.flatnonzero(~part.rows)
        assert not set(groups[part.rows]) & set(groups[taught])
        np.testing.assert_array_equal(part.labels, labels[taught])
        heated = helps(labels, said, groups)
        assert part.calibration == fit(labels[taught], said[taught], wanted, CROSSWISE, heated)
    kept, (only,) = find_calibrations(labels, said, true_and_said(300, seed=9), wanted, groups)
    assert only.rows.all()
    assert (only.calibration, kept.fitted_on, kept.images) == (kept, "validation", 300)


def test_what_is_reported_is_of_calibrations_that_have_not_seen_the_image() -> None:
    labels, said = true_and_said(400, classes=4, temperature=0.4)
    wanted = Requirements(np.array([1.0, 5.0, 1.0, 1.0]), {0: 0.8}, 0.8)
    found = assess(HeldOut(labels, said, None, {}), None, wanted, "abcd")
    assert found.coverage is not None
    assert found.decisions is not None
    assert found.unseen.sets is not None
    assert found.outputs.sets is not None
    held = found.unseen.sets[np.arange(400), labels].mean()
    assert found.coverage.found.value == pytest.approx(held)
    assert held != found.outputs.sets[np.arange(400), labels].mean()
    assert found.metrics.overall["nll"].value == pytest.approx(nll(labels, found.unseen.probabilities))
    assert found.metrics.overall["nll"].value > nll(labels, found.outputs.probabilities)
    assert found.decisions.accuracy.value == pytest.approx((found.unseen.decided == labels).mean())
    np.testing.assert_array_equal(found.outputs.probabilities, found.calibration.calibrated(said))


def test_what_was_fitted_by_chance_does_not_flatter() -> None:
    """Labels that have nothing to do with the probabilities: the sets must be as large as it takes."""
    labels = np.random.default_rng(0).integers(0, 2, 400)
    _, said = true_and_said(400, classes=2, temperature=0.2)
    found = assess(HeldOut(labels, said, None, {}), None, Requirements(coverage=0.9), "ab")
    assert found.coverage is not None
    assert found.coverage.found.value == pytest.approx(0.9, abs=0.05)
    assert found.coverage.mean_size > 1.7
    assert found.metrics.overall["nll"].value < found.uncalibrated["nll"].value
    assert found.calibration.temperature > 5


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    labels, said = true_and_said(300)
    found = fit(labels, said, Requirements(np.array([1.0, 3.0, 1.0]), {0: 0.8}, 0.9), VALIDATION)
    found.save(tmp_path)
    assert load_calibration(tmp_path) == found
    assert load_calibration(tmp_path / "none") == Calibration()


def test_a_temperature_that_does_not_help_on_the_other_half_is_not_used() -> None:
    """Right as it is, a network gains nothing by a temperature; of fewer than 200 images none is found."""
    used = {"right": 0, "too sure": 0}
    for seed in range(12):
        for name, temperature in (("right", 1.0), ("too sure", 0.4)):
            labels, said = true_and_said(400, temperature=temperature, seed=seed)
            kept, parts = find_calibrations(labels, said, None, Requirements())
            assert (kept.temperature == 1) == all(part.calibration.temperature == 1 for part in parts)
            used[name] += kept.temperature != 1
    assert used["too sure"] == 12
    assert used["right"] <= 8
    labels, said = true_and_said(199, temperature=0.4)
    assert find_calibrations(labels, said, None, Requirements())[0].temperature == 1
    assert find_calibrations(labels, said, (labels, said), Requirements())[0].temperature == 1
    assert in_words(1.0, 199) == "no temperature: 199 images are too few to find one (200)"
    assert in_words(1.0, 400) == "no temperature: it does not help on the other half of the images"
    assert in_words(1.234, 400) == "temperature 1.23"


def test_what_is_measured_is_what_a_batch_decides() -> None:
    labels, said = true_and_said(600, temperature=0.6)
    found = assess(HeldOut(labels, said, None, {"half": (np.arange(600) % 2).tolist()}), None,
                   Requirements(recalls={0: 0.97}), "abc")  # fmt: skip
    decided = found.unseen.decided
    assert (decided != found.unseen.probabilities.argmax(1)).any()
    assert found.metrics.overall["accuracy"].value == pytest.approx((decided == labels).mean())
    assert found.metrics.confusion[0].tolist() == np.bincount(decided[labels == 0], minlength=3).tolist()
    assert found.metrics.per_class["a"].recall.value > 0.9
    assert found.evidence.recalls["a"] == found.metrics.per_class["a"].recall
    assert found.decisions is not None
    assert found.decisions.classes["a"].recall == found.metrics.per_class["a"].recall
    assert [each.accuracy.value for each in found.slices] == pytest.approx(
        [(decided == labels)[half::2].mean() for half in (0, 1)]
    )


def test_the_leak_is_measured() -> None:
    """Images that look like a training image are right; of the others, half are."""
    labels, alike = np.arange(200) % 2, np.arange(200) < 80
    said = np.where(alike | (np.arange(200) % 4 < 2), labels, 1 - labels)
    shares = np.eye(2, dtype=np.float32)[said] * 0.8 + 0.1
    found = assess(HeldOut(labels, shares, None, {}, alike), None, Requirements(), "ab")
    assert found.unlike is not None
    assert (found.look_alikes, found.unlike.images) == (80, 120)
    assert found.unlike.metrics["accuracy"].value == pytest.approx(0.5)
    assert found.evidence.metrics["accuracy"].value == pytest.approx(0.7)
    assert found.unlike.supports == {"a": 60, "b": 60}
    every = assess(HeldOut(labels, shares, None, {}, np.ones(200, bool)), None, Requirements(), "ab")
    assert (every.look_alikes, every.unlike) == (200, None)
    unknown = assess(HeldOut(labels, shares, None, {}), None, Requirements(), "ab")
    assert (unknown.look_alikes, unknown.unlike) == (None, None)
