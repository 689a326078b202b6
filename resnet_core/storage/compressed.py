"""Compressed files that must be read at any place: unpacked once a machine, for as long as they are used.

The unpacked form lies in a folder of the temporary one that only its owner may enter, named by the
file's URI, size and tag, and is shared by all processes of the machine. It goes when the process that
made it ends; what a killed one left goes when another is made a day later.
"""

import atexit
import bz2
import fcntl
import gzip
import hashlib
import io
import lzma
import os
import shutil
import stat
import tempfile
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa

from resnet_core.errors import UserError
from resnet_core.storage.locations import facts, open_stream, read_ranges

_Packing = Literal["gzip", "bzip2", "xz", "zstd"]
_MAGIC: dict[bytes, _Packing] = {
    b"\x1f\x8b\x08": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_A_DAY = 86_400.0
_made: set[Path] = set()


def _packing(place: str) -> _Packing | None:
    """How a file is compressed, as its first bytes say. Raises OSError."""
    (head,) = read_ranges(place, [(0, 10)])
    if isinstance(head, OSError):
        raise head
    found = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)
    # A tar begins with a name, which may begin with anything printable.
    return None if found == "bzip2" and head[4:] != b"1AY&SY" else found


@contextmanager
def open_unpacked(place: str) -> Iterator[IO[bytes]]:
    """The unpacked content from front to back; a file that is not compressed as it is. Reading raises
    UserError for one that does not unpack."""
    kind = _packing(place)
    with open_stream(place) if kind is None else io.BufferedReader(_Unpacking(place, kind), 1024**2) as file:
        yield file


def unpacked(place: str) -> str:
    """Where the unpacked content can be read at any place: the file itself, where it is not compressed.
    Raises OSError."""
    return place if _packing(place) is None else kept(place, "unpacked", _unpack)


def kept(place: str, form: str, write: Callable[[str, Path], None]) -> str:
    """Another form of a file, which `write` makes, or any process of this machine has made. Raises OSError."""
    found = facts(place)
    name = hashlib.sha256(repr((place, form, found["size"], found["modified"])).encode()).hexdigest()[:32]
    path = _folder() / name
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


def _unpack(place: str, to: Path) -> None:
    try:
        with open_unpacked(place) as file, to.open("wb") as out:
            shutil.copyfileobj(file, out, 1024**2)
    except UserError as error:
        raise OSError(str(error)) from None


def _folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"grayline-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(1, "is no folder that only you may enter; remove it", str(folder))
    return folder


def _sweep(folder: Path) -> None:
    for old in folder.iterdir():
        if old.stat().st_mtime < time.time() - _A_DAY:
            old.unlink(missing_ok=True)


def _remove_made() -> None:
    for path in _made:
        path.unlink(missing_ok=True)
        path.with_suffix(".lock").unlink(missing_ok=True)


class _Unpacking(io.RawIOBase):
    """The unpacked bytes of a compressed file. Going back means to begin again."""

    def __init__(self, place: str, kind: _Packing) -> None:
        self._place, self._kind = place, kind
        self._begin()

    def _begin(self) -> None:
        self._packed = open_stream(self._place)
        self._file: Any = _decoder(self._packed, self._kind)
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
            return self._file.read(count)
        except (EOFError, OSError, ValueError, zlib.error, lzma.LZMAError) as error:
            raise UserError(f"{self._place}: does not unpack ({error}). Fetch or make it again.") from None


def _decoder(file: IO[bytes], kind: _Packing) -> Any:
    match kind:
        case "gzip":
            return gzip.GzipFile(fileobj=file)
        case "bzip2":
            return bz2.BZ2File(file)
        case "xz":
            return lzma.LZMAFile(file)
        case "zstd":
            return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")
