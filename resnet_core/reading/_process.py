"""The parent's side of a reader process (`resnet_core.reading.worker`): ask it over pipes, watch it, end it."""

import json
import math
import os
import selectors
import signal
import subprocess
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa

from resnet_core.reading.image import NO_MEMORY, from_columns
from resnet_core.reading.worker import DEFECT, LENGTHS, OUT_OF_MEMORY, ROW
from resnet_core.reasons import Reason, ReasonCode

_START_SECONDS = 60.0  # from a request to its first image; a new reader takes about 0.15
_END_SECONDS = 5.0
_CHUNK = 2**16  # bytes: what a pipe holds
_TAIL = 4096  # bytes of stderr that are kept

# A reader has one thread. It keeps the memory of an image for the next one: returning it to the system and
# fetching it again costs a third of the time of a photograph. The last two are glibc's, in bytes.
_VARIABLES = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**27),
}


class ReaderError(RuntimeError):
    """Readers do not start, or have a defect; the text has their output."""


class LostError(Exception):
    """A reader ended, or was killed over time, at `row` of the request; None: before the first row.

    `printed` is the end of its stderr.
    """

    def __init__(self, row: int | None, reason: Reason, printed: str) -> None:
        super().__init__(reason.text)
        self.row = row
        self.reason = reason
        self.printed = printed


class ReaderProcess:
    """A running reader. command: starts it, with the number of a file descriptor as last argument."""

    def __init__(self, command: Sequence[str]) -> None:
        self._progress, progress = os.pipe()
        try:
            self._process = subprocess.Popen(
                [*command, str(progress)],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[progress],
                env=_environment(),
            )
        except BaseException:
            os.close(self._progress)
            raise
        finally:
            os.close(progress)
        pipes = (self._process.stdin, self._process.stdout, self._process.stderr)
        self._stdin, self._stdout, self._stderr = (pipe.fileno() for pipe in pipes if pipe)
        for pipe in (self._stdin, self._stdout, self._stderr, self._progress):
            os.set_blocking(pipe, False)
        self._row: int | None = None
        self._printed = b""

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: bytes, rows: int, seconds: float) -> Iterator[pa.Table]:
        """Yield the answers to a request of `rows` rows, each within `seconds`. Raises LostError and ReaderError.

        After an error, or with answers not taken, the process cannot be used again.
        """
        self._look()  # drain messages of an earlier request
        self._row, self._printed = None, b""
        row, waited, tick = self._row, 0.0, min(1.0, seconds / 4)
        unsent, received = memoryview(request), bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdin, selectors.EVENT_WRITE)
            selector.register(self._stdout, selectors.EVENT_READ)
            selector.register(self._stderr, selectors.EVENT_READ)
            while rows:
                since = time.monotonic()
                ready = {key.fd for key, _ in selector.select(tick)}
                if self._stdin in ready:
                    unsent = unsent[self._send(unsent) :]
                    if not unsent:
                        selector.unregister(self._stdin)
                if self._stdout in ready:
                    received += self._receive()
                    for table in _take_tables(received):
                        rows -= table.num_rows
                        yield table
                self._look()
                if row != self._row or self._stdout in ready:
                    row, waited = self._row, 0.0
                else:
                    # Time that the machine was asleep does not count.
                    waited += min(time.monotonic() - since, 2 * tick)
                if waited > (_START_SECONDS if row is None else seconds):
                    self.end()
                    raise self._lost(Reason.of(ReasonCode.OVER_TIME, f"no result after {seconds:g} s"))

    def end(self) -> int | None:
        """Kill the process. Returns its exit status, or None if SIGKILL does not end it (a hanging network drive)."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe:
                pipe.close()
        if self._progress >= 0:
            os.close(self._progress)
            self._progress = -1
        return self._process.returncode

    def _send(self, data: memoryview) -> int:
        try:
            return os.write(self._stdin, data)
        except BrokenPipeError:
            return len(data)  # the end of its stdout is handled by _receive

    def _receive(self) -> bytes:
        if data := os.read(self._stdout, _CHUNK):
            return data
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        self._look()
        status = self.end()
        if status == DEFECT:
            raise ReaderError(f"a defect in the reader of images:\n{self._text()}")
        crashed = Reason.of(ReasonCode.DECODER_CRASHED, _name_status(status))
        raise self._lost(NO_MEMORY if status == OUT_OF_MEMORY else crashed)

    def _look(self) -> None:
        """Update the current row and the printed text."""
        if rows := _drain(self._progress):
            self._row = ROW.unpack(rows[-ROW.size :])[0]
        self._printed = (self._printed + _drain(self._stderr))[-_TAIL:]

    def _text(self) -> str:
        return self._printed.decode(errors="replace").strip()

    def _lost(self, reason: Reason) -> LostError:
        return LostError(self._row, reason, self._text())


def _environment() -> dict[str, str]:
    """Return a reader's environment: this process's, _VARIABLES, and the path of this resnet_core."""
    variables = {**os.environ, **_VARIABLES}
    root = str(Path(__file__).parents[2])
    if root != sysconfig.get_path("purelib"):  # it is on the path anyway, after the standard library
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return variables


def _take_tables(received: bytearray) -> Iterator[pa.Table]:
    """Take complete frames off the front of the received bytes."""
    while len(received) >= LENGTHS.size:
        head, body = LENGTHS.unpack_from(received)
        begin = LENGTHS.size + head
        if len(received) < begin + body:
            return
        columns = json.loads(received[LENGTHS.size : begin])
        count = len(columns["image_id"])
        side = math.isqrt(body // count)
        pixels = np.frombuffer(bytes(received[begin : begin + body]), np.uint8).reshape(count, side, side)
        del received[: begin + body]
        yield from_columns(columns, pixels)


def _drain(pipe: int) -> bytes:
    """Return the bytes that a pipe holds now, without waiting for more."""
    try:
        return os.read(pipe, _CHUNK)
    except BlockingIOError:  # the pipe is empty
        return b""


def _name_status(status: int | None) -> str:
    if status is None or status >= 0:
        return f"exit status {status}"
    with suppress(ValueError):
        return f"signal {signal.Signals(-status).name}"
    return f"signal {-status}"
