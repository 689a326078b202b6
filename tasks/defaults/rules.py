"""Rules: values for keys that are `auto`, each with its reason, from facts about the images and the device's rate.

`python -m benchmarks defaults` compares them with the fixed defaults that were there before: ResNet-18 of width 64
at 96 px, 30 epochs of batches of 128. "Defaults that fit the folder" in benchmarks/LOG.md has the tables, and what
else was tried.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from resnet_core.model.inputs import Flips
from resnet_core.model.resnet import SMALL_IMAGE

RULES = 1  # a higher number makes every data set choose again

SMALLEST, LARGE, MANY_PIXELS = 16, 160, 96  # sides in pixels
_MANY = 50_000  # images from which LARGE takes too long
_WIDTHS = ((20_000, 64), (4_000, 32), (0, 16))  # from so many training images on
_BATCHES_AN_EPOCH, _BATCHES = 16, (16, 128)
_STEPS, _EPOCHS = 1_500, (10, 200)
_FEWEST = 5  # epochs, if time is short
_MINUTES = 30  # that a training takes at most, unless `minutes` says otherwise
_MOST_ASKED = 1_000  # epochs, however many minutes there are
_RARE = 3  # times as many images in the largest class as in the smallest
_ADJUSTED = 0.5  # the best macro-F1 of four classes of solar cells, "averages for each size" in benchmarks/LOG.md
_LONG = 1_500  # steps from which the average is longer
_SHIFT = 0.06
_DIRECTED = {"left", "right", "clockwise", "counterclockwise", "mirrored", "flipped"}

# Seconds of a training step on an image, relative to width 64 at 96 px with the stem `imagenet`: by width, and how
# much more the stem `small` costs.
_COSTS, _SMALL_STEM = {16: 0.12, 32: 0.3, 64: 1.0}, 10
_BEFORE = 30  # epochs, the fixed default

Rate = Callable[[int, int], float]  # of width and batch size: training images/s


@dataclass(frozen=True)
class Facts:
    """The images that are trained on. size: their stored side in pixels. flips: mirrors that keep every class.

    smallest, largest: images of those classes. mirrored: why `flips` are those.
    """

    images: int
    classes: int
    smallest: int
    largest: int
    size: int
    flips: Flips
    mirrored: str


@dataclass(frozen=True)
class Choice:
    """Values by key, as `train.epochs`, and a reason for each."""

    values: dict[str, Any]
    reasons: dict[str, str]

    def __str__(self) -> str:
        """Return `epochs 60 (...), width 16 (...)`."""
        names = {key: key.rpartition(".")[2].replace("_", " ") for key in self.values}
        return ", ".join(f"{names[key]} {value} ({self.reasons[key]})" for key, value in self.values.items())


def choose_size(images: int, side: int) -> tuple[int, str]:
    """Return the side to store, and why. side: the median of the files' shorter sides, in pixels."""
    if side < SMALLEST:
        return SMALLEST, f"the files have {side} px; enlarged, they are told apart better"
    if side <= SMALL_IMAGE:
        return side, f"the files' own, {side} px"
    most = LARGE if images < _MANY else MANY_PIXELS
    if side > most:
        return most, f"the files have {side:,} px; more pixels take longer"
    return side // 8 * 8, f"the files' own, {side} px, by eights"


def choose(facts: Facts, given: Mapping[str, Any], rate: Rate) -> Choice:
    """Choose every key. given: values that the data set file has itself, which the others are chosen to suit.

    rate: measured on the device, with the classes and the size that the training will have.
    """
    values: dict[str, Any] = {}
    reasons: dict[str, str] = {}

    def take(key: str, value: Any, reason: str) -> Any:
        if given.get(key) is not None:
            return given[key]
        values[key], reasons[key] = value, reason
        return value

    batch = take("train.batch_size", _batch(facts.images), f"about {_BATCHES_AN_EPOCH} batches an epoch, or full ones")
    minutes = given.get("train.minutes") or _MINUTES
    limit = None if given.get("train.epochs") else minutes
    width = take("model.width", *_width(facts.images, limit, lambda width: rate(width, batch)))
    steps_an_epoch = max(1, math.ceil(facts.images / batch))
    epochs = take(
        "train.epochs", *_epochs(facts, width, steps_an_epoch, given.get("train.minutes"), rate(width, batch))
    )
    steps = epochs * steps_an_epoch
    take("train.warmup", 0.2, "a fifth of the steps")
    take("train.ema_decay", 0.98 if steps < _LONG else 0.99, f"of {steps:,} steps")
    rare = facts.largest >= _RARE * facts.smallest
    why = f"the smallest class has {facts.smallest:,} images, the largest {facts.largest:,}"
    others = "balanced" in (given.get("train.class_weights"), given.get("train.sampling"))
    take("train.sampling", "natural", "drawing rare images more often did worse than the adjustment")
    take("train.logit_adjustment", _ADJUSTED if rare and not others else 0.0, why)
    take("train.augment.flips", facts.flips, facts.mirrored)
    take("train.augment.shift", round(max(_SHIFT, 1 / facts.size), 3), "of the side, a pixel at least")
    return Choice(values, reasons)


def _width(images: int, minutes: float | None, rate: Callable[[int], float]) -> tuple[int, str]:
    """Return the widest network for so many images that has time for some epochs, and why. minutes: None: no limit."""
    widths = [width for least, width in _WIDTHS if images >= least]
    for width in widths[:-1]:
        if minutes is None or 60 * minutes * rate(width) >= _EPOCHS[0] * images:
            return width, f"for {images:,} images"
    why = f"; wider ones have no time for {_EPOCHS[0]} epochs" * (len(widths) > 1)
    return widths[-1], f"for {images:,} images{why}"


def _batch(images: int) -> int:
    """Return a power of two."""
    wanted = 2 ** round(math.log2(max(1, images / _BATCHES_AN_EPOCH)))
    return min(max(wanted, _BATCHES[0]), _BATCHES[1])


def _epochs(facts: Facts, width: int, steps: int, minutes: float | None, rate: float) -> tuple[int, str]:
    """Return epochs for so many steps each, and why."""
    fit = min(60 * (minutes or _MINUTES) * rate / facts.images, _MOST_ASKED)
    if minutes:
        return max(1, int(fit)), f"{minutes:g} minutes at {rate:,.0f} images/s"
    wanted = min(max(math.ceil(_STEPS / steps), _EPOCHS[0]), _EPOCHS[1])
    as_long = max(_EPOCHS[0], int(_BEFORE / cost(facts.size, width)))
    if fit < min(wanted, as_long):
        return max(_FEWEST, int(fit)), f"{_MINUTES} minutes at {rate:,.0f} images/s; `minutes` allows more"
    if as_long < wanted:
        return as_long, f"{as_long * steps:,} steps"
    return wanted, f"{wanted * steps:,} steps"


def cost(size: int, width: int) -> float:
    """Return the time of an image relative to that of width 64 at 96 px."""
    nearest = min(_COSTS, key=lambda known: abs(known - width))
    stem = _SMALL_STEM if size <= SMALL_IMAGE else 1
    return _COSTS[nearest] * (width / nearest) ** 1.5 * stem * (size / 96) ** 2


def are_directed(classes: Sequence[str]) -> bool:
    """Return whether names say that a mirror changes classes: letters, digits, left and right."""
    return any(len(label) == 1 or _DIRECTED & {*re.split(r"[^a-z]+", label.casefold())} for label in classes)
