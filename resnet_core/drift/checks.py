"""Data checks: tonight's summary compared with that of the last accepted night.

A distribution has changed if its Kolmogorov-Smirnov distance, from 0 (equal) to 1 (disjoint), is over a threshold.
It has no unit, so one threshold serves brightness and width alike. Tests of single features find shifts about as
well as joint ones (Rabanser et al. 2019, arXiv:1810.11953). On bins the distance is a lower bound.

Differences that chance may make of few images pass, whatever the threshold.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, log, sqrt
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Gt, Le

from resnet_core.drift.summary import UNITS, Histogram, Summary
from resnet_core.errors import DataCheckError, plural, some_of

_Action = Literal["ignore", "warn", "fail"]
Outcome = Literal["ok", "warn", "fail"]
_Share = Annotated[float, Ge(0), Le(1)]

_CHANCE = 0.001  # probability of a finding by chance
_DEVIATIONS = 3.29  # of a normal variable, two-sided, for the same probability
_NAMED = 5


@dataclass(frozen=True)
class ImagesCheck:
    """`drop`: the share of the images that may go. `minimum`: the least number of images."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    drop: _Share = 0.1
    minimum: Annotated[int, Ge(0)] = 0
    action: _Action = "warn"


@dataclass(frozen=True)
class ClassShareCheck:
    """`change`: the relative change that a class's share may have; `minimum`: the least share of a class.

    A class without images is always a finding.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    change: Annotated[float, Gt(0)] = 0.25
    minimum: _Share = 0.0
    action: _Action = "warn"


@dataclass(frozen=True)
class _NewClassesCheck:
    """A class that the last accepted night did not have."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    action: _Action = "warn"


@dataclass(frozen=True)
class DistributionCheck:
    """`change`: the largest Kolmogorov-Smirnov distance, from 0 to 1."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    change: _Share = 0.1
    action: _Action = "warn"


@dataclass(frozen=True)
class SplitCheck:
    """`factor`: how many times more or less than the share asked for may be held out. `groups`: the least on a side.

    A class that is on one side alone is always a finding.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    factor: Annotated[float, Gt(1)] = 2.0
    groups: Annotated[int, Ge(1)] = 3
    action: Literal["ignore", "warn"] = "warn"


