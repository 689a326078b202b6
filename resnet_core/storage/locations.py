"""Places: files of this machine, or URLs that fsspec opens; read whole, as a stream, or in ranges.

URLs are public (`resnet_core.credentials`): `file_system` alone adds what opens them.
"""

import io
import os
import posixpath
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import lru_cache, partial
from typing import IO, TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from resnet_core.credentials import masked, opened, public
from resnet_core.patience import patiently
from resnet_core.policy import OutOfReachError, check_protocol, guarded_client, manifest_roots
from resnet_core.storage.names import spellings

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


def printable(name: str) -> str:
    """Return a name as text that any table can hold; names that are valid UTF-8 stay as they are."""
    if name.isascii():
        return name
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return name.encode("utf-8", "backslashreplace").decode("utf-8")
    return name


def _unprintable(name: str) -> str:
    """Return the name that `printable` was given."""
    return re.sub(r"\\udc([89a-f][0-9a-f])", lambda match: os.fsdecode(bytes([int(match[1], 16)])), name)


UNKNOWN_SIZE = -1  # until it is read
BLOCK = 4 * 1024**2
# Neighbours in a container are fetched together: at most so many bytes, with gaps of at most so many.
_RUN, GAP = 4 * 1024**2, 64 * 1024
AT_ONCE, _AT_ONCE_BYTES = 32, 64 * 1024**2  # requests to an object store at a time, and their bytes


_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::[A-Za-z][A-Za-z0-9+.-]*)*://")
_FILE = re.compile("^(file|local)://", re.IGNORECASE)
_TAGS = ("ETag", "etag", "md5Hash", "md5", "LastModified", "last_modified", "mtime", "created")


def is_url(place: str) -> bool:
    """Return whether a place is in another file system than this machine's."""
    return _SCHEME.match(place) is not None and _FILE.match(place) is None


def from_home(place: str) -> str:
    """Return a path with `~` as the home folder; a name without a home stays as it is."""
    return os.path.expanduser(place)  # noqa: PTH111 pathlib's raises for an unknown user


def absolute(place: str) -> str:
    """Return a local path from the root of the disk, `~` as the home folder. A public URL loses its last slash."""
    if is_url(place):
        place = public(place)
        return place if place.endswith("://") else place.rstrip("/")
    return os.path.abspath(from_home(_FILE.sub("", place)))


def file_system(url: str) -> tuple["AbstractFileSystem", str]:
    """Return the file system, with its settings from the environment, and the name there. Raises OSError.

    It caches no listings, which would hide new files from a long process. Raises OutOfReachError for a protocol that
    is not allowed: every URL of the input becomes a file system here.
    """
    check_protocol(url)
    import fsspec

    url = opened(url)
    protocol = url.partition("://")[0].lower()
    guarded = {"get_client": guarded_client} if protocol in ("http", "https") else {}
    with os_errors():
        # `url_to_fs` and some file systems take a `::` in a file's name for a chain of file systems.
        kind = fsspec.get_filesystem_class(protocol)
        odd = url.rfind("/", len(protocol) + len("://"), url.find("::")) if "::" in url else -1
        folder, name = (url, "") if odd < 0 else (url[:odd], url[odd:])
        fs = kind(**kind._get_kwargs_from_urls(folder), **guarded, use_listings_cache=False)
        return fs, kind._strip_protocol(folder) + name


def facts(place: str) -> dict[str, Any]:
    """Return `type` (file, directory or other), `size` and `modified` of a place. Raises OSError."""
    if not is_url(place):
        return _local_facts(os.stat(existing(place)))
    fs, name = file_system(place)
    with os_errors():
        return remote_facts(fs.info(name))


def _local_facts(status: os.stat_result) -> dict[str, Any]:
    kind = {stat.S_IFREG: "file", stat.S_IFDIR: "directory"}.get(stat.S_IFMT(status.st_mode), "other")
    return {"type": kind, "size": status.st_size, "modified": str(status.st_mtime_ns)}


