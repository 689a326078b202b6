"""The process that reads images for `resnet_core.reading.pool`: a decoder that crashes or hangs takes this
one with it and nothing else.

    python -m resnet_core.reading.worker PROGRESS

Requests come on stdin and answers go to stdout, each a frame: two lengths of 8 bytes, JSON, and bytes.
A request holds rows of files and how to read them; it is answered by one row a file and the pixels,
in frames of at most ROWS rows or as many as took SECONDS. The number of the row that is begun is
written to the file descriptor PROGRESS, 4 bytes: a message that nobody waits for. End of file on
stdin ends it.

Its imports are the time it takes to start: no torch, no pandas, and pyarrow only for what it has to open.
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

from resnet_core.images.preprocessing import Preprocessing
from resnet_core.reading.image import Limits, ReadImage, as_columns, read_image, too_many_bytes, unreachable
from resnet_core.reasons import Reason, ReasonCode
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
    os.dup2(2, 1)  # what a library prints is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent decides
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # the thread that started this may have blocked some
    _set_limit(resource.RLIMIT_CORE, 0)
    try:
        while request := _receive(sys.stdin.buffer):
            for images, size in answer(request, progress):
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


def answer(request: dict[str, Any], progress: int) -> Iterator[tuple[list[ReadImage], int]]:
    """Some read images and the side of their pixels, again and again, in the order of the request's rows."""
    settings, limits = Preprocessing(**request["settings"]), Limits(**request["limits"])
    code, text = request["reason"] or (None, "")
    reason = Reason(ReasonCode(code), text) if code else None
    _set_limit(resource.RLIMIT_DATA, memory_limit(limits))
    rows = request["rows"]
    contents = _open_rows([row for row in rows if row["size"] <= limits.bytes])
    images: list[ReadImage] = []
    flushed = time.monotonic()
    for number, row in enumerate(rows):
        os.write(progress, ROW.pack(number))
        # The parent watches the clock. This is for when there is no parent any more: an endless loop
        # in a decoder would never see the end of stdin.
        signal.setitimer(signal.ITIMER_REAL, 2 * limits.seconds + 1)
        if row["size"] <= limits.bytes:
            images.append(read(next(contents), settings, limits, reason))
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
    """As `resnet_core.sources.fetch` does, whose imports take as long as all others."""
    if any(row["container"] for row in rows):
        from resnet_core.sources import fetch as containers

        return containers.open_rows(rows)
    return read_whole([row["uri"] for row in rows], [row["size"] for row in rows])


def read(data: bytes | OSError, settings: Preprocessing, limits: Limits, reason: Reason | None) -> ReadImage:
    """`reason`: what is known to be wrong with the image; it is not decoded then."""
    if isinstance(data, OSError):
        return unreachable(data)
    if reason is not None:
        return ReadImage(sha256(data).hexdigest(), reason=reason)
    return read_image(data, settings, limits)


def memory_limit(limits: Limits) -> int:
    """Bytes that a reader may have: itself, the file twice, and 32 bytes a pixel, which is several
    copies at the widest levels that there are (64-bit). A last resort: decoders refuse earlier."""
    return 2**29 + 2 * limits.bytes + 32 * limits.pixels


def _set_limit(which: int, value: int) -> None:
    """Lower this process's soft limit; never past the hard one."""
    hard = resource.getrlimit(which)[1]
    resource.setrlimit(which, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def make_request(
    rows: list[dict[str, Any]], settings: Preprocessing, limits: Limits, reason: Reason | None = None
) -> bytes:
    """`rows`: of a listing, as `resnet_core.sources.fetch.open_rows` wants them."""
    how = {"settings": asdict(settings), "limits": asdict(limits), "reason": reason}
    return b"".join(_frame({"rows": rows, **how}, np.empty(0, np.uint8)))


def _frame(content: dict[str, Any], pixels: NDArray[np.uint8]) -> tuple[bytes, bytes, memoryview]:
    """In pieces, of which the last is not copied."""
    head = json.dumps(content).encode()
    return LENGTHS.pack(len(head), pixels.nbytes), head, pixels.data


def _receive(stream: BinaryIO) -> Any:
    """The next frame's JSON; None at the end of the stream."""
    lengths = stream.read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        return None
    return json.loads(stream.read(sum(LENGTHS.unpack(lengths))))


if __name__ == "__main__":
    main()
