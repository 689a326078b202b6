"""Many files read by processes of their own: an image whose decoder crashes or hangs costs itself.

A reader (`resnet_core.reading.worker`) that ends in the middle is replaced, and what it had not answered is
read again. The image that it was on is tried once more, alone in a fresh reader, for something else
may have ended the first; it is given up when that one ends too. An image that lasts too long is given
up at once. Readers are kept for the next request, as many as have been busy at the same time.
"""

import atexit
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from resnet_core.images.preprocessing import Preprocessing
from resnet_core.reading._process import LostError, ReaderError, ReaderProcess
from resnet_core.reading.image import DEFAULT_LIMITS, Limits, ReadImage, as_table, read_image, schema, unreachable
from resnet_core.reading.worker import make_request
from resnet_core.reasons import Reason, ReasonCode
from resnet_core.sources.fetch import COLUMNS, prepare

log = logging.getLogger("grayline")

_COMMAND = (sys.executable, "-P", "-m", "resnet_core.reading.worker")
_STARTS = 3  # readers in a row that may end before their first image

# Those that wait for work. Taking from a list and adding to it need no lock.
_idle: dict[tuple[str, ...], list[ReaderProcess]] = {}


def read_files(
    files: pa.Table, settings: Preprocessing, limits: Limits = DEFAULT_LIMITS, command: Sequence[str] = _COMMAND
) -> pa.Table:
    """Rows of a listing -> one row each, in the same order, in the columns of `resnet_core.reading.image.schema`.

    `files` has the columns that `resnet_core.sources.source.open_files` wants, and `size`. Raises ReaderError
    when readers do not work at all; a bad image is a row with a reason.
    """
    tables = iterate_files(files, settings, limits, command)
    return pa.Table.from_batches((some for table in tables for some in table.to_batches()), schema(settings.size))


def iterate_files(
    files: pa.Table, settings: Preprocessing, limits: Limits = DEFAULT_LIMITS, command: Sequence[str] = _COMMAND
) -> Iterator[pa.Table]:
    """The same as it comes: tables of 128 rows or less, about one a second or more. The next are read
    while the caller works on one. `command` starts a reader."""
    prepare(files)  # unpacking an archive takes longer than any image may
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
        request = make_request(rows_of(files.slice(first, stop - first)), settings, limits)
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
    """The row of an image that is not to be decoded again: its bytes still give it a name."""
    try:
        with _borrow(command) as reader:
            (table,) = reader.ask(make_request(rows_of(file), settings, limits, reason), 1, limits.seconds)
            return table
    except LostError:
        unread = Reason.of(ReasonCode.UNREACHABLE, f"its bytes could not be read, and before: {reason.text}")
        return as_table([ReadImage(None, reason=unread)], settings.size)


def rows_of(files: pa.Table) -> list[dict[str, Any]]:
    return files.select(COLUMNS).to_pylist()


@contextmanager
def _borrow(command: Sequence[str], *, fresh: bool = False) -> Iterator[ReaderProcess]:
    """A reader that nobody else has, a new one if `fresh`. When anything is raised meanwhile it is
    ended, not kept: there may be answers in its pipe."""
    waiting = _idle.setdefault(tuple(command), [])
    reader = take(waiting)
    if reader and fresh:
        reader.end()  # its place is taken, so that there are never more than callers
    if fresh or not reader:
        reader = ReaderProcess(command)
    try:
        yield reader
    except BaseException:
        reader.end()
        raise
    waiting.append(reader)


def take(waiting: list[ReaderProcess]) -> ReaderProcess | None:
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
    """Start a reader for whoever asks first: it will be ready when the files are found."""
    _idle.setdefault(tuple(command), []).append(ReaderProcess(command))


def end_idle() -> None:
    """End the readers that wait for work; the next request starts new ones."""
    for waiting in list(_idle.values()):
        while reader := take(waiting):
            reader.end()


atexit.register(end_idle)
# A forked process must not talk to its parent's readers.
os.register_at_fork(after_in_child=_idle.clear)


def read_file(uri: str, settings: Preprocessing, limits: Limits = DEFAULT_LIMITS) -> ReadImage:
    """One file in this process, where a decoder that crashes or hangs takes the caller with it:
    `resnet_core.reading.pool` is the way for many."""
    from resnet_core.sources.locate import read_bytes  # a reader starts in half the time without

    try:
        data = read_bytes(uri)
    except OSError as error:
        return unreachable(error)
    return read_image(data, settings, limits)