def facts_if_there(place: str) -> dict[str, Any] | None:
    """Return the facts of a place; None if nothing lies there. Raises JobError if its file system does not say."""
    try:
        return patiently(facts, place)
    except (OSError, ValueError):  # nothing lies there: `patiently` raises all else
        return None


def remote_facts(info: dict[str, Any]) -> dict[str, Any]:
    """Return the same from fsspec's description of a file."""
    size = info.get("size")
    tag = next((info[name] for name in _TAGS if info.get(name) is not None), "")
    return {"type": info.get("type", "file"), "size": UNKNOWN_SIZE if size is None else int(size), "modified": str(tag)}


def place_of(folder: str, path: str) -> str:
    """Return the place that a path relative to a folder names."""
    if is_url(path) or path.startswith("file://"):
        return absolute(path)
    return f"{folder}/{path.removeprefix('/')}" if is_url(folder) else absolute(os.path.join(folder, path))


class Reach:
    """The places that a table may name: under its own source, and under `manifest_roots` of the policy.

    A path of this machine counts as the place that its links lead to. A URL with `..`, also as `%2e`, is nowhere.
    """

    def __init__(self, own: str) -> None:
        places = [absolute(place) for place in (own, *manifest_roots())]
        self._urls = tuple(place if place.endswith("://") else place + "/" for place in places if is_url(place))
        self._folders = tuple(os.path.realpath(p).rstrip("/") + "/" for p in places if not is_url(p))
        self._holds = lru_cache(1024)(self._is_inside)

    def takes(self, place: str) -> bool:
        """Return whether a place, absolute or a URL, may be named; nothing is opened."""
        if is_url(place):
            return place.startswith(self._urls) and _is_plain(place)
        return self._is_inside(place)

    def look(self, place: str) -> dict[str, Any] | None:
        """Return `facts` of a place, None if it may not be named. Raises OSError if it is missing."""
        if is_url(place):
            return facts(place) if self.takes(place) else None
        if not (self._holds(posixpath.dirname(place)) or self._is_inside(place)):
            return None
        name = existing(place)
        status = os.lstat(name)
        if stat.S_ISLNK(status.st_mode):
            if not self._is_inside(name):
                return None
            status = os.stat(name)
        return _local_facts(status)

    def _is_inside(self, place: str) -> bool:
        return (os.path.realpath(place) + "/").startswith(self._folders)


def _is_plain(url: str) -> bool:
    """Return whether no part of a URL is `..`, however often it was quoted."""
    for _ in range(4):
        if ".." in re.split(r"[/\\?#]", url):
            return False
        url = unquote(url)
    return unquote(url) == url


class Found(NamedTuple):
    """The file that a path names: None for size and tag if it is missing. `beyond`: it may not be named."""

    place: str
    size: int | None = None
    modified: str | None = None
    beyond: bool = False


def out_of_reach(table: str, path: str) -> str:
    """Return the URI of a path that a table may not name; it opens nothing."""
    return f"{table}#out-of-reach={path}"


def find_files(folder: str, paths: Iterable[str], table: str, reach: Reach) -> list[Found]:
    """Return the file that each path of a table names, relative to a folder; nothing beyond `reach` is looked for."""
    with ThreadPoolExecutor(AT_ONCE) if is_url(folder) else nullcontext() as pool:
        return list((pool.map if pool else map)(partial(_find_file, folder, table, reach), paths))


def _find_file(folder: str, table: str, reach: Reach, path: str) -> Found:
    beyond = True
    for spelling in spellings(path):
        place = place_of(folder, spelling)
        try:
            file = patiently(reach.look, place)
        except (OSError, ValueError):  # no file of this spelling: `patiently` raises all else
            beyond = False
            continue
        if file is not None:
            beyond = False
            if file["type"] == "file":
                return Found(place, file["size"], file["modified"])
    return Found(out_of_reach(table, path), beyond=True) if beyond else Found(place_of(folder, path))


