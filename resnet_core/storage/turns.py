"""Turns: work that only one process may do at a time, whoever began it and from where.

On a disk the holder keeps a file lock. The system takes it back when the process ends, however it ends.
Elsewhere it renews its file. Others take over once they have seen no renewal for `_SILENT` seconds of their own
clock: times of two machines are never compared.
"""

import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from upath import UPath

from resnet_core.errors import JobError
from resnet_core.storage.files import is_local

log = logging.getLogger("grayline")

_BEAT, _SILENT, _SETTLE = (
    15.0,
    90.0,
    2.0,
)  # seconds: between renewals, until a holder counts as dead, for a race to show
_POLL = 1.0


class OccupiedError(JobError):
    """Somebody else has the turn."""


@contextmanager
def turn(path: UPath, wait: bool = False) -> Iterator[bool]:
    """Hold the turn of this file. wait: until it is free; otherwise raises OccupiedError, which names the holder.

    Yields whether the holder before has ended without a word: killed, or by a power cut.
    """
    name = path.stem
    path.parent.mkdir(parents=True, exist_ok=True)
    note = {
        "name": name, "host": socket.gethostname(), "pid": os.getpid(), "began": process_began(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()), "token": uuid.uuid4().hex,
        "follows_a_killed_one": False,
    }  # fmt: skip
    told = False
    while (release := _take(path, note)) is None:
        holder = holder_of(path)  # None if it has just ended, or just begun
        if holder and not wait:
            raise OccupiedError(
                f"{name}: {holder} is at work on it. Wait until it has ended, or end it; then run this again."
            )
        if holder and not told:
            log.info("turn        %s: waits for %s", name, holder)
            told = True
        time.sleep(_POLL)
    try:
        yield bool(note["follows_a_killed_one"])
    finally:
        release()


def holder_of(path: UPath) -> str | None:
    """Return the process that has the turn, in words; None if nobody has."""
    note = _read(path)
    if note is None or (is_local(path) and _is_free(path)):
        return None
    return f"process {note.get('pid')} on {note.get('host')} (since {note.get('since')})"


def _take(path: UPath, note: dict[str, Any]) -> Callable[[], None] | None:
    """Take the turn, and return what gives it back; None if somebody has it."""
    if is_local(path):
        try:
            return _lock(path, note)
        except BlockingIOError:  # another process has it
            return None
        except OSError as error:  # a network's file system without locks
            log.debug("no file lock in %s: %s", path.parent, error)
    return _renew(path, note)


def _lock(path: UPath, note: dict[str, Any]) -> Callable[[], None]:
    """Lock the file. Raises BlockingIOError if another process has, OSError where there are no locks."""
    file = os.open(path.path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise
    note["follows_a_killed_one"] = os.fstat(file).st_size > 0
    os.ftruncate(file, 0)
    os.pwrite(file, json.dumps(note).encode(), 0)
    _held.add(file)

    def release() -> None:
        os.ftruncate(file, 0)
        _held.discard(file)
        os.close(file)

    return release


# A forked child that outlives its parent must not keep the turn.
_held: set[int] = set()


def _let_go() -> None:
    for file in _held:
        os.close(file)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


def _is_free(path: UPath) -> bool:
    """Return whether nobody locks the file."""
    with open(path.path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:  # another process has it
            return False
        except OSError:  # a file system without locks: the note tells
            return _read(path) is None
    return True


def _renew(path: UPath, note: dict[str, Any]) -> Callable[[], None] | None:
    """Take the turn by a file that is renewed; None as soon as its holder is seen to live."""
    if (before := _read(path)) and not _is_dead(before):
        seen = time.monotonic()
        while time.monotonic() - seen < _SILENT:
            time.sleep(_POLL)
            if (now := _read(path)) is None:
                before = None  # it has ended as it should
                break
            if now != before:
                return None
    note["follows_a_killed_one"] = before is not None
    _write(path, note | {"beat": 0})
    time.sleep(_SETTLE)
    if (_read(path) or {}).get("token") != note["token"]:  # the last one to write has it
        return None
    ended = threading.Event()

    def beat() -> None:
        number = 0
        while not ended.wait(_BEAT):
            number += 1
            with suppress(OSError):  # a network that recovers in time
                if (_read(path) or note).get("token") != note["token"]:
                    _lost.add(str(path))
                    return
                _write(path, note | {"beat": number})

    thread = threading.Thread(target=beat, daemon=True, name=f"turn {note['name']}")
    thread.start()

    def release() -> None:
        ended.set()
        thread.join()
        if str(path) not in _lost:
            path.unlink(missing_ok=True)
        _lost.discard(str(path))

    return release


# Files of turns that another machine has taken while this one was away.
_lost: set[str] = set()


def check_turns() -> None:
    """Raise OccupiedError if another machine has taken over: this one was suspended, or cut off from the store."""
    for path in _lost:
        raise OccupiedError(
            f"{UPath(path).stem}: another machine took over while this one was silent for {_SILENT:.0f} s. Its work "
            "goes on from the last checkpoint; this one ends."
        )


def _is_dead(note: dict[str, Any]) -> bool:
    """Return whether the holder was a process of this machine that has ended."""
    if note.get("host") != socket.gethostname():
        return False
    try:
        return process_began(note["pid"]) != note["began"]
    except (psutil.NoSuchProcess, KeyError, TypeError):
        return True


def process_began(pid: int) -> float:
    """Return when a process began; the number stays when the clock is set. Raises psutil.NoSuchProcess."""
    try:  # ticks since the start of the machine, proc_pid_stat(5)
        return float(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    except (OSError, IndexError):  # a system without /proc
        return psutil.Process(pid).create_time()


def _read(path: UPath) -> dict[str, Any] | None:
    """Return the holder's note; None where there is none, or a torn one."""
    try:
        note = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):  # nobody, or a note that was torn: nobody holds it
        return None
    return note if isinstance(note, dict) else None


def _write(path: UPath, note: dict[str, Any]) -> None:
    path.write_bytes(json.dumps(note).encode())