@dataclass(frozen=True)
class ChecksConfig:
    """The checks by name, as under `checks:` in a data set file.

    `brightness` and `contrast` are mean and standard deviation of an image's gray levels, `sharpness` is its mean
    |Laplacian|, `size` the width and height of the image in the file.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    images: ImagesCheck = ImagesCheck()
    class_share: ClassShareCheck = ClassShareCheck()
    new_classes: _NewClassesCheck = _NewClassesCheck()
    brightness: DistributionCheck = DistributionCheck()
    contrast: DistributionCheck = DistributionCheck()
    sharpness: DistributionCheck = DistributionCheck()
    size: DistributionCheck = DistributionCheck()
    split: SplitCheck = SplitCheck()


@dataclass(frozen=True)
class Finding:
    """The result of a check: what was `found`, what was `wanted`, and what follows; `detail` may be empty."""

    name: str
    found: str
    wanted: str
    action: Outcome
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.found}; wanted: {self.wanted}" + (f" ({self.detail})" if self.detail else "")


def check(now: Summary, last: Summary | None, config: ChecksConfig, new: Summary | None = None) -> tuple[Finding, ...]:
    """Compare tonight's images, and the new ones if given, with those of the last accepted night.

    A fault that began tonight shows in the new images long before it moves the whole.
    """
    findings = [_images(now, last, config.images), _class_share(now, last, config.class_share)]
    if last:
        findings.append(_new_classes(now, last, config.new_classes))
        findings += _distributions(now, last, config, "")
    if last and new:
        findings += _distributions(new, last, config, " of new images")
    return tuple(finding for finding in findings if finding)


def quarantine(now: Summary, limit: float) -> Finding:
    """Compare the share of images in quarantine with the limit; name the ten most frequent reasons.

    Files that are not images by their first bytes are named, and not held against the limit.
    """
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in now.frequent_reasons(10))
    bad, images = now.quarantined - now.foreign, now.total - now.foreign
    found = f"{bad:,} of {plural(images, 'image')} ({percent(now.quarantined_share)})"
    outcome: Outcome = "fail" if now.quarantined_share > limit else "ok"
    return Finding("quarantine", found, f"at most {percent(limit)}", outcome, reasons)


def check_quarantine(now: Summary, limit: float) -> None:
    """Raise DataCheckError if a larger share than `limit` is in quarantine."""
    finding = quarantine(now, limit)
    if finding.action == "fail":
        raise DataCheckError(
            f"quarantine: {finding.found}, over `quarantine_limit: {limit:g}`. Most frequent reasons: "
            f"{finding.detail}. The catalog's rows with status 'quarantined' name each file and its reason: "
            "mend or remove the files, or raise `quarantine_limit` in the data set file."
        )


def _outcome(bad: bool, action: _Action) -> Outcome:
    return action if bad and action != "ignore" else "ok"


def _images(now: Summary, last: Summary | None, check: ImagesCheck) -> Finding | None:
    if check.action == "ignore" or not (last or check.minimum):
        return None
    least = max(check.minimum, last.ok * (1 - check.drop) if last else 0)
    found = f"{now.ok:,}" + (f", {last.ok:,} before" if last else "")
    wanted = f"at least {ceil(least):,}"
    return Finding("images", found, wanted, _outcome(now.ok < least, check.action))


def _class_share(now: Summary, last: Summary | None, check: ClassShareCheck) -> Finding | None:
    if check.action == "ignore":
        return None
    small = [f"{name!r} {percent(now.share(name))}" for name in sorted(now.classes) if now.share(name) < check.minimum]
    moved = list(_moved_classes(now, last, check.change)) if last else []
    wanted = [f"each at least {percent(check.minimum)}"] * (check.minimum > 0)
    wanted += [f"each within {percent(check.change)} of its own share before"] * (last is not None)
    if not wanted:
        return None
    found = _some([*moved, *small]) or f"none of {plural(len(now.classes), 'class', 'classes')} is outside"
    return Finding("class share", found, ", ".join(wanted), _outcome(bool(moved or small), check.action))


def _moved_classes(now: Summary, last: Summary, change: float) -> Iterator[str]:
    """Yield classes whose shares differ by more than chance (two-proportion z), the largest change first."""
    moved = []
    for name in last.classes:
        before, after = last.share(name), now.share(name)
        pooled = (last.classes[name] + now.classes.get(name, 0)) / max(last.ok + now.ok, 1)
        deviation = sqrt(pooled * (1 - pooled) * (1 / last.ok + 1 / max(now.ok, 1)))
        relative = abs(after / before - 1)
        beyond_chance = abs(after - before) > _DEVIATIONS * deviation
        if not after or (relative > change and beyond_chance):
            moved.append((relative, f"{name!r} {percent(before)} before, {percent(after)} now"))
    return (text for _, text in sorted(moved, reverse=True))


def _new_classes(now: Summary, last: Summary, check: _NewClassesCheck) -> Finding | None:
    if check.action == "ignore":
        return None
    new = [f"{name!r} ({plural(count, 'image')})" for name, count in now.classes.items() if name not in last.classes]
    return Finding("new classes", _some(new) or "none", "none", _outcome(bool(new), check.action))


def _distributions(now: Summary, last: Summary, config: ChecksConfig, whose: str) -> list[Finding | None]:
    return [
        _distribution("brightness" + whose, ["brightness"], now, last, config.brightness),
        _distribution("contrast" + whose, ["contrast"], now, last, config.contrast),
        _distribution("sharpness" + whose, ["sharpness"], now, last, config.sharpness),
        _distribution("size" + whose, ["width", "height"], now, last, config.size),
    ]


def _distribution(
    name: str, measures: Sequence[str], now: Summary, last: Summary, check: DistributionCheck
) -> Finding | None:
    """Check the worst of the measures; None if there is nothing to compare."""
    comparable = [m for m in measures if now.histograms[m].count and last.histograms[m].count]
    if check.action == "ignore" or not comparable:
        return None
    worst = max(comparable, key=lambda m: distance(now.histograms[m], last.histograms[m]))
    after, before = now.histograms[worst], last.histograms[worst]
    apart, few = distance(after, before), _chance_distance(after.count, before.count)
    wanted = f"at most {check.change:.2f}" if check.change >= few else f"at most {few:.2f}, as images are few"
    unit = f" {UNITS[worst]}" if UNITS[worst] else ""
    subject = f"{worst}: " if len(measures) > 1 else ""
    return Finding(
        name,
        f"distance {apart:.2f}",
        wanted,
        _outcome(apart > max(check.change, few), check.action),
        f"{subject}mean {before.mean:.1f}{unit} before, {after.mean:.1f} now",
    )


def distance(one: Histogram, other: Histogram) -> float:
    """Return the Kolmogorov-Smirnov distance, the largest difference of the cumulative shares, 0 to 1."""
    return float(np.abs(np.cumsum(one.shares) - np.cumsum(other.shares)).max())


def _chance_distance(one: int, other: int) -> float:
    """Return the distance that samples of these sizes exceed with probability _CHANCE (Smirnov 1948)."""
    return min(1.0, sqrt(-log(_CHANCE / 2) / 2) * sqrt(1 / one + 1 / other))


def percent(share: float) -> str:
    """Format a share with three digits, so that a small one differs from none."""
    return f"{share * 100:.3g}%"


def _some(texts: Sequence[str]) -> str:
    return some_of(texts, _NAMED, "; ")
