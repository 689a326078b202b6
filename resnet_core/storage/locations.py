"""Where a URI leads: a file of this machine, or one that fsspec opens; whole, as a stream, or in pieces."""

import io
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


def printable(name: str) -> str:
    """A name whose bytes are no UTF-8 as text that any table can hold; other names unchanged."""
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode("utf-8")


def _unprintable(name: str) -> str:
    """The name that `printable` was given."""
    return re.sub(r"\\udc([89a-f][0-9a-f])", lambda match: os.fsdecode(bytes([int(match[1], 16)])), name)


UNKNOWN_SIZE = -1  # until it is read
BLOCK = 4 * 1024**2
# Neighbours in a container are fetched in one go: so much at once, with no wider gaps than this.
_RUN, GAP = 4 * 1024**2, 64 * 1024
# Files of an object store that are fetched at the same time: requests, and bytes.
AT_ONCE, _AT_ONCE_BYTES = 32, 64 * 1024**2

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::[A-Za-z][A-Za-z0-9+.-]*)*://")
_TAGS = ("ETag", "etag", "md5Hash", "md5", "LastModified", "last_modified", "mtime", "created")


def is_url(place: str) -> bool:
    """Whether it leads to another file system than this machine's."""
    return _SCHEME.match(place) is not None and not place.startswith(("file://", "local://"))


def absolute(place: str) -> str:
    """A local path from the root of the disk, whatever the working folder; URLs without a last slash."""
    if is_url(place):
        return place if place.endswith("://") else place.rstrip("/")
    return os.path.abspath(re.sub("^(file|local)://", "", place))


def file_system(url: str) -> tuple["AbstractFileSystem", str]:
    """The file system, with the settings that the environment gives it, and the name there. It keeps
    no listings: what a long process has once seen would hide what is new. Raises OSError."""
    import fsspec

    protocol = url.partition("://")[0]
    with _os_errors():
        if "::" in protocol:
            return fsspec.core.url_to_fs(url)
        # Not url_to_fs: it takes a `::` in a file's name for a chain of file systems, as some of these do.
        kind = fsspec.get_filesystem_class(protocol)
        odd = url.rfind("/", len(protocol) + len("://"), url.find("::")) if "::" in url else -1
        folder, name = (url, "") if odd < 0 else (url[:odd], url[odd:])
        return kind(**kind._get_kwargs_from_urls(folder), use_listings_cache=False), kind._strip_protocol(folder) + name


def facts(place: str) -> dict[str, Any]:
    """`type` (file, directory or other), `size` and `modified` of it. Raises OSError."""
    if not is_url(place):
        found = os.stat(_existing(place))
        kind = {stat.S_IFREG: "file", stat.S_IFDIR: "directory"}.get(stat.S_IFMT(found.st_mode), "other")
        return {"type": kind, "size": found.st_size, "modified": str(found.st_mtime_ns)}
    fs, name = file_system(place)
    with _os_errors():
        return remote_facts(fs.info(name))


def remote_facts(info: dict[str, Any]) -> dict[str, Any]:
    """The same of what fsspec says of a file."""
    size = info.get("size")
    tag = next((info[name] for name in _TAGS if info.get(name) is not None), "")
    return {"type": info.get("type", "file"), "size": UNKNOWN_SIZE if size is None else int(size), "modified": str(tag)}


def open_stream(place: str) -> IO[bytes]:
    """To read from front to back, in jumps too. Raises OSError."""
    if not is_url(place):
        return open(_existing(place), "rb", buffering=1024**2)
    fs, name = file_system(place)
    with _os_errors():
        return io.BufferedReader(fs.open(name, "rb", block_size=BLOCK, cache_type="readahead"), 1024**2)


def read_whole(uris: Sequence[str], sizes: Sequence[int]) -> Iterator[bytes | OSError]:
    """The bytes of each file, in order. One that has not the size that it had when it was listed is an
    error (UNKNOWN_SIZE: whatever it has); more than that is never read."""
    waiting: list[tuple[AbstractFileSystem, str, int]] = []
    for uri, size in zip(uris, sizes, strict=True):
        fs, name = file_system(uri) if is_url(uri) else (None, uri)
        held = sum(abs(size) for _, _, size in waiting)
        if waiting and (fs is not waiting[0][0] or len(waiting) == AT_ONCE or held + size > _AT_ONCE_BYTES):
            yield from _fetch(waiting)
            waiting = []
        if fs:
            waiting.append((fs, name, size))
        else:
            yield _read_local(name, size)
    yield from _fetch(waiting)


def read_ranges(place: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes | OSError]:
    """The bytes from the first to before the second place of each range, in order; fewer where the
    file ends."""
    try:
        with _reader(place) as read:
            for run in _runs(ranges):
                try:
                    start = run[0][0]
                    data = read(start, max(end for _, end in run))
                    yield from (data[a - start : b - start] for a, b in run)
                except OSError as error:
                    yield from (error for _ in run)
    except OSError as error:
        yield from (error for _ in ranges)


def _runs(ranges: Iterable[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    run: list[tuple[int, int]] = []
    for start, end in ranges:
        if run and (not run[-1][0] <= start <= run[-1][1] + GAP or end - run[0][0] > _RUN):
            yield run
            run = []
        run.append((start, end))
    if run:
        yield run


@contextmanager
def _reader(place: str) -> Iterator[Any]:
    if is_url(place):
        fs, name = file_system(place)

        def fetch(start: int, end: int) -> bytes:
            with _os_errors():
                data = fs.cat_file(name, start=start, end=end)
            # Some web servers know no ranges and send it all.
            return data if len(data) <= end - start else data[start:end]

        yield fetch
    else:
        with open(_existing(place), "rb", buffering=0) as file:
            yield lambda start, end: _pread(file.fileno(), start, end)


def _pread(file: int, start: int, end: int) -> bytes:
    pieces = []
    while start < end and (piece := os.pread(file, end - start, start)):
        pieces.append(piece)
        start += len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _fetch(files: Sequence[tuple["AbstractFileSystem", str, int]]) -> Iterator[bytes | OSError]:
    """Files of one object store: many requests at a time where its file system can."""
    if not files:
        return
    names = [name for _, name, _ in files]
    ends = [size + 1 if size > 0 else None for _, _, size in files]
    found = files[0][0].cat_ranges(names, [0 if end else None for end in ends], ends, on_error="return")
    for (_, _, size), data in zip(files, found, strict=True):
        yield _as_os_error(data) if isinstance(data, Exception) else _checked(data, size)


def _read_local(uri: str, size: int) -> bytes | OSError:
    try:
        with open(_existing(uri), "rb") as file:
            return _checked(file.read() if size < 0 else file.read(size + 1), size)
    except OSError as error:
        return error


def _checked(data: bytes, size: int) -> bytes | OSError:
    if size < 0 or len(data) == size:
        return data
    return OSError(f"has changed since it was listed: it had {size:,} bytes then")


def _existing(path: str) -> str:
    """A local name, also where `printable` has changed it."""
    if "\\udc" not in path or os.path.lexists(path):
        return path
    return _unprintable(path)


@contextmanager
def _os_errors() -> Iterator[None]:
    """Whatever a file system's own library raises as an OSError."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - every library has a family of its own
        raise _as_os_error(error) from None


def _as_os_error(error: Exception) -> OSError:
    return error if isinstance(error, OSError) else OSError(f"{type(error).__name__}: {error}")
