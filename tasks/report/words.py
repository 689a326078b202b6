"""How a report says things: numbers, dates and names in plain words."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from resnet_core.evaluation.metrics import METRICS

_Ends = Mapping[str, float | None]  # value, low and high, as metrics.json has them

_SHARES = {name for name, metric in METRICS.items() if metric.share} | {"precision", "recall", "f1", "coverage"}


def percent(value: float | None, digits: int = 1) -> str:
    if value is None or math.isnan(value):
        return "unknown"
    return f"{100 * value:.{digits}f}%"


def number(name: str, value: float | None) -> str:
    """A metric as people write it: shares in percent, the others with three digits."""
    if value is None or math.isnan(value):
        return "unknown"
    return percent(value) if name in _SHARES else f"{value:.3f}"


def between(name: str, ends: _Ends) -> str:
    """`91.0 to 95.1%`, or nothing where the data cannot tell."""
    low, high = ends.get("low"), ends.get("high")
    if low is None or high is None:
        return ""
    return f"{100 * low:.1f} to {percent(high)}" if name in _SHARES else f"{low:.3f} to {high:.3f}"


def counted(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def title(name: str) -> str:
    """A metric's or a column's name, for a heading."""
    return METRICS[name].title if name in METRICS else name.replace("_", " ").capitalize()


def moment(value: str | datetime) -> str:
    """`24 Nov 2026, 02:14 UTC`; text that is no time stays as it is."""
    try:
        found = value if isinstance(value, datetime) else datetime.fromisoformat(value.replace("Z", "+00:00"))
    except ValueError:
        return str(value)
    found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    return f"{found.day} {found:%b %Y, %H:%M} UTC"


def file_name(uri: str) -> str:
    """The end of a path or URL, which is what people know a picture by."""
    return PurePosixPath(unquote(urlsplit(uri).path) if "://" in uri else uri).name or uri


def listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def value_of(ends: _Ends | None) -> float | None:
    return ends.get("value") if ends else None


def lowest(*groups: Any) -> float:
    """A round number below all `low`s and `value`s, for the left end of an axis that ends at 1."""
    found = [ends[key] for ends in groups for key in ("low", "value") if ends and ends.get(key) is not None]
    return max(0.0, math.floor(20 * (min(found, default=0.0) - 0.005)) / 20)
