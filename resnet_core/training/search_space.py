"""The search space of a tuning: the settings that vary, and their values.

A data set file has a key of `train`, `train.augment` or `model`, and a list: two numbers are a range, others a choice.
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

# Trials are compared epoch by epoch and over the same seed; the machine decides where they run.
_NOT_TUNED = (
    *("epochs", "minutes", "early_stopping", "seed", "devices", "compile", "start"),
    *("augment", "scales", "score_scales"),
)
_PLACES: dict[str, type] = {"model": ModelConfig, "train": TrainConfig, "augment": AugmentConfig}
# A range is searched by logarithm from this ratio of its ends on.
_LOG = 10


@dataclass(frozen=True)
class Between:
    """Numbers from `low` to `high`, in steps if they are integers, evenly by their logarithm if `log`."""

    low: float
    high: float
    log: bool
    step: int | None  # None: any number in between


@dataclass(frozen=True)
class OneOf:
    """A choice of values."""

    values: tuple[Value, ...]


Space = dict[str, Between | OneOf]


def around(train: TrainConfig) -> dict[str, list[Value]]:
    """Return the space of a data set file without one; optimizers are left out, for their rates differ too much."""
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
    """Parse the lists of a data set file. Raises ValueError that names the key."""
    return {key: _parse(key, [number(value) for value in values]) for key, values in tune.items()}


def number(value: Value) -> Value:
    """Return the number of a text: YAML takes 1e-3 for text."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def _parse(key: str, values: Sequence[Value]) -> Between | OneOf:
    tunable = {field.name: field for kind in _PLACES.values() for field in fields(kind) if field.name not in _NOT_TUNED}
    if key not in tunable:
        hint = nearest(key, list(tunable)) or f" Known: {', '.join(tunable)}."
        raise ValueError(f"tune.{key}: cannot be tuned.{hint}".removesuffix("."))
    if not values:
        raise ValueError(f"tune.{key}: is empty. Write two numbers, a range, or a list of values")
    if len(values) != 2 or not all(type(value) in (int, float) for value in values):
        return OneOf(tuple(values))
    low, high = (float(value) for value in values)
    if not low < high:
        raise ValueError(f"tune.{key}: {list(values)} is not a range. Write the smaller number first")
    kind = _PLACES[place(key)]
    whole = type(tunable[key].default) is int
    hints = getattr(get_type_hints(kind, include_extras=True)[key], "__metadata__", ())
    step = next((int(hint.multiple_of) for hint in hints if isinstance(hint, MultipleOf)), 1)  # type: ignore[call-overload]
    return Between(low, high, log=low > 0 and high >= _LOG * low and step == 1, step=step if whole else None)


def ends(part: Between | OneOf) -> tuple[Value, ...]:
    """Return both ends of a range, or all values."""
    if isinstance(part, OneOf):
        return part.values
    return (part.low, part.high) if part.step is None else (int(part.low), int(part.high))


def place(key: str) -> str:
    """Return the part of a data set file with this key."""
    return next(part for part, kind in _PLACES.items() if key in {field.name for field in fields(kind)})


def apply(model: ModelConfig, train: TrainConfig, values: Mapping[str, Value]) -> tuple[ModelConfig, TrainConfig]:
    """Return the settings with these values."""
    parts: dict[str, dict[str, Any]] = {part: {k: v for k, v in values.items() if place(k) == part} for part in _PLACES}
    augment = replace(train.augment, **parts["augment"])
    return replace(model, **parts["model"]), replace(train, augment=augment, **parts["train"])


def own(model: ModelConfig, train: TrainConfig, space: Space) -> dict[str, Value] | None:
    """Return the settings' own values; None if one of them is outside the space."""
    parts = {"model": model, "train": train, "augment": train.augment}
    values: dict[str, Value] = {key: getattr(parts[place(key)], key) for key in space}
    return values if all(_contains(space[key], value) for key, value in values.items()) else None


def _contains(part: Between | OneOf, value: Value) -> bool:
    if isinstance(part, OneOf):
        return value in part.values
    number = float(value)
    return part.low <= number <= part.high and (part.step is None or (number - part.low) % part.step == 0)


def fragment(values: Mapping[str, Value]) -> dict[str, Any]:
    """Return the values as parts of a data set file."""
    parts: dict[str, Any] = {}
    for key, value in values.items():
        part = parts.setdefault("train" if place(key) == "augment" else place(key), {})
        if place(key) == "augment":
            part = part.setdefault("augment", {})
        part[key] = value
    return parts


def significant(value: float) -> float:
    """Round to three digits, which can be written down."""
    return float(f"{value:.3g}")
