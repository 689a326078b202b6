"""The files below a folder, of this machine or of an object store: all of them, or those that a glob names."""

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
from resnet_core.sources.listing import BATCH, LISTING, is_ignored, top_folder
from resnet_core.storage.locations import absolute, file_system, is_url, printable, remote_facts

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


log = logging.getLogger("grayline")

# Keys in a page of an object store's listing; S3 gives no more.
PAGE = 1000
_WILD = re.compile(r"[*?\[]")
# Which parts of the glob the next name may be; None: no glob, any name will do.
State = frozenset[int] | None


@dataclass(frozen=True)
class _Glob:
    """`folder` is what stands before the first part with a wildcard, `parts` the rest. As in a shell:
    `*` and `?` stay within a name, `**` is any number of folders."""

    folder: str
    parts: tuple[str, ...]

    def begin(self) -> State:
        return self._with_skipped({0})

    def enter(self, state: State, name: str, *, deeper: bool = True) -> State:
        """The state within the folder `name`; an empty one: nothing there can match. deeper: `**`
        takes it, too."""
        assert state is not None
        found = {place for place in state if deeper and self.parts[place] == "**"}
        found |= {place + 1 for place in state if self.parts[place] != "**" and _fits(self.parts[place], name)}
        return self._with_skipped({place for place in found if place < len(self.parts)})

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
    """The glob of an absolute path or URL."""
    scheme, mark, rest = source.rpartition("://")
    parts = rest.split("/")
    first = next(place for place, part in enumerate(parts) if _WILD.search(part))
    folder = "/".join(parts[:first])
    return _Glob(scheme + mark + folder or "/", tuple(part for part in parts[first:] if part))


# The URI and the path of a file, its size and tag; a size of None: a folder that cannot be read.
_Found = tuple[str, str, int | None, str]


def list_folder(folder: str) -> Iterator[pa.RecordBatch]:
    """Every regular file: batches of LISTING; the label is the folder at the top. Links to files count,
    links to folders are not followed (they may lead in circles). A folder that may not be read is an
    ignored row."""
    return _batches(walk(folder), top_folder)


def list_glob(glob: _Glob) -> Iterator[pa.RecordBatch]:
    """Every regular file that it names; the label is the folder that holds the file. Links to folders
    are followed where a part of the glob names them, and not by `**`."""
    root = _last(absolute(glob.folder))
    return _batches(walk(glob.folder, glob), lambda path: _last(path.rpartition("/")[0]) or root)


def _batches(files: Iterator[_Found], label_of: Callable[[str], str | None]) -> Iterator[pa.RecordBatch]:
    while True:
        uris, paths, sizes, tags, labels, ignored = (list[Any]() for _ in range(6))
        # Columns, not rows: a million tuples would keep the garbage collector busy.
        for uri, path, size, modified in islice(files, BATCH):
            label = None if size is None else label_of(path)
            uri, path = printable(uri), printable(path)
            uris.append(uri)
            paths.append(path)
            sizes.append(size or 0)
            tags.append(modified)
            labels.append(label)
            ignored.append(size is None or is_ignored(path))
        if not uris:
            return
        nothing = [None] * len(uris)
        columns = [uris, paths, sizes, tags, labels, *[nothing] * 5, ignored]
        yield pa.RecordBatch.from_arrays([*map(pa.array, columns, LISTING.types)], schema=LISTING)


def _last(path: str) -> str:
    return printable(path.rpartition("/")[2])


def walk(root: str, glob: _Glob | None = None) -> Iterator[_Found]:
    """Every regular file below a folder, or those that the glob names, as they are found."""
    root = absolute(root)
    if not is_url(root):
        return _walk_local(root, glob)
    fs, name = file_system(root)
    if hasattr(fs, "call_s3"):
        return _walk_s3(fs, root, name, glob)
    return _walk_remote(fs, root, name, glob)


def _walk_local(root: str, glob: _Glob | None) -> Iterator[_Found]:
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
                elif (not glob or glob.takes(state, name)) and (found := _local_file(entry, above + name)):
                    yield found


def _is_folder(entry: "os.DirEntry[str]", glob: _Glob | None) -> bool:
    try:
        return entry.is_dir(follow_symlinks=glob is not None)
    except OSError:
        return False


def _local_file(entry: "os.DirEntry[str]", path: str) -> _Found | None:
    try:
        facts = entry.stat()
    except PermissionError:
        return entry.path, path, 0, ""  # it will say so itself when it is read
    except OSError:  # a link to nowhere, or a file that has just gone
        return None
    if not stat.S_ISREG(facts.st_mode):
        return None
    return entry.path, path, facts.st_size, str(facts.st_mtime_ns)


def _walk_remote(fs: "AbstractFileSystem", root: str, name: str, glob: _Glob | None) -> Iterator[_Found]:
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
            found = remote_facts(info)
            if found["type"] == "directory":
                inside = glob.enter(state, last) if glob else None
                if inside or not glob:
                    waiting.append((info["name"], above + last + "/", inside))
            elif not glob or glob.takes(state, last):
                yield f"{root}/{above}{last}", above + last, found["size"], found["modified"]


def _walk_s3(fs: Any, root: str, name: str, glob: _Glob | None) -> Iterator[_Found]:
    """All keys below, a page at a time: fsspec's own listing holds them all at once."""
    bucket, key, _ = fs.split_path(name)
    begin = f"{key}/" if key else ""
    wanted = {"Bucket": bucket, "MaxKeys": PAGE, "Prefix": begin + (_WILD.split(glob.parts[0])[0] if glob else "")}
    page: dict[str, Any] = {"IsTruncated": True}
    while page["IsTruncated"]:
        token = {"ContinuationToken": page["NextContinuationToken"]} if "NextContinuationToken" in page else {}
        page = fs.call_s3("list_objects_v2", **wanted, **token)
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


def _unreadable(folder: str, above: str, error: OSError) -> Iterator[_Found]:
    if isinstance(error, FileNotFoundError | NotADirectoryError):  # it has just gone
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
