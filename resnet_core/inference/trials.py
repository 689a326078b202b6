"""Trials: measure how fast engines are here, called by several threads as in a batch, and whether they agree."""

import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from resnet_core.export.graph import Run

_SECONDS = 0.3  # of a turn, at least
_ROUNDS = 3
MOST = 128  # images of a call


def difference(run: Run, pixels: NDArray[np.uint8], own: NDArray[np.float32]) -> float:
    """Return the largest difference of two probabilities of the same class and image; infinity for NaN."""
    probabilities = run(pixels)
    if probabilities.shape != own.shape:
        return float("inf")
    return float(np.nan_to_num(np.abs(probabilities - own), nan=np.inf).max(initial=0))


def rates(runs: Sequence[Run], pixels: NDArray[np.uint8], workers: int) -> list[list[float]]:
    """Return images/s of every run in each round. pixels: uint8 [M, S, S], used repeatedly.

    All runs have a turn per round, in reverse order every other round: a noisy machine affects all alike.
    """
    speeds: list[list[float]] = [[] for _ in runs]
    with ThreadPoolExecutor(workers) as threads:
        sample = _enough(runs[0], pixels)
        for run in runs:
            list(threads.map(run, [sample] * workers))  # first calls, with their setup, are not timed
        for number in range(_ROUNDS):
            for k in range(len(runs))[:: -1 if number % 2 else 1]:
                speeds[k].append(turn(runs[k], sample, workers, threads))
    return speeds


def _enough(run: Run, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return as many images as a slow network computes in about one turn."""
    few = pixels[np.arange(8) % len(pixels)]
    run(few)
    started = time.perf_counter()
    run(few)
    speed = len(few) / (time.perf_counter() - started)
    return pixels[np.arange(min(max(round(speed * _SECONDS), len(few)), MOST)) % len(pixels)]


def turn(run: Run, pixels: NDArray[np.uint8], workers: int, threads: ThreadPoolExecutor) -> float:
    """Return images/s of all workers together."""
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
    """Return the speed relative to the peer: the median over the rounds."""
    ours, theirs = rates([run, peer], pixels, workers)
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
