"""Threads beside neighbours: fewer where they are faster, noted by epoch, replayed; a given number stays."""

import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from resnet_core import threads
from resnet_core.cores import THREADS
from resnet_core.threads import Threads, busy_cores
from resnet_core.training.distributed import World
from resnet_core.training.job import run
from tests.resnet_core.training.test_job import CPU, Digits, a_job


@pytest.fixture(autouse=True)
def _nothing_is_given(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No number of threads in the environment; afterwards the number is as before."""
    before = torch.get_num_threads()
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "_TRIED", 0.0)
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def neighbours(monkeypatch: pytest.MonkeyPatch, *busy: float) -> None:
    """Let the next looks find so many busy cores; each epoch looks."""
    looks = iter(busy)
    monkeypatch.setattr(threads, "_EVERY", 0.0)
    monkeypatch.setattr(threads, "busy_cores", lambda: next(looks))


def by_threads(rates: dict[int, float]) -> Threads:
    return Threads(lambda: rates[torch.get_num_threads()])


@pytest.mark.parametrize(
    ("busy", "rates", "chosen"),
    [
        (0.0, {}, 4),  # nothing is tried on a quiet machine
        (0.4, {}, 4),
        (1.0, {3: 90, 4: 40}, 3),
        (1.0, {3: 50, 4: 40}, 4),  # not worth other bits
        (2.6, {1: 90, 4: 40}, 1),
        (4.0, {1: 90, 4: 40}, 1),
        (9.0, {1: 30, 4: 40}, 4),
    ],
)
def test_fewer_threads_are_taken_where_they_are_faster(
    monkeypatch: pytest.MonkeyPatch, busy: float, rates: dict[int, float], chosen: int
) -> None:
    neighbours(monkeypatch, busy)
    with by_threads(rates).set() as before_epoch:
        before_epoch(1)
        assert torch.get_num_threads() == chosen
    assert torch.get_num_threads() == 4


def test_what_was_chosen_is_told_and_a_neighbour_that_goes_is_noticed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    neighbours(monkeypatch, 1.0, 1.0, 0.0, 0.0)
    with caplog.at_level(logging.INFO), by_threads({3: 90, 4: 40}).set() as before_epoch:
        found = []
        for epoch in range(1, 5):
            before_epoch(epoch)
            found.append(torch.get_num_threads())
    assert found == [3, 3, 4, 4]
    assert caplog.messages == [
        "train       3 of 4 threads: others keep 1 of the cores busy; 90 images/s with 3, 40 with 4",
        "train       4 threads again: the others have ended",
    ]


def test_beside_a_neighbour_that_stays_the_numbers_are_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have paused while they were tried."""
    neighbours(monkeypatch, 1.0, 1.0, 1.0)
    rates = {3: 90, 4: 100}
    with by_threads(rates).set() as before_epoch:
        before_epoch(1)
        rates[4] = 40  # it goes on
        before_epoch(2)
        assert torch.get_num_threads() == 4
        monkeypatch.setattr(threads.time, "monotonic", lambda now=threads.time.monotonic: now() + 301)
        before_epoch(3)
        assert torch.get_num_threads() == 3


def test_a_pause_of_a_neighbour_is_not_taken_for_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = iter([30.0, 100.0, 30.0, 10.0])
    assert threads.tried((3, 4), lambda: next(rates)) == pytest.approx([30.0, 2 / (1 / 100 + 1 / 10)])


def test_a_number_from_the_environment_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    neighbours(monkeypatch)  # a look would end the test
    with by_threads({}).set() as before_epoch:
        before_epoch(1)
    assert torch.get_num_threads() == 4


def test_the_cores_are_watched_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    neighbours(monkeypatch, 0.0)
    monkeypatch.setattr(threads, "_EVERY", 60.0)
    with by_threads({}).set() as before_epoch:
        for epoch in range(1, 100):
            before_epoch(epoch)


def test_a_real_neighbour_is_seen_and_this_process_is_none() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as neighbour:
        try:
            time.sleep(0.5)  # it has begun
            assert busy_cores(1.0) > 0.4  # it shares its core with other tests
        finally:
            neighbour.kill()


def test_epochs_note_their_threads_and_the_same_threads_give_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, digits: Digits
) -> None:
    neighbours(monkeypatch, 3.0, 0.0)
    monkeypatch.setattr(threads, "tried", lambda numbers, rate: [2.0, 1.0])
    job = a_job(tmp_path, digits, 64)
    first, epochs = run(job, World(CPU))
    assert [epoch.threads for epoch in epochs] == [1, 4]
    again, epochs = run(replace(job, threads=(1, 4)), World(CPU))
    assert [epoch.threads for epoch in epochs] == [1, 4]
    for name, weight in first.network.state_dict().items():
        assert torch.equal(weight, again.network.state_dict()[name]), name
    _, epochs = run(replace(job, threads=(2,)), World(CPU))
    assert [epoch.threads for epoch in epochs] == [2, 2]


def test_trials_of_the_network_leave_the_training_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, digits: Digits
) -> None:
    """Real trials draw random numbers, and keep memory, of their own."""
    torch.set_num_threads(2)
    monkeypatch.setattr(threads, "_WORTH", 1e9)  # all threads win
    neighbours(monkeypatch, 1.0, 2.0)
    job = a_job(tmp_path, digits, 64)
    tried, epochs = run(job, World(CPU))
    assert [epoch.threads for epoch in epochs] == [2, 2]
    quiet, _ = run(replace(job, threads=(2,)), World(CPU))
    for name, weight in tried.network.state_dict().items():
        assert torch.equal(weight, quiet.network.state_dict()[name]), name
