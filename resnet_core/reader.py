"""The process that reads images for `resnet_core.reading`: a decoder that crashes or hangs takes this
one with it and nothing else.

    python -m resnet_core.reader PROGRESS

Requests come on stdin and answers go to stdout, each a frame: its length, 8 bytes, and an Arrow IPC
stream. A request holds rows of files and, in its schema's metadata, how to read them; it is answered
by one row a file, in tables of at most ROWS rows or as many as took SECONDS. The number of the row
that is begun is written to the file descriptor PROGRESS, 4 bytes: a message that nobody waits for.
End of file on stdin ends it.

Its imports are the time it takes to start: no torch, no pandas.
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
from typing import BinaryIO

import pyarrow as pa

from resnet_core.containers import open_files
from resnet_core.preprocessing import Preprocessing
from resnet_core.read import Limits, ReadImage, as_table, read_image, too_many_bytes, unreadable

ROWS = 128
SECONDS = 1.0
LENGTH = struct.Struct("<Q")
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
    set_limit(resource.RLIMIT_CORE, 0)
    pa.set_cpu_count(1)
    try:
        while request := receive(sys.stdin.buffer):
            for table in answer(request, progress):
                answers.write(frame(table))
                answers.flush()
    except BrokenPipeError:
        os._exit(0)  # the parent is gone; flushing at exit would fail again
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except Exception:  # noqa: BLE001 the parent raises it again, as text
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(DEFECT)


def answer(request: pa.Table, progress: int) -> Iterator[pa.Table]:
    """Tables of read images, in the order of the request's rows."""
    how = json.loads(request.schema.metadata[b"how"])
    settings, limits, reason = Preprocessing(**how["settings"]), Limits(**how["limits"]), how["reason"]
    set_limit(resource.RLIMIT_DATA, memory_limit(limits))
    fits = [size <= limits.bytes for size in request["size"].to_pylist()]
    contents = open_files(request.filter(pa.array(fits, pa.bool_())))
    images: list[ReadImage] = []
    flushed = time.monotonic()
    for row, fit in enumerate(fits):
        os.write(progress, ROW.pack(row))
        # The parent watches the clock. This is for when there is no parent any more: an endless loop
        # in a decoder would never see the end of stdin.
        signal.setitimer(signal.ITIMER_REAL, 2 * limits.seconds + 1)
        if fit:
            images.append(read(next(contents), settings, limits, reason))
        else:
            images.append(too_many_bytes(request["size"][row].as_py(), limits))
        if len(images) == ROWS or time.monotonic() - flushed > SECONDS:
            signal.setitimer(signal.ITIMER_REAL, 0)  # the parent may take its time
            yield as_table(images, settings.size)
            images, flushed = [], time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, 0)
    if images:
        yield as_table(images, settings.size)


def read(data: bytes | OSError, settings: Preprocessing, limits: Limits, reason: str | None) -> ReadImage:
    """`reason`: what is known to be wrong with the image; it is not decoded then."""
    if isinstance(data, OSError):
        return unreadable(data) if reason is None else ReadImage(None, reason=reason)
    if reason is not None:
        return ReadImage(sha256(data).hexdigest(), reason=reason)
    return read_image(data, settings, limits)


def memory_limit(limits: Limits) -> int:
    """Bytes that a reader may have: itself, the file twice, and 32 bytes a pixel, which is several
    copies at the widest levels that there are (64-bit). A last resort: decoders refuse earlier."""
    return 2**29 + 2 * limits.bytes + 32 * limits.pixels


def set_limit(which: int, value: int) -> None:
    """Lower this process's soft limit; never past the hard one."""
    hard = resource.getrlimit(which)[1]
    resource.setrlimit(which, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def make_request(files: pa.Table, settings: Preprocessing, limits: Limits, reason: str | None = None) -> bytes:
    """`files`: columns as `resnet_core.sources.open_files` wants them, and `size`."""
    how = {"settings": asdict(settings), "limits": asdict(limits), "reason": reason}
    return frame(files.replace_schema_metadata({"how": json.dumps(how)}))


def frame(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    body = sink.getvalue()
    return LENGTH.pack(body.size) + body.to_pybytes()


def receive(stream: BinaryIO) -> pa.Table | None:
    """The next frame's table; None at the end of the stream."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    return open_frame(stream.read(LENGTH.unpack(head)[0]))


def open_frame(body: bytes) -> pa.Table:
    return pa.ipc.open_stream(body).read_all()


if __name__ == "__main__":
    main()
