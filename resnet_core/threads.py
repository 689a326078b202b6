"""The threads of a training on a CPU that other processes use, too.

The threads of an operation wait for the slowest of them. All wait with a thread that shares its core while others have
their turn there. A turn is as long as a hundred operations of a small network. Fewer threads, on the cores that are
left, are then faster: twice to five times with one of two cores busy (benchmarks/LOG.md, 2026-12-01). How many are best
depends on the network, so both numbers are tried. Another number adds in another order, so that epochs note theirs.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil
import torch

from resnet_core.cores import THREADS

log = logging.getLogger("grayline")

_LOOK = 0.2  # seconds for which the cores are watched
_EVERY = 60.0  # seconds between two looks
_AGAIN = 300.0  # seconds between two trials beside as many neighbours: one may have paused meanwhile
_TRIED = 0.3  # seconds, at least, that a number of threads is tried for, twice
_WORTH = 1.3  # times the rate of all threads: trials are not exact, and a quiet machine gives the same bits each night


@dataclass
class Threads:
    """Sets the number of threads before each epoch.

    rate: trains some steps and returns images/s. replayed: numbers by epoch, the last for those after; empty: by load.
    """

    rate: Callable[[], float]
    replayed: tuple[int, ...] = ()
    most: int = field(default_factory=torch.get_num_threads)
    _busy: int = 0  # cores, at the last look
    _next: float = -math.inf  # look, by time.monotonic
    _next_trial: float = -math.inf

    @contextmanager
    def set(self) -> Iterator[Callable[[int], None]]:
        """Yield what to call before each epoch, with the epoch's number; afterwards the number is as before."""
        try:
            yield self._before
        finally:
            torch.set_num_threads(self.most)

    def _before(self, epoch: int) -> None:
        if self.replayed:
            torch.set_num_threads(self.replayed[min(epoch, len(self.replayed)) - 1])
        elif self.most > 1 and not _is_given() and time.monotonic() >= self._next:
            self._look()
            self._next = time.monotonic() + _EVERY

    def _look(self) -> None:
        busy = min(self.most, round(busy_cores()))
        if busy == self._busy and (not busy or time.monotonic() < self._next_trial):
            return
        self._busy, fewer, chosen = busy, max(1, self.most - busy), self.most
        if busy:
            some, all_ = tried((fewer, self.most), self.rate)
            self._next_trial = time.monotonic() + _AGAIN
            chosen = fewer if some > _WORTH * all_ else self.most
            log.info(
                "train       %d of %d threads: others keep %d of the cores busy; %s images/s with %d, %s with %d",
                *(chosen, self.most, busy, f"{some:,.0f}", fewer, f"{all_:,.0f}", self.most),
            )  # fmt: skip
        elif torch.get_num_threads() < self.most:
            log.info("train       %d threads again: the others have ended", self.most)
        torch.set_num_threads(chosen)


def _is_given() -> bool:
    """Return whether the environment says how many threads there are; then it stays so."""
    return any(name in os.environ for name in THREADS)


def busy_cores(seconds: float = _LOOK) -> float:
    """Return how many of this process's cores others keep busy, on average for so long. It sleeps meanwhile."""
    own = time.process_time()
    shares = psutil.cpu_percent(interval=seconds, percpu=True)
    own = time.process_time() - own
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(shares))
    return max(0.0, sum(shares[core] for core in allowed if core < len(shares)) / 100 - own / seconds)


def tried(numbers: tuple[int, ...], rate: Callable[[], float]) -> list[float]:
    """Return images/s by number of threads over two turns, those of a neighbour's pauses and of its work."""
    times: list[list[float]] = [[] for _ in numbers]  # of an image
    for _ in range(2):
        for number, found in zip(numbers, times, strict=True):
            torch.set_num_threads(number)
            ends, before = time.monotonic() + _TRIED, len(found)
            while len(found) == before or time.monotonic() < ends:
                found.append(1 / rate())
    return [len(found) / sum(found) for found in times]
