"""Compressed files that must be read at any place: unpacked once per machine, for as long as they are used.

The unpacked copy is named by the file's URI, size and tag, and shared by all processes of the machine. Its folder
in the temporary folder is its owner's alone. The copy goes when the process that made it ends; copies of killed
processes go a day later, when another is made.

With confidential images, copies have no name: each process makes its own, and the system frees it with the process,
however it ends. Where the system has no /proc, they are as above.

fsspec's `filecache` does not fit: processes do not wait for each other, and nothing is removed at the end. Its
import takes longer than the start of a reader process.
"""

import atexit
import bz2
import errno
import fcntl
import gzip
import hashlib
import io
import logging
import lzma
import os
import re
import shutil
import stat
import sys
import tempfile
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from threading import Event, Lock
from typing import IO, Any

import pyarrow as pa

from resnet_core.errors import UserError
from resnet_core.policy import Budget, policy
from resnet_core.storage.locations import facts, open_stream, read_ranges

log = logging.getLogger("grayline")

_XZ_MEMORY = 2**30  # bytes: a file of 100 may ask for 4 GiB
_LEAST_FREE = 2**28  # bytes that stay free on the disk of the unpacked copies
_Opener = Callable[[IO[bytes]], Any]
_DAY = 86_400.0  # seconds
_PREFIX = "grayline-unpacked-"
_PIECE = 1024**2  # bytes
_made: set[Path] = set()
_FILES = Path("/proc/self/fd")
_unnamed: dict[str, IO[bytes]] = {}  # copies without a name
_lock = Lock()
_private = Event()


def be_private() -> None:
    """From now on, leave no copy under a name: images of this process are confidential."""
    _private.set()


def is_private() -> bool:
    return _private.is_set()


def _open_zstd(file: IO[bytes]) -> Any:
    return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")


