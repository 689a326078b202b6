"""A batch in simulated time: a driver, a Prefect server, workers, and what comes before and after them.

The plan comes first and the finish last, each alone. In between the driver submits parts, never more at a time than
`most_waiting`; each of them costs the server `task` seconds, one after the other, before a worker may take it.
"""

import heapq
import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Growth:
    """Seconds that a stage took at some sizes, the largest one last."""

    sizes: tuple[int, ...]
    seconds: tuple[float, ...]

    @property
    def exponent(self) -> float:
        """1: seconds grow as the size did from the last but one to the last; 2: as its square."""
        times, larger = self.seconds[-1] / self.seconds[-2], self.sizes[-1] / self.sizes[-2]
        return math.log(times) / math.log(larger)

    def at(self, size: float) -> float:
        """Within what was measured on straight lines, from zero on. Beyond it as the last piece went, and at least in
        proportion: a stage is not believed to become cheaper. A power would make much of a little noise; what
        grows as a square is seen by its exponent."""
        if size <= self.sizes[-1]:
            return float(np.interp(size, (0, *self.sizes), (0, *self.seconds)))
        last = (self.seconds[-1] - self.seconds[-2]) / (self.sizes[-1] - self.sizes[-2])
        return self.seconds[-1] + (size - self.sizes[-1]) * max(last, self.seconds[-1] / self.sizes[-1])

    def least(self, other: "Growth") -> "Growth":
        """Return the smaller of two measurements: other load only adds time."""
        return Growth(self.sizes, tuple(map(min, self.seconds, other.seconds)))


@dataclass(frozen=True)
class Job:
    """Seconds of a batch: `before`, `after`, and for each of `parts` a server's `task` and a worker's `part`.
    `noise` is the deviation of the logarithm of a part's seconds."""

    parts: int
    part: float
    task: float = 0.0
    before: float = 0.0
    after: float = 0.0
    most_waiting: int = 256
    noise: float = 0.1


def simulate(job: Job, workers: int, seed: int = 0) -> float:
    """Seconds from the first to the last."""
    takes = job.part * lengths(job, seed)
    free = [0.0] * min(workers, job.parts)  # when each worker can take the next part
    ends: list[float] = []  # of the parts that were submitted
    server = last = 0.0
    for number in range(job.parts):
        submitted = heapq.heappop(ends) if number >= job.most_waiting else 0.0
        server = max(server, submitted) + job.task
        end = max(server, heapq.heappop(free)) + float(takes[number])
        heapq.heappush(free, end)
        heapq.heappush(ends, end)
        last = max(last, end)
    return job.before + last + job.after


def lengths(job: Job, seed: int) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """How long each part takes, of what a part takes; 1 in the mean."""
    found = np.random.default_rng(seed).lognormal(0, job.noise, job.parts)
    return found / found.mean()


def ideal(job: Job, workers: int) -> float:
    """Seconds if the workers had nothing to wait for."""
    return job.parts * job.part / workers


def bounds(job: Job, workers: int) -> dict[str, float]:
    """Seconds that each stage takes at least, whatever the others do."""
    return {
        "plan": job.before,
        "finish": job.after,
        "server": job.parts * job.task,
        "waiting limit" if workers > job.most_waiting else "workers": ideal(job, min(workers, job.most_waiting)),
    }


def binding(job: Job, workers: int) -> str:
    """The stage that takes most of the time."""
    found = bounds(job, workers)
    return max(found, key=lambda name: found[name])
