"""Folders: all files below one, or those that a glob names; on this machine or in an object store."""

import fnmatch
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from resnet_core.errors import UserError
from resnet_core.sources.listing import BATCH, is_ignored, record_batch, top_folder
from resnet_core.storage.locations import absolute, file_system, is_url, printable, remote_facts

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


log = logging.getLogger("grayline")

PAGE = 1000  # keys in a page of an object store's listing; S3 gives at most that many
_WILD = re.compile(r"[*?\[]")
# The parts of the glob that the next name may match; None without a glob: any name matches.
State = frozenset[int] | None
# The URI and the path of a file, its size and tag; a folder that cannot be read has a size of None.
_File = tuple[str, str, int | None, str]


@dataclass(frozen=True)
class _Glob:
    """The folder before the first part with a wildcard, and the parts from there on.

    As in a shell, `*` and `?` stay within a name, and `**` is any number of folders.
    """

    folder: str
    parts: tuple[str, ...]

    def begin(self) -> State:
        return self._with_skipped({0})

    def enter(self, state: State, name: str, *, deeper: bool = True) -> State:
        """Return the state within the folder `name`; an empty one if nothing there can match.

        deeper: `**` matches the folder, too.
        """
        assert state is not None
        inside = {place for place in state if deeper and self.parts[place] == "**"}
        inside |= {place + 1 for place in state if self.parts[place] != "**" and _fits(self.parts[place], name)}
        return self._with_skipped({place for place in inside if place < len(self.parts)})

    def takes(self, state: State, name: str) -> bool:
        assert state is not None
        last = len(self.parts) - 1
        return last in state and (self.parts[last] == "**" or _fits(self.parts[last], name))

    def _with_skipped(self, state: set[int]) -> State:
        for place in sorted(state):
            while place < len(self.parts) - 1 and self.parts[place] == "**":
                place += 1
                state.add(place)
        return frozenset(state)


def is_glob(source: str) -> bool:
    return _WILD.search(source) is not None and not source.startswith(("http://", "https://"))


def parse_glob(source: str) -> _Glob:
    """Split the glob of an absolute path or URL."""
    scheme, mark, rest = source.rpartition("://")
    parts = rest.split("/")
    first = next(place for place, part in enumerate(parts) if _WILD.search(part))
    folder = "/".join(parts[:first])
    return _Glob(scheme + mark + folder or "/", tuple(part for part in parts[first:] if part))


def list_folder(folder: str) -> Iterator[pa.RecordBatch]:
    """Yield every regular file as LISTING; the label is the folder at the top.

    Links to files count; links to folders are not followed, for they may lead in circles. A folder that may
    not be read is an ignored row.
    """
    return _list_files(walk(folder), top_folder)


def list_glob(glob: _Glob) -> Iterator[pa.RecordBatch]:
    """Yield every regular file that the glob names as LISTING; the label is the folder that holds the file.

    Links to folders are followed where a part of the glob names them, and not by `**`.
    """
    root = _last(absolute(glob.folder))
    return _list_files(walk(glob.folder, glob), lambda path: _last(path.rpartition("/")[0]) or root)


def _list_files(files: Iterator[_File], label_of: Callable[[str], str | None]) -> Iterator[pa.RecordBatch]:
    while some := list(islice(files, BATCH)):
        paths = [printable(path) for _, path, *_ in some]
        columns = {
            "uri": [printable(uri) for uri, *_ in some],
            "path": paths,
            "size": [size or 0 for *_, size, _ in some],
            "modified": [tag for *_, tag in some],
            "label": [None if size is None else label_of(path) for _, path, size, _ in some],
            "ignored": [size is None or is_ignored(path) for (*_, size, _), path in zip(some, paths, strict=True)],
        }
        yield record_batch(len(some), columns)


def _last(path: str) -> str:
    return printable(path.rpartition("/")[2])


def walk(root: str, glob: _Glob | None = None) -> Iterator[_File]:
    """Yield every regular file below a folder, or those that the glob names, as they are found.

    Yields URI, path below the folder, size and tag; a folder that cannot be read has a size of None.
    """
    root = absolute(root)
    if not is_url(root):
        return _walk_local(root, glob)
    fs, name = file_system(root)
    if hasattr(fs, "call_s3"):
        return _walk_s3(fs, root, name, glob)
    return _walk_remote(fs, root, name, glob)