class _Xz:
    """The content of an xz file, with a limit on memory, which lzma.open has not."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._lzma, self._rest = file, lzma.LZMADecompressor(memlimit=_XZ_MEMORY), b""

    def read(self, count: int) -> bytes:
        while True:
            if self._lzma.eof:
                self._rest = self._lzma.unused_data.lstrip(b"\0") or self._file.read(2**16).lstrip(b"\0")
                if not self._rest:
                    return b""
                self._lzma = lzma.LZMADecompressor(memlimit=_XZ_MEMORY)
            elif self._lzma.needs_input and not self._rest:
                self._rest = self._file.read(2**16)
                if not self._rest:
                    raise EOFError("it ends too early")
            packed, self._rest = self._rest, b""
            if data := self._lzma.decompress(packed, count):
                return data


# By the first bytes. Those of bzip2 are matched further than its magic, for a tar begins with any name.
_OPENERS: dict[bytes, _Opener] = {
    rb"\x1f\x8b\x08": gzip.open,
    rb"BZh.1AY&SY": bz2.open,
    rb"\xfd7zXZ\x00": _Xz,
    rb"\x28\xb5\x2f\xfd": _open_zstd,
}


def _opener_of(place: str) -> _Opener | None:
    """Return what opens a compressed file, by its first bytes; None for other files. Raises OSError."""
    (head,) = read_ranges(place, [(0, 10)])
    if isinstance(head, OSError):
        raise head
    return next((opener for magic, opener in _OPENERS.items() if re.match(magic, head, re.DOTALL)), None)


@contextmanager
def open_unpacked(place: str) -> Iterator[IO[bytes]]:
    """Open the unpacked content from front to back; an uncompressed file as it is.

    Reading raises UserError if the file does not unpack.
    """
    opener = _opener_of(place)
    with open_stream(place) if opener is None else io.BufferedReader(_Unpacking(place, opener), 1024**2) as file:
        yield file


def _is_compressed(place: str) -> bool:
    """Return whether a file is compressed as a whole. Raises OSError."""
    return _opener_of(place) is not None


Pieces = Iterable[tuple[int, int]]  # offset and length


def _whole(file: IO[bytes]) -> Pieces:
    return [(0, sys.maxsize)]


def unpacked(place: str, pieces_of: Callable[[IO[bytes]], Pieces] = _whole) -> str:
    """Return the place of the unpacked content: the file itself, unless it is compressed. Raises OSError.

    pieces_of: gives the pieces that are needed, front to back; others are holes. Pieces beyond the
    policy are missing at the end: reading them gives too few bytes.
    """
    if not _is_compressed(place):
        return place
    limits = policy()
    form = repr((pieces_of.__module__, limits.image_bytes, limits.unpacked_bytes, limits.ratio))
    return shared_copy(place, form, partial(_unpack, pieces_of))


def shared_copy(place: str, form: str, write: Callable[[str, Path], None]) -> str:
    """Return another form of a file, made by `write` unless a process of this machine has made it. Raises OSError."""
    file = facts(place)
    name = hashlib.sha256(repr((place, form, file["size"], file["modified"])).encode()).hexdigest()[:32]
    folder = _folder(tempfile.gettempdir())
    folder.mkdir(mode=0o700, exist_ok=True)  # systems tidy their temporary folders
    if is_private() and _FILES.exists():
        return _unnamed_copy(name, place, write, folder)
    path = folder / name
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            os.utime(path)
            return str(path)
        _sweep(path.parent)
        draft = path.with_suffix(f".{uuid.uuid4().hex[:8]}")
        try:
            write(place, draft)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    if not _made:
        atexit.register(_remove_made)
    _made.add(path)
    return str(path)


def _unnamed_copy(name: str, place: str, write: Callable[[str, Path], None], folder: Path) -> str:
    """Return the place of a copy that only this process and its readers can open."""
    with _lock:
        if name not in _unnamed:
            file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 held until the process ends
            try:
                write(place, _FILES / str(file.fileno()))
            except BaseException:
                file.close()
                raise
            _unnamed[name] = file
        return f"/proc/{os.getpid()}/fd/{_unnamed[name].fileno()}"


def _unpack(pieces_of: Callable[[IO[bytes]], Pieces], place: str, to: Path) -> None:
    budget = Budget(place, facts(place)["size"])
    try:
        with open_unpacked(place) as file, to.open("wb") as out:
            for offset, length in pieces_of(file):
                file.seek(offset)
                out.seek(offset)
                left = length
                while left and (data := file.read(min(_PIECE, left))):
                    left -= len(data)
                    try:
                        budget.spend(len(data))
                    except UserError as error:
                        log.warning("%s The rest of it is not read", error)
                        return
                    check_room(to)
                    out.write(data)
    except UserError as error:
        raise OSError(str(error)) from None


@lru_cache
def _folder(temporary: str) -> Path:
    """Return the folder that the user's processes share, in the temporary folder of the machine.

    Its name has a random part, so that nobody else can take it first. The oldest one of ours is found again.
    """
    ours = sorted(path for path in Path(temporary).glob(f"{_PREFIX}*") if _is_ours(path))
    return ours[0] if ours else Path(tempfile.mkdtemp(prefix=_PREFIX, dir=temporary))


def _is_ours(path: Path) -> bool:
    """Return whether a path is a folder of this user, which nobody else may enter."""
    try:
        status = path.lstat()
    except OSError:  # what cannot be looked at is not ours
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077


def check_room(file: Path) -> None:
    """Raise OSError before the disk of the unpacked copies is full."""
    if shutil.disk_usage(file).free < _LEAST_FREE:
        raise OSError(errno.ENOSPC, f"less than {_LEAST_FREE:,} bytes would be left", str(file))


def _sweep(folder: Path) -> None:
    for path in folder.iterdir():
        if path.stat().st_mtime < time.time() - _DAY:
            path.unlink(missing_ok=True)


def _remove_made() -> None:
    for path in _made:
        path.unlink(missing_ok=True)
        path.with_suffix(".lock").unlink(missing_ok=True)


class _Unpacking(io.RawIOBase):
    """The unpacked bytes of a compressed file. Seeking backwards starts again at the front."""

    def __init__(self, place: str, opener: _Opener) -> None:
        self._place, self._opener, self._budget = place, opener, Budget(place)
        self._begin()

    def _begin(self) -> None:
        self._packed = open_stream(self._place)
        self._file = self._opener(self._packed)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence != 0:
            raise io.UnsupportedOperation("only from the start")
        if offset < self._at:
            self._packed.close()
            self._begin()
        while self._at < offset and (skipped := self._read(min(offset - self._at, 1024**2))):
            self._at += len(skipped)
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._packed.close()
        super().close()

    def _read(self, count: int) -> bytes:
        try:
            data = self._file.read(count)
            self._budget.spend(len(data))
            return data
        except (EOFError, OSError, ValueError, zlib.error, lzma.LZMAError) as error:
            raise UserError(f"{self._place}: does not unpack ({error}). Fetch or make it again.") from None
