"""How fast are engines here, and do they say the same? Measured as they will run: by several threads at once."""

import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from resnet_core.export.graph import Run

_SECONDS = 0.3  # that a turn takes at least
_ROUNDS = 3
MOST = 128  # images of a call


def difference(run: Run, pixels: NDArray[np.uint8], own: NDArray[np.float32]) -> float:
    """The largest of two probabilities of the same class of the same image; not a number is infinity."""
    found = run(pixels)
    if found.shape != own.shape:
        return float("inf")
    return float(np.nan_to_num(np.abs(found - own), nan=np.inf).max(initial=0))


def rates(runs: Sequence[Run], pixels: NDArray[np.uint8], workers: int) -> list[list[float]]:
    """Of each run, images/s in every round. In a round each has one turn, so that a noisy machine is noisy to
    all; every other round goes backwards. pixels: uint8 [M, S, S], taken again and again."""
    found: list[list[float]] = [[] for _ in runs]
    with ThreadPoolExecutor(workers) as threads:
        some = _enough(runs[0], pixels)
        for run in runs:
            list(threads.map(run, [some] * workers))  # what is made at the first call is not timed
        for number in range(_ROUNDS):
            for k in range(len(runs))[:: -1 if number % 2 else 1]:
                found[k].append(turn(runs[k], some, workers, threads))
    return found


def _enough(run: Run, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """So many images that a call of a slow network does not take much longer than a turn."""
    few = pixels[np.arange(8) % len(pixels)]
    run(few)
    started = time.perf_counter()
    run(few)
    speed = len(few) / (time.perf_counter() - started)
    return pixels[np.arange(min(max(round(speed * _SECONDS), len(few)), MOST)) % len(pixels)]


def turn(run: Run, pixels: NDArray[np.uint8], workers: int, threads: ThreadPoolExecutor) -> float:
    """Images/s of all workers together."""
    started = time.perf_counter()

    def work(_: int) -> int:
        done = 0
        while time.perf_counter() - started < _SECONDS:
            run(pixels)
            done += len(pixels)
        return done

    done = sum(threads.map(work, range(workers)))
    return done / (time.perf_counter() - started)


def ratio(run: Run, peer: Run, pixels: NDArray[np.uint8], workers: int) -> float:
    """How many times as fast as the peer: the median over the rounds."""
    ours, theirs = rates([run, peer], pixels, workers)
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
