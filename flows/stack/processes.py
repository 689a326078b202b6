"""Processes that outlive the command that started them. Pids, start times and logs lie in the stack's folder."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
from upath import UPath

from resnet_core.storage.files import write_text

_MARK = "GRAYLINE_STACK_PROCESS"  # in the environment: the stack's folder and the process's name
_MODULES = ("prefect", "mlflow", "uvicorn")
_BETWEEN_LINES = 5.0  # seconds
PATIENCE = 120.0  # seconds that a server may take to answer


def start(folder: Path, name: str, command: list[str], env: Mapping[str, str]) -> None:
    """Start `python -m COMMAND`, unless it runs; it outlives this process. Write its pid and start time to a file."""
    if running(folder, name):
        say(f"{name} is running already")
        return
    env = {**env, _MARK: f"{folder}/{name}"}
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    note = {"pid": process.pid, "began": psutil.Process(process.pid).create_time()}
    write_text(UPath(folder / f"{name}.json"), json.dumps(note))


def running(folder: Path, name: str) -> psutil.Process | None:
    """Return the process that `start` started under this name, if it lives.

    Another process may have got the pid since: it does not carry the mark. A start time is another one once the clock
    has been set, and decides only for processes of earlier releases.
    """
    try:
        note = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        process = psutil.Process(note["pid"])
        alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        own = alive and process.environ().get(_MARK) == f"{folder}/{name}"
        return process if own or (alive and abs(process.create_time() - note["began"]) < 1) else None
    except psutil.Error:  # it has ended, or is another user's
        return None
    except (OSError, ValueError, KeyError, TypeError):  # a power cut has torn the note, or removed it
        return _marked(f"{folder}/{name}")


def _marked(mark: str) -> psutil.Process | None:
    """Return the process that carries the mark of `start`; its children inherit it, but run other commands."""
    for process in psutil.process_iter():
        try:
            started = process.cmdline()[1:3]
            if process.environ().get(_MARK) != mark or started[:1] != ["-m"] or started[1] not in _MODULES:
                continue
            parent = process.parent()
            if parent is None or parent.environ().get(_MARK) != mark:
                return process
        except (psutil.Error, OSError, IndexError):  # another user's, or just ended
            continue
    return None


def stop(folder: Path, name: str) -> None:
    """End a process and its children, and remove its note."""
    process = running(folder, name)
    if process:
        family = [process, *process.children(recursive=True)]
        process.send_signal(signal.SIGTERM)
        _, left = psutil.wait_procs(family, timeout=15)
        for survivor in left:
            survivor.kill()
        say(f"{name} stopped")
    (folder / f"{name}.json").unlink(missing_ok=True)


def call(folder: Path, name: str, words: list[str], env: Mapping[str, str]) -> None:
    """Run a command of Prefect's. Raises RuntimeError if it fails."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    (folder / f"{name}.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode:
        raise RuntimeError(f"`{' '.join(command[1:])}` failed; see {folder / f'{name}.log'}")


def wait_for(name: str, folder: Path, ready: Callable[[], bool]) -> None:
    """Wait until it is ready. Raises RuntimeError if it dies or takes longer than PATIENCE."""
    began = told = time.monotonic()
    while not ready():
        now = time.monotonic()
        if now - told > _BETWEEN_LINES:
            say(f"{name} starts, {now - began:.0f} s so far")
            told = now
        if not running(folder, name):
            raise RuntimeError(f"{name} has ended; see {folder / f'{name}.log'}")
        if now > began + PATIENCE:
            raise RuntimeError(f"{name} does not answer after {PATIENCE:.0f} s; see {folder / f'{name}.log'}")
        time.sleep(0.5)
    say(f"{name} answers after {time.monotonic() - began:.0f} s")


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)  # noqa: T201