def open_stream(place: str) -> IO[bytes]:
    """Open a file to read from front to back, also with jumps. Raises OSError."""
    if not is_url(place):
        return open(existing(place), "rb", buffering=1024**2)
    fs, name = file_system(place)
    with os_errors():
        return io.BufferedReader(fs.open(name, "rb", block_size=BLOCK, cache_type="readahead"), 1024**2)


def read_whole(uris: Sequence[str], sizes: Sequence[int]) -> Iterator[bytes | OSError]:
    """Yield the bytes of each file, in order; an OSError if a file no longer has its size.

    Never reads more than the size; UNKNOWN_SIZE stands for any.
    """
    waiting: list[tuple[AbstractFileSystem, str, int]] = []
    for uri, size in zip(uris, sizes, strict=True):
        try:
            fs, name = file_system(uri) if is_url(uri) else (None, uri)
        except OSError as error:  # its row says so
            yield from _fetch(waiting)
            waiting = []
            yield error
            continue
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
    """Yield the bytes of each range [start, end), in order; fewer where the file ends."""
    try:
        with _reader(place) as read:
            for run in _runs(ranges):
                try:
                    start = run[0][0]
                    data = read(start, max(end for _, end in run))
                    yield from (data[a - start : b - start] for a, b in run)
                except OSError as error:  # their rows say so
                    yield from (error for _ in run)
    except OSError as error:  # their rows say so
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
            with os_errors():
                data = fs.cat_file(name, start=start, end=end)
            # Web servers without ranges send the whole file.
            return data if len(data) <= end - start else data[start:end]

        yield fetch
    else:
        with open(existing(place), "rb") as file:

            def read(start: int, end: int) -> bytes:
                file.seek(start)
                return file.read(end - start)

            yield read


def _fetch(files: Sequence[tuple["AbstractFileSystem", str, int]]) -> Iterator[bytes | OSError]:
    """Yield files of one object store, with many requests at a time where its file system can."""
    if not files:
        return
    names = [name for _, name, _ in files]
    ends = [size + 1 if size > 0 else None for _, _, size in files]
    contents = files[0][0].cat_ranges(names, [0 if end else None for end in ends], ends, on_error="return")
    for (_, _, size), data in zip(files, contents, strict=True):
        yield _as_os_error(data) if isinstance(data, Exception) else _checked(data, size)


def _read_local(uri: str, size: int) -> bytes | OSError:
    try:
        with open(existing(uri), "rb") as file:
            return _checked(file.read() if size < 0 else file.read(size + 1), size)
    except OSError as error:  # its row says so
        return error


def _checked(data: bytes, size: int) -> bytes | OSError:
    if size < 0 or len(data) == size:
        return data
    return OSError(f"has changed since it was listed: it had {size:,} bytes then")


def existing(path: str) -> str:
    """Return a local file's name, also if `printable` has changed it."""
    if "\\udc" not in path or os.path.lexists(path):
        return path
    return _unprintable(path)


@contextmanager
def os_errors() -> Iterator[None]:
    """Raise the errors of file systems' libraries as OSError, without secrets in their texts."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - every library has a family of its own
        raise _as_os_error(error) from None


def _as_os_error(error: Exception) -> OSError:
    inner: BaseException | None = error
    while inner is not None:  # fsspec calls any failure a missing file
        if isinstance(inner, OutOfReachError):
            return inner
        if (status := getattr(inner, "status", None)) in (401, 403):
            return PermissionError(f"{status}: user, password or signature are missing or wrong; GRAYLINE_ACCESS_FILE")
        inner = inner.__cause__ or inner.__context__
    if not isinstance(error, OSError):
        return OSError(masked(f"{type(error).__name__}: {error}"))
    if str(error) == masked(str(error)):
        return error
    kind = next(kind for kind in type(error).__mro__ if kind.__module__ == "builtins")
    clean: OSError = kind(*(masked(text) if isinstance(text, str) else text for text in error.args))
    return clean if str(clean) == masked(str(clean)) else OSError(masked(str(error)))
