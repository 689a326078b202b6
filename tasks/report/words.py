"""Text of the pages: numbers, intervals, dates, lists and names of files."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from resnet_core.evaluation.metrics import METRICS

_Ends = Mapping[str, float | None]  # value, low and high, as metrics.json has them

_OTHER_SHARES = {"precision", "recall", "f1", "coverage", "unknown"}
_SHARES = {name for name, metric in METRICS.items() if metric.share} | _OTHER_SHARES


def percent(value: float | None, digits: int = 1) -> str:
    if value is None or math.isnan(value):
        return "unknown"
    return f"{100 * value:.{digits}f}%"


def number(name: str, value: float | None) -> str:
    """Return a metric as text: shares in percent, others with three digits."""
    if value is None or math.isnan(value):
        return "unknown"
    return percent(value) if name in _SHARES else f"{value:.3f}"


def between(name: str, ends: _Ends) -> str:
    """Return `91.0 to 95.1%`, or an empty text without an interval."""
    low, high = ends.get("low"), ends.get("high")
    if low is None or high is None:
        return ""
    return f"{100 * low:.1f} to {percent(high)}" if name in _SHARES else f"{low:.3f} to {high:.3f}"


def sure(share: float) -> str:
    """Return a confidence in whole percent; only certainty is 100%."""
    return ">99%" if 0.995 <= share < 1 else percent(share, 0)


def title(name: str) -> str:
    """Return the name of a metric or a column for a heading."""
    return METRICS[name].title if name in METRICS else name.replace("_", " ").capitalize()


def moment(value: str | datetime) -> str:
    """Return `24 Nov 2026, 02:14 UTC`; text that is not a time is returned unchanged."""
    try:
        time = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except ValueError:
        return str(value)
    time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    return f"{time.day} {time:%b %Y, %H:%M} UTC"


def file_name(uri: str) -> str:
    """Return the end of a path, a URL or an archive member, such as `0003.png` or `x.parquet#row=3`."""
    path = uri.partition("::")[0]
    path = unquote(path.partition("?")[0]) if "://" in path else path
    return path.rstrip("/").rpartition("/")[2] or uri


def listed(words: Sequence[str]) -> str:
    """Return `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def value_of(metric: _Ends | float | None) -> float | None:
    """Return the value of a metric with or without an interval."""
    return metric.get("value") if isinstance(metric, Mapping) else metric


def lowest(*groups: Any) -> float:
    """Return a round number below all `low` and `value`, for the left end of an axis that ends at 1."""
    values = [ends[key] for ends in groups for key in ("low", "value") if ends and ends.get(key) is not None]
    return max(0.0, math.floor(20 * (min(values, default=0.0) - 0.005)) / 20)
