"""The search space of a tuning: which settings vary, and between which values.

It is written as in a data set file: a key of `train`, `train.augment` or `model`, and a list. Two numbers
are a range, anything else is a choice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, get_type_hints

from annotated_types import MultipleOf

from resnet_core.errors import nearest
from resnet_core.model.resnet import ModelConfig
from resnet_core.training.augment import AugmentConfig
from resnet_core.training.config import TrainConfig

Value = bool | int | float | str

# Trials are compared epoch by epoch and over one seed; where they run is the machine's matter.
_NOT_TUNED = ("epochs", "early_stopping", "seed", "devices", "compile", "start", "augment", "scales", "score_scales")
_PLACES: dict[str, type] = {"model": ModelConfig, "train": TrainConfig, "augment": AugmentConfig}
# A range whose ends are so many times apart is searched by orders of magnitude.
_LOG = 10


@dataclass(frozen=True)
class Between:
    """Numbers from `low` to `high`, in steps where they are whole ones, evenly by their logarithm if `log`."""

    low: float
    high: float
    log: bool
    step: int | None  # None: any number in between


@dataclass(frozen=True)
class OneOf:
    """One of these."""

    values: tuple[Value, ...]


Space = dict[str, Between | OneOf]


def around(train: TrainConfig) -> dict[str, list[Value]]:
    """The space of a data set file without one. The optimizer is not in it: a rate that is right for one
    is wrong for another by orders of magnitude."""
    decay = train.weight_decay or 1e-4
    batch = train.batch_size
    return {
        "lr": [significant(train.lr / 10), significant(train.lr * 3)],
        "weight_decay": [significant(decay / 10), significant(decay * 10)],
        "batch_size": [max(2, batch // 2), batch, 2 * batch],
        "label_smoothing": [0.0, 0.2],
        "shift": [0.0, min(0.5, significant(2 * train.augment.shift or 0.1))],
        "mixup": [0.0, 0.4],
    }


def parse(tune: Mapping[str, Sequence[Value]]) -> Space:
    """Raises ValueError that names the key."""
    return {key: _parse(key, [number(value) for value in values]) for key, values in tune.items()}


def number(value: Value) -> Value:
    """What is written as a number: YAML takes 1e-3 for text."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def _parse(key: str, values: Sequence[Value]) -> Between | OneOf:
    known = {field.name: field for kind in _PLACES.values() for field in fields(kind) if field.name not in _NOT_TUNED}
    if key not in known:
        hint = nearest(key, list(known)) or f" Known: {', '.join(known)}."
        raise ValueError(f"tune.{key}: is no key that can be tuned.{hint}".removesuffix("."))
    if not values:
        raise ValueError(f"tune.{key}: is empty. Write two numbers, a range, or a list of values")
    if len(values) != 2 or not all(type(value) in (int, float) for value in values):
        return OneOf(tuple(values))
    low, high = (float(value) for value in values)
    if not low < high:
        raise ValueError(f"tune.{key}: {list(values)} is no range. Write the smaller number first")
    kind = _PLACES[place(key)]
    whole = type(known[key].default) is int
    hints = getattr(get_type_hints(kind, include_extras=True)[key], "__metadata__", ())
    step = next((int(hint.multiple_of) for hint in hints if isinstance(hint, MultipleOf)), 1)  # type: ignore[call-overload]
    return Between(low, high, log=low > 0 and high >= _LOG * low and step == 1, step=step if whole else None)


def ends(part: Between | OneOf) -> tuple[Value, ...]:
    """Both ends of a range, or all values."""
    if isinstance(part, OneOf):
        return part.values
    return (part.low, part.high) if part.step is None else (int(part.low), int(part.high))


def place(key: str) -> str:
    """The part of a data set file that it is a key of."""
    return next(part for part, kind in _PLACES.items() if key in {field.name for field in fields(kind)})


def apply(model: ModelConfig, train: TrainConfig, values: Mapping[str, Value]) -> tuple[ModelConfig, TrainConfig]:
    """The settings with these values in place of their own."""
    parts: dict[str, dict[str, Any]] = {part: {k: v for k, v in values.items() if place(k) == part} for part in _PLACES}
    augment = replace(train.augment, **parts["augment"])
    return replace(model, **parts["model"]), replace(train, augment=augment, **parts["train"])


def own(model: ModelConfig, train: TrainConfig, space: Space) -> dict[str, Value] | None:
    """The settings' own values; None where one of them is not in the space."""
    parts = {"model": model, "train": train, "augment": train.augment}
    values: dict[str, Value] = {key: getattr(parts[place(key)], key) for key in space}
    return values if all(_contains(space[key], value) for key, value in values.items()) else None


def _contains(part: Between | OneOf, value: Value) -> bool:
    if isinstance(part, OneOf):
        return value in part.values
    number = float(value)
    return part.low <= number <= part.high and (part.step is None or (number - part.low) % part.step == 0)


def fragment(values: Mapping[str, Value]) -> dict[str, Any]:
    """The values as parts of a data set file."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        part = found.setdefault("train" if place(key) == "augment" else place(key), {})
        if place(key) == "augment":
            part = part.setdefault("augment", {})
        part[key] = value
    return found


def significant(value: float) -> float:
    """Three digits of it: what is trained with can be written down."""
    return float(f"{value:.3g}")
