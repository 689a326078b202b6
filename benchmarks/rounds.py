"""Interleaved timing: every contestant has one turn per round, so that other load falls on all of them.

A figure is a rate (images/s) of one turn. A ratio is taken between two turns of the same round.
The median over the rounds is reported, because absolute rates belong to a machine and an hour.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

# The first round warms caches, thread pools and oneDNN's kernels, and is not counted.
WARM_UP = 1

Turn = Callable[[], float]  # does some work and returns its rate, images/s


class Track(Protocol):
    """Shows how far an iteration has come."""

    def __call__(self, rounds: Iterable[int], /) -> Iterable[int]: ...


@dataclass(frozen=True)
class Difference:
    """How far our output is from the peer's, over all elements of all images."""

    mean: float
    largest: float
    unit: str


@dataclass(frozen=True)
class Comparison:
    """`what` of ours stood against `peer`; `ours` and `theirs` are rates in `unit`, one a round."""

    what: str
    peer: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    difference: Difference | None = None
    unit: str = "images/s"

    @property
    def ratios(self) -> tuple[float, ...]:
        """Ours to theirs, round by round: above 1, ours is faster."""
        return tuple(a / b for a, b in zip(self.ours, self.theirs, strict=True))

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)


@dataclass(frozen=True)
class Measure:
    """A figure of its own, one a seed: what it is matters, not what a peer's is."""

    what: str
    values: tuple[float, ...]
    unit: str = ""

    @property
    def mean(self) -> float:
        return statistics.mean(self.values)

    @property
    def deviation(self) -> float:
        """The standard deviation over seeds; NaN of one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan


@dataclass(frozen=True)
class Result:
    """The result of a benchmark; `setting` says what was held equal."""

    name: str
    setting: str
    comparisons: tuple[Comparison, ...] = ()
    measures: tuple[Measure, ...] = ()


def interleave(rounds: int, contestants: Mapping[str, Turn], track: Track) -> dict[str, tuple[float, ...]]:
    """The rates of each contestant, one a round."""
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for number in track(range(WARM_UP + rounds)):
        # Every other round runs backwards: nobody always comes after the one who empties the cache.
        for name in list(contestants)[:: 1 if number % 2 else -1]:
            rate = contestants[name]()
            if number >= WARM_UP:
                rates[name].append(rate)
    return {name: tuple(found) for name, found in rates.items()}


def timed(work: Callable[[], float], seconds: float = 0.5) -> Turn:
    """Repeat `work`, which returns how many images it did, once and then for as long as `seconds`
    are not over."""

    def turn() -> float:
        started = time.perf_counter()
        images = work()
        while (spent := time.perf_counter() - started) < seconds:
            images += work()
        return images / spent

    return turn
