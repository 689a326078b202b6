"""Progress: how far the work is, as text, and how often it is said."""

import subprocess
import sys

import pytest

from tasks import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_count_says_its_rate_and_the_time_left_now_and_then(clock: list[float]) -> None:
    told: list[tuple[str, float | None]] = []
    advance = progress._counter("train", 400, "images", 15, lambda *what: told.append(what))
    for second, images, note in ((5, 50, ""), (20, 150, "loss 0.1"), (34, 100, ""), (36, 0, "")):
        clock[0] = second
        advance(images, note)
    assert told == [
        ("train       200 of 400, 10 images/s, loss 0.1, 0:20 left", 0.5),
        ("train       300 of 400, 8 images/s, 0:12 left", 0.75),
    ]


def test_a_count_without_a_total_has_no_share(clock: list[float]) -> None:
    told: list[tuple[str, float | None]] = []
    advance = progress._counter("list", None, "files", 0, lambda *what: told.append(what))
    clock[0] = 2
    advance(3000)
    assert told == [("list        3,000 files so far, 1,500 files/s", None)]


WRITES = """
import os, sys, time
from rich.console import Console
from tasks.progress import outlive_readers

if sys.argv[1] == "outlives":
    outlive_readers()
print("begins", flush=True)
os.read(0, 1)  # until the reader is gone
time.sleep(0.2)
Console(file=sys.stderr).print("a log line of Prefect's")
print("a line", flush=True)
os._exit(7)
"""


@pytest.mark.parametrize(("what", "status"), [("outlives", 7), ("without", 1)])
def test_a_night_outlives_the_worker_that_reads_its_lines(what: str, status: int) -> None:
    """Without it, Rich ends the process at its next line: what is tested can happen."""
    command, pipe = [sys.executable, "-c", WRITES, what], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdout.readline() == b"begins\n"
        process.stdout.close()
        process.stderr.close()
        process.stdin.write(b"x")
        process.stdin.close()
        assert process.wait(timeout=30) == status
