"""The rules: what is chosen for which images, and that numbers of the file are taken."""

from typing import Any

import pytest

from tasks.defaults.rules import Choice, Facts, are_directed, choose, choose_size


def facts(images: int, smallest: int | None = None, size: int = 96, classes: int = 2) -> Facts:
    rest = images - (smallest or images // classes)
    largest = rest // (classes - 1)
    return Facts(images, classes, smallest or images // classes, largest, size, "horizontal", "learned")


def chosen(of: Facts, rate: float = 1000.0, **given: Any) -> Choice:
    return choose(of, {key.replace("__", "."): value for key, value in given.items()}, lambda width, batch: rate)


@pytest.mark.parametrize(
    ("images", "side", "size"),
    [(200, 5, 16), (200, 8, 16), (200, 16, 16), (70_000, 28, 28), (200, 40, 40), (200, 50, 48), (200, 140, 136),
     (200, 300, 160), (200, 4000, 160), (60_000, 300, 96)],
)  # fmt: skip
def test_the_size_is_that_of_the_files_up_to_a_limit(images: int, side: int, size: int) -> None:
    assert choose_size(images, side)[0] == size


def test_few_images_get_a_narrow_network_and_many_epochs() -> None:
    few, many = chosen(facts(225, 22)).values, chosen(facts(60_000, size=28, classes=10)).values
    assert few["model.width"] == 16
    assert many["model.width"] > few["model.width"]
    assert few["train.epochs"] > many["train.epochs"] >= 5
    assert few["train.batch_size"] < many["train.batch_size"] == 128


def test_numbers_of_the_file_are_taken_and_the_others_suit_them() -> None:
    found = chosen(facts(1200), train__epochs=7, model__width=32, train__batch_size=100)
    assert not {"train.epochs", "model.width", "train.batch_size"} & found.values.keys()
    assert found.reasons["train.ema_decay"] == "of 84 steps"


def test_minutes_are_turned_into_epochs_by_the_rate() -> None:
    # 20 minutes at 10 images/s are 12,000 images: 10 epochs of 1,200.
    assert chosen(facts(1200), rate=10.0, train__minutes=20).values["train.epochs"] == 10
    assert chosen(facts(1200), rate=0.1, train__minutes=1).values["train.epochs"] == 1


def test_a_slow_device_trains_for_half_an_hour_at_most() -> None:
    # 30 minutes at 5 images/s are 9,000 images: 7 epochs of 1,200.
    found = chosen(facts(1200), rate=5.0)
    assert found.values["train.epochs"] == 7
    assert "30 minutes at 5 images/s" in found.reasons["train.epochs"]


def test_a_wide_network_needs_time_for_ten_epochs() -> None:
    # 60,000 images: ten epochs in half an hour need 334 images/s; the widths of 32 and 64 do less.
    rates = {64: 100.0, 32: 300.0, 16: 1000.0}
    of = facts(60_000, size=28, classes=10)
    slow = choose(of, {}, lambda width, batch: rates[width])
    assert slow.values["model.width"] == 16
    assert "wider ones have no time" in slow.reasons["model.width"]
    assert choose(of, {}, lambda width, batch: 4 * rates[width]).values["model.width"] == 64
    assert choose(of, {"train.epochs": 3}, lambda width, batch: 0.0).values["model.width"] == 64


def test_rare_classes_are_corrected_for_unless_the_file_balances_them() -> None:
    assert chosen(facts(225, 22)).values["train.logit_adjustment"] == 0.5
    assert chosen(facts(225, 100)).values["train.logit_adjustment"] == 0
    for given in ({"train__class_weights": "balanced"}, {"train__sampling": "balanced"}):
        found = chosen(facts(225, 22), **given).values
        assert (found["train.logit_adjustment"], found.get("train.sampling", "natural")) == (0, "natural")


def test_small_images_are_shifted_by_a_pixel() -> None:
    assert chosen(facts(1000, size=8)).values["train.augment.shift"] == 0.125
    assert chosen(facts(1000, size=96)).values["train.augment.shift"] == 0.06


def test_every_value_has_a_reason_and_both_are_printed() -> None:
    found = chosen(facts(225, 22))
    assert found.values.keys() == found.reasons.keys()
    text = str(found)
    assert "width 16 (" in text
    assert "flips horizontal (learned)" in text
    assert "the smallest class has 22 images, the largest 203" in text


def test_letters_digits_and_sides_are_not_mirrored() -> None:
    assert not are_directed(["ok", "scratch"])
    assert are_directed(["b", "d"])
    assert are_directed(["crack_left", "crack_right"])
    assert not are_directed(["bright", "dark"])
