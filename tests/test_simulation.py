"""The event loop of `benchmarks.simulation`: what must be true of any batch, whatever its stages cost."""

import itertools
from dataclasses import replace

import pytest

from benchmarks.simulation import Growth, Job, bounds, ideal, simulate

EVEN = Job(parts=640, part=10.0, noise=0.0, most_waiting=10_000)
BUSY = Job(parts=1000, part=3.0, task=0.02, before=40.0, after=15.0, most_waiting=64)
WORKERS = (1, 2, 7, 16, 64, 65, 200, 1000)


@pytest.mark.parametrize("workers", [1, 2, 16, 64, 640])
def test_without_overhead_workers_share_the_work_evenly(workers: int) -> None:
    assert simulate(EVEN, workers) == pytest.approx(ideal(EVEN, workers))


def test_one_worker_takes_the_work_whatever_the_noise() -> None:
    assert simulate(replace(EVEN, noise=0.5), 1) == pytest.approx(6400)


@pytest.mark.parametrize("workers", WORKERS)
def test_no_batch_is_faster_than_its_stages_one_after_the_other_or_than_any_of_them(workers: int) -> None:
    serial = BUSY.before + BUSY.after
    for stage, least in bounds(BUSY, workers).items():
        if stage not in ("plan", "finish"):
            assert simulate(BUSY, workers) >= serial + least * (1 - 1e-9), stage
    # the first part waits for the server, and the last one's work is not done before the server has let it go
    assert simulate(replace(BUSY, noise=0.0), workers) >= serial + BUSY.parts * BUSY.task + BUSY.part


def test_more_workers_are_never_slower_and_dearer_stages_never_faster() -> None:
    clocks = [simulate(BUSY, workers) for workers in WORKERS]
    assert all(more <= fewer for fewer, more in itertools.pairwise(clocks))
    for dearer in (
        replace(BUSY, part=4.0), replace(BUSY, task=0.05), replace(BUSY, before=50.0), replace(BUSY, after=16.0),
        replace(BUSY, most_waiting=32),
    ):  # fmt: skip
        assert all(simulate(dearer, workers) >= clock for workers, clock in zip(WORKERS, clocks, strict=True))
        assert simulate(dearer, 1000) > clocks[-1]


def test_workers_beyond_those_that_may_wait_are_idle() -> None:
    few = replace(EVEN, most_waiting=32)
    assert simulate(few, 64) == simulate(few, 32) == pytest.approx(ideal(EVEN, 32))


def test_a_server_that_takes_longer_than_the_workers_decides() -> None:
    slow = replace(EVEN, task=1.0)
    assert simulate(slow, 640) == pytest.approx(640 * 1.0 + 10)


def test_beyond_what_was_measured_a_stage_goes_on_as_it_went_last_and_becomes_no_cheaper() -> None:
    assert Growth((10, 100), (1.0, 100.0)).at(1000) == pytest.approx(100 + 900 * 99 / 90)
    assert Growth((10, 100), (9.0, 10.0)).at(1000) == pytest.approx(100)
    assert Growth((10, 100), (1.0, 10.0)).at(55) == pytest.approx(5.5)
    assert Growth((10, 100), (1.0, 100.0)).exponent == pytest.approx(2)
