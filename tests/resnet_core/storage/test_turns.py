"""Turns: a data set has one night at a time, whoever began it; a killed night holds nothing."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from upath import UPath

from resnet_core.storage import turns
from resnet_core.storage.turns import OccupiedError, holder_of, turn

HOLD = """
import os, sys, time
from upath import UPath
from resnet_core.storage.turns import turn
with turn(UPath(sys.argv[1])):
    if "fork" not in sys.argv or not os.fork():  # the child says that it is there, and outlives its parent
        print("held", flush=True)
    time.sleep(60)
"""


def other_process(path: UPath, *more: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), *more], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}, start_new_session=True,
    )  # fmt: skip
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def elpv(tmp_path: Path) -> UPath:
    return UPath(tmp_path / "turns" / "elpv.json")


@pytest.mark.parametrize("more", [(), ("fork",)])
def test_a_second_process_is_refused_until_the_first_is_killed(elpv: UPath, more: tuple[str, ...]) -> None:
    process = other_process(elpv, *more)
    with pytest.raises(OccupiedError, match=rf"elpv: process {process.pid} on .* is at work on it\. Wait"):
        turn(elpv).__enter__()
    with turn(elpv.with_name("digits.json")):  # another data set
        assert str(os.getpid()) in (holder_of(elpv.with_name("digits.json")) or "")
    assert str(process.pid) in (holder_of(elpv) or "")
    process.kill()
    process.wait()
    assert holder_of(elpv) is None
    with turn(elpv):
        pass
    assert holder_of(elpv) is None
    if more:
        os.killpg(process.pid, signal.SIGKILL)


def test_a_turn_is_given_back_after_a_failure(elpv: UPath) -> None:
    with pytest.raises(ValueError, match="defect"), turn(elpv):
        raise ValueError("defect")
    with turn(elpv):
        pass


def test_who_waits_gets_the_turn_next(elpv: UPath) -> None:
    order: list[str] = []
    with turn(elpv):

        def wait() -> None:
            with turn(elpv, wait=True):
                order.append("second")

        second = threading.Thread(target=wait)
        second.start()
        second.join(0.3)
        order.append("first")
    second.join(10)
    assert order == ["first", "second"]


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b"\xff\xfe", b'{"pid": "x"}'])
def test_a_torn_note_holds_nobody_up(elpv: UPath, note: bytes) -> None:
    path = Path(elpv.path)
    path.parent.mkdir(parents=True)
    path.write_bytes(note)
    assert holder_of(elpv) is None
    with turn(elpv):
        assert holder_of(elpv)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("_BEAT", 0.1), ("_SILENT", 1.0), ("_SETTLE", 0.2), ("_POLL", 0.05)):
        monkeypatch.setattr(turns, name, seconds)


@pytest.mark.usefixtures("fast")
def test_where_there_are_no_file_locks_a_holder_renews_its_file(tmp_path: Path) -> None:
    elpv = UPath(f"memory://{tmp_path.name}/turns/elpv.json")
    with turn(elpv), pytest.raises(OccupiedError, match="elpv: process"):
        turn(elpv).__enter__()
    assert holder_of(elpv) is None
    host = {"host": "elsewhere", "pid": 1, "began": 0.0, "since": "2100-01-01", "token": "x", "beat": 7}
    for dead in (host, host | {"host": turns.socket.gethostname(), "pid": 2**22 + 1}):  # silent, and ended
        turns._write(elpv, dead)
        with turn(elpv):
            assert str(os.getpid()) in (holder_of(elpv) or "")


@pytest.mark.usefixtures("fast")
def test_a_machine_that_was_away_does_not_go_on_beside_the_one_that_took_over(tmp_path: Path) -> None:
    """A suspended laptop wakes up after its silence."""
    elpv = UPath(f"memory://{tmp_path.name}/turns/elpv.json")
    with turn(elpv):
        turns.check_turns()
        other = {"host": "elsewhere", "pid": 1, "began": 0.0, "since": "2100-01-01", "token": "x", "beat": 1}
        turns._write(elpv, other)
        time.sleep(0.5)
        with pytest.raises(OccupiedError, match="elpv: another machine took over"):
            turns.check_turns()
    assert turns._read(elpv) == other  # neither renewed nor removed
    turns.check_turns()


def test_a_clock_that_is_set_makes_nobody_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    note = {"host": turns.socket.gethostname(), "pid": os.getpid(), "began": turns.process_began(os.getpid())}
    created = turns.psutil.Process.create_time
    monkeypatch.setattr(turns.psutil.Process, "create_time", lambda process: created(process) + 3600)
    assert not turns._is_dead(note)
    assert turns._is_dead(note | {"began": note["began"] + 1})
