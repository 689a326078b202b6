"""Read many files in reader processes: an image whose decoder crashes or hangs costs no other image.

A reader (`resnet_core.reading.worker`) that ends is replaced, and its unanswered rows are read again. The image
that it was reading is tried once more, alone in a fresh reader: something else may have ended the first.
If that reader ends, too, the image is given up. An image over time is given up at once.
Readers are kept for the next request, as many as have been busy at the same time.
"""

import atexit
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from resnet_core.credentials import opened
from resnet_core.images.limits import DEFAULT_LIMITS, Limits
from resnet_core.images.preprocessing import Preprocessing
from resnet_core.reading._process import LostError, ReaderError, ReaderProcess
from resnet_core.reading.image import ReadImage, as_table, read_image, schema, unreachable
from resnet_core.reading.worker import make_request
from resnet_core.reasons import Reason, ReasonCode
from resnet_core.sources.fetch import COLUMNS, prepare, readable
from resnet_core.sources.locate import read_bytes
from resnet_core.storage.compressed import is_private

log = logging.getLogger("grayline")

_COMMAND = (sys.executable, "-P", "-m", "resnet_core.reading.worker")
_STARTS = 3  # readers in a row that may end before their first image

# Readers that wait for work, by command. Lists need no lock for pop and append.
_idle: dict[tuple[str, ...], list[ReaderProcess]] = {}


def read_files(
    files: pa.Table, settings: Preprocessing, limits: Limits = DEFAULT_LIMITS, command: Sequence[str] = _COMMAND
) -> pa.Table:
    """Return a row per row of a listing, in order, in the columns of `resnet_core.reading.image.schema`.

    files: with the columns `resnet_core.sources.fetch.COLUMNS`. Raises ReaderError if readers do not work at all;
    a bad image is a row with a reason.
    """
    tables = iterate_files(files, settings, limits, command)
    return pa.Table.from_batches((batch for table in tables for batch in table.to_batches()), schema(settings.size))


def iterate_files(
    files: pa.Table, settings: Preprocessing, limits: Limits = DEFAULT_LIMITS, command: Sequence[str] = _COMMAND
) -> Iterator[pa.Table]:
    """Yield the same rows in tables of up to 128 rows, at least one per second. command: starts a reader.

    The next rows are read while the caller works on a table.
    """
    prepare(files)  # unpacking an archive may take longer than `limits.seconds`
    suspects: set[int] = set()
    condemned: dict[int, Reason] = {}
    done = starts = 0
    while done < files.num_rows:
        if done in condemned:
            yield _hash_only(files.slice(done, 1), settings, limits, condemned[done], command)
            done += 1
            continue
        first, alone = done, done in suspects
        stop = first + 1 if alone else min((row for row in {*suspects, *condemned} if row > first), default=len(files))
        request = make_request(_rows(files.slice(first, stop - first)), settings, limits, private=is_private())
        try:
            with _borrow(command, fresh=alone or starts > 0) as reader:
                for table in reader.ask(request, stop - first, limits.seconds):
                    done, starts = done + len(table), 0
                    yield table
        except LostError as lost:
            if lost.row is None:
                starts += 1
                if starts == _STARTS:
                    raise ReaderError(f"readers of images end before they begin: {lost}\n{lost.printed}") from None
                continue
            row = first + lost.row
            log.debug("reading %s: %s\n%s", files["uri"][row], lost, lost.printed)
            if alone or lost.reason.code == ReasonCode.OVER_TIME:
                condemned[row] = lost.reason
            else:
                suspects.add(row)


def _hash_only(
    file: pa.Table, settings: Preprocessing, limits: Limits, reason: Reason, command: Sequence[str]
) -> pa.Table:
    """Return the row of an image that must not be decoded again; its bytes are hashed only."""
    try:
        with _borrow(command) as reader:
            (table,) = reader.ask(
                make_request(_rows(file), settings, limits, reason, private=is_private()), 1, limits.seconds
            )
            return table
    except LostError:
        unread = Reason.of(ReasonCode.UNREACHABLE, f"its bytes could not be read, and before: {reason.text}")
        return as_table([ReadImage(None, reason=unread)], settings.size)


def _rows(files: pa.Table) -> list[dict[str, Any]]:
    """Return the rows for a request, with the secrets that open them: the reader takes them from a pipe."""
    rows = files.select(COLUMNS).to_pylist()
    places = {(row["container"], row["kind"]) for row in rows if row["container"]}
    containers = {place: opened(readable(*place)) for place in places}
    for row in rows:
        if row["container"]:
            row["container"] = containers[row["container"], row["kind"]]
        else:
            row["uri"] = opened(row["uri"])
    return rows


@contextmanager
def _borrow(command: Sequence[str], *, fresh: bool = False) -> Iterator[ReaderProcess]:
    """Lend a reader, a new one if `fresh`. After an exception it is ended: its pipe may hold answers."""
    waiting = _idle.setdefault(tuple(command), [])
    reader = _take(waiting)
    if reader and fresh:
        reader.end()  # so that there are never more readers than callers
    if fresh or not reader:
        reader = ReaderProcess(command)
    try:
        yield reader
    except BaseException:
        reader.end()
        raise
    waiting.append(reader)


def _take(waiting: list[ReaderProcess]) -> ReaderProcess | None:
    while waiting:
        try:
            reader = waiting.pop()
        except IndexError:  # another thread was faster
            return None
        if reader.alive:
            return reader
        reader.end()
    return None


def start(command: Sequence[str] = _COMMAND) -> None:
    """Start a reader ahead of the first request, so that it is ready when the files have been listed."""
    _idle.setdefault(tuple(command), []).append(ReaderProcess(command))


def end_idle() -> None:
    """End the waiting readers; the next request starts new ones."""
    for waiting in list(_idle.values()):
        while reader := _take(waiting):
            reader.end()


atexit.register(end_idle)
# A forked process must not talk to its parent's readers.
os.register_at_fork(after_in_child=_idle.clear)


def read_file(uri: str, settings: Preprocessing, limits: Limits = DEFAULT_LIMITS) -> ReadImage:
    """Read one file in this process, which a decoder that crashes or hangs takes with it."""
    try:
        data = read_bytes(uri)
    except OSError as error:  # its row says so, and is tried again
        return unreachable(error)
    return read_image(data, settings, limits)
