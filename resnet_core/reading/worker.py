"""The reader process of `resnet_core.reading.pool`: a decoder that crashes or hangs ends this process and no other.

    python -m resnet_core.reading.worker PROGRESS

stream    holds
stdin     requests: rows of files, and how to read them; end of file ends the process
stdout    answers: one row per file and the pixels, at most ROWS rows or as many as took _SECONDS
PROGRESS  file descriptor: the number of every row that is begun, 4 bytes

Requests and answers are frames: two lengths of 8 bytes, JSON, and bytes.
Imports are the time to start: no torch, no pandas, and pyarrow only for containers.
"""

import json
import os
import resource
import signal
import struct
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from hashlib import sha256
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from resnet_core import credentials
from resnet_core.images.limits import Limits
from resnet_core.images.preprocessing import Preprocessing
from resnet_core.policy import Policy, decide_by, policy
from resnet_core.reading.image import ReadImage, as_columns, read_image, too_many_bytes, unreachable
from resnet_core.reasons import Reason
from resnet_core.storage.locations import read_whole

ROWS = 128
_SECONDS = 1.0
LENGTHS = struct.Struct("<QQ")
ROW = struct.Struct("<I")

# Exit statuses that decoders do not use (libjpeg calls exit(1)): sysexits.h, EX_SOFTWARE and EX_OSERR.
DEFECT = 70
OUT_OF_MEMORY = 71


def main() -> None:
    progress = int(sys.argv[-1])
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # keep what a library prints out of the answers
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C goes to the whole group, systemd's to all; the parent decides
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # the parent's thread may have blocked some
    _set_limit(resource.RLIMIT_CORE, 0)
    try:
        while request := _receive(sys.stdin.buffer):
            for images, size in _answer(request, progress):
                answers.writelines(_frame(*as_columns(images, size)))
                answers.flush()
    except BrokenPipeError:
        os._exit(0)  # the parent is gone; flushing at exit would fail again
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except Exception:  # noqa: BLE001 the parent raises it again, as text
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(DEFECT)


def _answer(request: dict[str, Any], progress: int) -> Iterator[tuple[list[ReadImage], int]]:
    """Yield read images and the side of their pixels, in the order of the request's rows."""
    settings, limits = Preprocessing.of(request["settings"]), Limits(**request["limits"])
    reason = Reason(*request["reason"]) if request["reason"] else None
    _set_limit(resource.RLIMIT_DATA, _memory_limit(limits))
    rows = request["rows"]
    decide_by(lambda: Policy(**request["policy"]))
    if request["private"]:
        from resnet_core.storage.compressed import be_private

        be_private()
    credentials.forget()  # those of an earlier request
    for row in rows:
        place = "container" if row["container"] else "uri"
        row[place] = credentials.public(row[place])
    contents = _open_rows([row for row in rows if row["size"] <= limits.bytes])
    images: list[ReadImage] = []
    flushed = time.monotonic()
    for number, row in enumerate(rows):
        os.write(progress, ROW.pack(number))
        # The parent watches the clock. The timer ends an endless loop in a decoder after the parent has died.
        signal.setitimer(signal.ITIMER_REAL, 2 * limits.seconds + 1)
        if row["size"] <= limits.bytes:
            images.append(_read(next(contents), settings, limits, reason))
        else:
            images.append(too_many_bytes(row["size"], limits))
        if len(images) == ROWS or time.monotonic() - flushed > _SECONDS:
            signal.setitimer(signal.ITIMER_REAL, 0)  # the parent may take its time
            yield images, settings.size
            images, flushed = [], time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, 0)
    if images:
        yield images, settings.size


def _open_rows(rows: list[dict[str, Any]]) -> Iterator[bytes | OSError]:
    """Yield the bytes of the rows; `resnet_core.sources.fetch` doubles the imports, so only containers use it."""
    if any(row["container"] for row in rows):
        from resnet_core.sources.fetch import open_rows

        return open_rows(rows)
    return read_whole([row["uri"] for row in rows], [row["size"] for row in rows])


def _read(data: bytes | OSError, settings: Preprocessing, limits: Limits, reason: Reason | None) -> ReadImage:
    """Read an image. With a reason, known from an earlier try, it is hashed but not decoded."""
    if isinstance(data, OSError):
        return unreachable(data)
    if reason is not None:
        return ReadImage(sha256(data).hexdigest(), reason=reason)
    return read_image(data, settings, limits)


def _memory_limit(limits: Limits) -> int:
    """Return the bytes that a reader may have, a last resort: itself, the file twice, and 32 bytes per pixel.

    That is several copies at the widest levels (64 bits).
    """
    return 2**29 + 2 * limits.bytes + 32 * limits.pixels


def _set_limit(which: int, value: int) -> None:
    """Lower this process's soft limit; never past the hard one."""
    hard = resource.getrlimit(which)[1]
    resource.setrlimit(which, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def make_request(
    rows: list[dict[str, Any]],
    settings: Preprocessing,
    limits: Limits,
    reason: Reason | None = None,
    *,
    private: bool = False,
) -> bytes:
    """Make the frame of a request. rows: of a listing, with the columns of `resnet_core.sources.fetch.open_rows`.

    private: the reader leaves no copy under a name.
    """
    how = {"settings": asdict(settings), "limits": asdict(limits), "reason": reason, "private": private}
    how["policy"] = asdict(policy())
    return b"".join(_frame({"rows": rows, **how}, np.empty(0, np.uint8)))


def _frame(content: dict[str, Any], pixels: NDArray[np.uint8]) -> tuple[bytes, bytes, memoryview]:
    """Return a frame in pieces; the pixels are not copied."""
    head = json.dumps(content).encode()
    return LENGTHS.pack(len(head), pixels.nbytes), head, pixels.data


def _receive(stream: BinaryIO) -> Any:
    """Return the next frame's JSON, or None at the end of the stream."""
    lengths = stream.read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        return None
    return json.loads(stream.read(sum(LENGTHS.unpack(lengths))))


if __name__ == "__main__":
    main()