def _walk_local(root: str, glob: _Glob | None) -> Iterator[_File]:
    waiting: list[tuple[str, str, State]] = [(root, "", glob.begin() if glob else None)]
    while waiting:
        folder, above, state = waiting.pop()
        try:
            entries = os.scandir(folder)
        except OSError as error:
            yield from _unreadable(folder, above, error)
            continue
        with entries:
            for entry in entries:
                name = entry.name
                if _is_folder(entry, glob):
                    inside = glob.enter(state, name, deeper=not entry.is_symlink()) if glob else None
                    if inside or not glob:
                        waiting.append((entry.path, above + name + "/", inside))
                elif (not glob or glob.takes(state, name)) and (file := _local_file(entry, above + name)):
                    yield file


def _is_folder(entry: "os.DirEntry[str]", glob: _Glob | None) -> bool:
    try:
        return entry.is_dir(follow_symlinks=glob is not None)
    except OSError:
        return False


def _local_file(entry: "os.DirEntry[str]", path: str) -> _File | None:
    try:
        facts = entry.stat()
    except PermissionError:
        return entry.path, path, 0, ""  # reading it will give the error
    except OSError:  # a link to nowhere, or a file that was just removed
        return None
    if not stat.S_ISREG(facts.st_mode):
        return None
    return entry.path, path, facts.st_size, str(facts.st_mtime_ns)


def _walk_remote(fs: "AbstractFileSystem", root: str, name: str, glob: _Glob | None) -> Iterator[_File]:
    waiting: list[tuple[str, str, State]] = [(name, "", glob.begin() if glob else None)]
    while waiting:
        folder, above, state = waiting.pop()
        try:
            entries = fs.ls(folder, detail=True)
        except OSError as error:
            yield from _unreadable(root + "/" + above, above, error)
            continue
        for info in entries:
            last = info["name"].rstrip("/").rpartition("/")[2]
            if info["name"].rstrip("/") == folder.rstrip("/"):  # the folder's own mark
                continue
            file = remote_facts(info)
            if file["type"] == "directory":
                inside = glob.enter(state, last) if glob else None
                if inside or not glob:
                    waiting.append((info["name"], above + last + "/", inside))
            elif not glob or glob.takes(state, last):
                yield f"{root}/{above}{last}", above + last, file["size"], file["modified"]


def _walk_s3(fs: Any, root: str, name: str, glob: _Glob | None) -> Iterator[_File]:
    """Yield all keys below, a page at a time: fsspec's own listing holds them all at once."""
    bucket, key, _ = fs.split_path(name)
    begin = f"{key}/" if key else ""
    query = {"Bucket": bucket, "MaxKeys": PAGE, "Prefix": begin + (_WILD.split(glob.parts[0])[0] if glob else "")}
    page: dict[str, Any] = {"IsTruncated": True}
    while page["IsTruncated"]:
        token = {"ContinuationToken": page["NextContinuationToken"]} if "NextContinuationToken" in page else {}
        page = fs.call_s3("list_objects_v2", **query, **token)
        for item in page.get("Contents", ()):
            path = item["Key"].removeprefix(begin)
            if path and not (path.endswith("/") and item["Size"] == 0) and (glob is None or _matches(glob, path)):
                yield f"{root}/{path}", path, item["Size"], item["ETag"]


def _matches(glob: _Glob, path: str) -> bool:
    *folders, name = path.split("/")
    state = glob.begin()
    for folder in folders:
        state = glob.enter(state, folder)
    return glob.takes(state, name)


def _unreadable(folder: str, above: str, error: OSError) -> Iterator[_File]:
    if isinstance(error, FileNotFoundError | NotADirectoryError):  # it was just removed
        return
    if not above:
        raise UserError(f"{printable(folder)}: cannot be read ({error.strerror or error}). Allow it.") from None
    log.warning("%s cannot be read (%s): its files are left out", printable(folder), error.strerror or error)
    yield folder, above, None, ""


def _fits(pattern: str, name: str) -> bool:
    return _pattern(pattern).match(name) is not None


@lru_cache
def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern))
