"""Ctrl-C and SIGTERM: any command ends within seconds, with one line, and leaves nothing running on a server.

The first signal is raised in the main thread and in the threads that run tasks. Prefect and MLflow are told on the way
out. Further signals change nothing. Where the way out takes longer than _SECONDS, the process ends as it stands:
every file is whole or not there, and the same command goes on.
"""

import atexit
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from traceback import walk_stack
from types import FrameType

import psutil

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SECONDS = 4.0  # for the way out; then the process is ended
_TIDYING = 1.0  # seconds for what a usual exit does
_POOLS = "ThreadPoolExecutor"  # how the names of threads with tasks begin, those of Prefect too
_AGAIN = 0.7  # seconds after which the exception is raised again
_OURS = tuple(str(Path(__file__).parents[2] / name) + os.sep for name in ("flows", "tasks", "resnet_core"))
_EXIT_LOCK, _TELLING = threading.Lock(), threading.Lock()
_received: list[int] = []
_told: list[int] = []
_interrupted: list[tuple[FrameType, int]] = []  # our innermost frame at the signal, and its instruction


@contextmanager
def stoppable() -> Iterator[None]:
    """End the process as the first signal says, whatever the block makes of it. Ignored signals stay ignored."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)  # tells of signals while the main thread is in C code
    threading.Thread(target=_watch, args=(reading,), daemon=True).start()
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _raise)
    atexit.register(_ignore)  # the first one registered is the last one called
    try:
        yield
    finally:
        if _received:
            _tell(_received[0])  # the thread that watches may have had no turn
            # Temporary folders, then Prefect's log, which may wait for a server that has ended.
            tidying = threading.Thread(target=atexit._run_exitfuncs, daemon=True)
            tidying.start()
            tidying.join(_TIDYING)
            _leave()


def _ignore() -> None:
    """Let a signal change nothing any more: all is done, and Python takes its handlers away while it ends."""
    if not _received:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def obey_in_flows() -> None:
    """Let Prefect use our handler: its own raises again for a second signal, in the midst of the way out."""
    import prefect.utilities.engine

    if signal.getsignal(signal.SIGTERM) is _raise:
        prefect.utilities.engine._prefect_sigterm_handler = _raise  # type: ignore[assignment]


def _raise(number: int, frame: FrameType | None) -> None:
    if _received:
        return
    _received.append(number)
    while frame and not frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    if frame:
        _interrupted.append((frame, frame.f_lasti))
    frames = sys._current_frames()
    for thread in threading.enumerate():
        at = frames.get(thread.ident or 0)
        # A thread that waits for work (`_worker`) ends with its pool, whose end would wait for it if it failed.
        if thread.name.startswith(_POOLS) and at and at.f_code.co_name != "_worker":
            _raise_in(thread)
    raise KeyboardInterrupt


def _raise_in(thread: threading.Thread) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(KeyboardInterrupt))


def _watch(pipe: int) -> None:
    """Wait for the first signal, say so, and end the process if the main thread does not.

    Libraries swallow the exception in some places. It is raised again while the call that it came in goes on.
    """
    while (number := os.read(pipe, 1)[0]) not in _SIGNALS:
        pass
    _tell(number)
    ends = time.monotonic() + _SECONDS
    while time.monotonic() < ends:
        time.sleep(_AGAIN)
        stack = sys._current_frames().get(threading.main_thread().ident or 0)
        alive = {id(frame) for frame, _ in walk_stack(stack)} if stack else set()
        if any(id(frame) in alive and frame.f_lasti == at for frame, at in _interrupted):
            _raise_in(threading.main_thread())
    _received.append(number)
    _leave()


def _tell(number: int) -> None:
    """Print the one line, once."""
    with _TELLING:
        if not _told:
            _told.append(number)
            how = "interrupted" if number == signal.SIGINT else "ended by SIGTERM"
            cursor = "\n\x1b[?25h" if os.isatty(2) else ""  # a progress bar has hidden it
            os.write(2, f"{cursor}grayline: {how}; the same command goes on from here\n".encode())
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries describe their interruption at length


def _leave() -> None:
    """End this process and those that it started; a server of its own session ends by itself."""
    with _EXIT_LOCK:
        sys.stdout.flush()
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error, OSError):  # it has ended by itself
                if os.getsid(child.pid) == os.getsid(0):
                    child.kill()
        os._exit(128 + _received[0])
