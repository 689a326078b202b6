"""Folders: all files below one, or those that a glob names; on this machine or in an object store.

Links are followed, and a file is listed once: by its own path, else by the first link to it in the order of paths.
Stores, batches and feature sets below the source are left out, by whatever path or link they are reached.
"""

import errno
import logging
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from heapq import heappop, heappush
from itertools import chain, islice
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from resnet_core.errors import UserError, some_of
from resnet_core.sources.listing import BATCH, BROKEN_LINK, record_batch, top_folder
from resnet_core.storage.globs import Glob, State, matches
from resnet_core.storage.ignored import IGNORED_PATTERN, OWN_MARKS, is_ignored
from resnet_core.storage.locations import absolute, file_system, is_url, os_errors, printable, remote_facts

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


log = logging.getLogger("grayline")

PAGE = 1000  # keys in a page of an object store's listing; S3 gives at most that many
# The URI and the path of a file, its size and tag. Without a size it is left out, and the tag says why.
_File = tuple[str, str, int | None, str]
_OWN, _AGAIN, _CIRCLE = "own", "again", "circle"
_LEFT_OUT = {
    _OWN: "left out, a store, batch or feature set of Grayline",
    _AGAIN: "left out, a link to what is listed by another path",
    _CIRCLE: "left out, a link to a folder that holds the source",
    BROKEN_LINK: "a link to nothing: a row with the reason",
}
_NAME = attrgetter("name")
_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # where a link leads that is broken
_HEAD = 4096  # entries of a folder that are looked at before the first is listed


def list_folder(folder: str, own: Collection[str] = ()) -> Iterator[pa.RecordBatch]:
    """Yield every regular file as LISTING; the label is the folder at the top.

    Links to nothing are files that cannot be read. Ignored rows: folders that may not be read, own outputs, second
    paths of the same files.
    """
    return _list_files(walk(folder, own=own), top_folder)


def list_glob(glob: Glob, own: Collection[str] = ()) -> Iterator[pa.RecordBatch]:
    """Yield every regular file that the glob names as LISTING; the label is the folder that holds the file."""
    root = _last(absolute(glob.folder))
    return _list_files(walk(glob.folder, glob, own), lambda path: _last(path.rpartition("/")[0]) or root)


def _list_files(files: Iterator[_File], label_of: Callable[[str], str | None]) -> Iterator[pa.RecordBatch]:
    remarks: dict[str, list[str]] = defaultdict(list)
    while some := list(islice(files, BATCH)):
        uris, names, sizes, tags = zip(*some, strict=True)
        paths = list(map(printable, names))
        column = pa.array(paths, pa.string())
        ignored = pc.match_substring_regex(column, IGNORED_PATTERN)
        columns = {
            "uri": list(map(printable, uris)),
            "path": column,
            "size": [size or 0 for size in sizes],
            "modified": list(tags),
            "label": [None if size is None else label_of(name) for size, name in zip(sizes, names, strict=True)],
            "ignored": pc.or_(ignored, pa.array([size is None for size in sizes])) if None in sizes else ignored,
        }
        if not all(sizes):
            for path, size, tag in zip(paths, sizes, tags, strict=True):
                if not size and tag in _LEFT_OUT:
                    remarks[tag].append(path)
        yield record_batch(len(some), columns)
    for tag, left_out in remarks.items():
        log.warning("%s: %s", some_of(sorted(left_out), 3), _LEFT_OUT[tag])


def _last(path: str) -> str:
    return printable(path.rpartition("/")[2])


def walk(root: str, glob: Glob | None = None, own: Collection[str] = ()) -> Iterator[_File]:
    """Yield every regular file below a folder, or those that the glob names, as they are found.

    Yields URI, path below the folder, size and tag; what is left out has a size of None. own: places of own outputs.
    """
    root = absolute(root)
    if not is_url(root):
        return _Walk(root, glob, own).files()
    own = {absolute(place) for place in own if is_url(place)} - {root}
    fs, name = file_system(root)
    if hasattr(fs, "call_s3"):
        return _walk_s3(fs, root, name, glob, own)
    return _walk_remote(fs, root, name, glob, own)


class _Walk:
    """A walk over folders of this machine.

    All that is not a link is listed first, then linked folders, then linked files, by their paths. So a file without
    links costs nothing more. A file's path does not depend on the disk's order, also if several links lead to it.
    """

    def __init__(self, root: str, glob: Glob | None, own: Collection[str]) -> None:
        self.root, self.glob, self.real = root, glob, os.path.realpath(root)
        places = {os.path.realpath(place) for place in own if not is_url(place)}
        self.own = {place for place in places if not _is_within(self.real, place)}
        self.own_below = {place.removeprefix(self.real.rstrip("/") + "/") + "/" for place in self.own}
        self.linked_folders: list[tuple[str, str, State]] = []
        self.linked_files: list[tuple[str, str]] = []
        self.seen: set[tuple[object, ...]] = set()  # device and inode of what links have led to

    def files(self) -> Iterator[_File]:
        return chain(self._below(self.root, "", self.glob.begin() if self.glob else None), self._linked())

    def _linked(self) -> Iterator[_File]:
        while self.linked_folders:
            path, uri, state = heappop(self.linked_folders)
            real = os.path.realpath(uri)
            if (why := self._why_not(real, path)) is not None:
                yield uri, path, None, why
            else:
                yield from self._below(uri, path, state, real)
        for path, uri in sorted(self.linked_files):
            yield from self._linked_file(path, uri)

    def _below(self, folder: str, above: str, state: State, real: str = "") -> Iterator[_File]:
        """real: where a link has led; empty for folders that no link leads to."""
        glob, waiting = self.glob, [(folder, above, state, real)]
        while waiting:
            folder, above, state, real = waiting.pop()
            try:
                entries = os.scandir(folder)
            except OSError as error:  # a row of its own says so
                yield from _unreadable(folder, above, error)
                continue
            with entries:
                head = list(islice(entries, _HEAD))
                known = real in self.own if real else above in self.own_below
                if above and (known or _has_mark(folder, head)):
                    yield folder, above, None, _OWN
                    continue
                if real and self._is_seen(os.stat(folder), state):
                    yield folder, above, None, _AGAIN
                    continue
                for entry in chain(head, entries) if len(head) == _HEAD else head:
                    name = entry.name
                    try:  # functions of their own would take a tenth of the time of a listing
                        if entry.is_file(follow_symlinks=False):
                            if not glob or glob.takes(state, name):
                                facts = entry.stat()
                                if real and glob and self._is_listed(f"{real}/{name}", facts):
                                    yield entry.path, above + name, None, _AGAIN
                                else:
                                    yield entry.path, above + name, facts.st_size, str(facts.st_mtime_ns)
                        elif entry.is_dir(follow_symlinks=False):
                            inside = glob.enter(state, name) if glob else None
                            if inside or not glob:
                                waiting.append((entry.path, f"{above}{name}/", inside, real and f"{real}/{name}"))
                        elif entry.is_symlink():
                            self._meet(entry, above + name, state)
                    except FileNotFoundError:  # it was just removed
                        continue
                    except OSError:
                        yield entry.path, above + name, 0, ""  # reading it will give the error

    def _meet(self, link: "os.DirEntry[str]", path: str, state: State) -> None:
        """Keep a link for later."""
        if _is_folder(link):
            inside = self.glob.enter(state, link.name) if self.glob else None
            if inside or not self.glob:
                heappush(self.linked_folders, (path + "/", link.path, inside))
        elif not self.glob or self.glob.takes(state, link.name):
            self.linked_files.append((path, link.path))

    def _linked_file(self, path: str, uri: str) -> Iterator[_File]:
        try:
            facts = os.stat(uri)
        except OSError as error:  # only a link that leads nowhere is broken
            if error.errno not in _NOWHERE:
                yield uri, path, 0, ""  # reading it will give the error
            elif Path(uri).is_symlink():
                yield uri, path, 0, BROKEN_LINK
            return
        if stat.S_ISREG(facts.st_mode):
            again = not is_ignored(path) and self._is_listed(os.path.realpath(uri), facts)
            yield uri, path, None if again else facts.st_size, _AGAIN if again else str(facts.st_mtime_ns)

    def _why_not(self, real: str, path: str) -> str | None:
        """Return why a link to the folder `real` is not followed, or None."""
        if is_ignored(path):
            return ""
        if any(_is_within(real, place) for place in self.own):
            return _OWN
        if _is_within(self.real, real):
            return _CIRCLE
        return _AGAIN if not self.glob and self._is_in_source(real + "/") else None

    def _is_in_source(self, real: str) -> bool:
        """Return whether the source lists a path without links, and not as an ignored file."""
        below = real.removeprefix(self.real.rstrip("/") + "/")
        if below == real or is_ignored(below):
            return False
        return self.glob is None or matches(self.glob, below)

    def _is_listed(self, real: str, facts: os.stat_result) -> bool:
        """Return whether a linked file has been listed; from now on it has."""
        if self._is_in_source(real) or any(_is_within(real, place) for place in self.own):
            return True
        folder, _, name = real.rpartition("/")
        with_others = not self.glob and not is_ignored(name) and _inode(os.stat(folder or "/"), None) in self.seen
        return with_others or self._is_seen(facts, None)

    def _is_seen(self, facts: os.stat_result, state: State) -> bool:
        if (inode := _inode(facts, state)) in self.seen:
            return True
        self.seen.add(inode)
        return False


def _has_mark(folder: str, head: "list[os.DirEntry[str]]") -> bool:
    """Return whether a folder is an own output. head: its first entries."""
    if not OWN_MARKS.isdisjoint(map(_NAME, head)):
        return True
    return len(head) == _HEAD and any(Path(folder, name).exists() for name in OWN_MARKS)


def _inode(facts: os.stat_result, state: State) -> tuple[object, ...]:
    return facts.st_dev, facts.st_ino, state


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _is_folder(link: "os.DirEntry[str]") -> bool:
    try:
        return link.is_dir()
    except OSError:  # it is listed as a file, and its row says so
        return False


def _walk_remote(
    fs: "AbstractFileSystem", root: str, name: str, glob: Glob | None, own: Collection[str]
) -> Iterator[_File]:
    waiting: list[tuple[str, str, State]] = [(name, "", glob.begin() if glob else None)]
    while waiting:
        folder, above, state = waiting.pop()
        try:
            with os_errors():
                entries = fs.ls(folder, detail=True)
        except OSError as error:  # a row of its own says so
            yield from _unreadable(root + "/" + above, above, error)
            continue
        names = [info["name"].rstrip("/").rpartition("/")[2] for info in entries]
        if above and (f"{root}/{above[:-1]}" in own or not OWN_MARKS.isdisjoint(names)):
            yield f"{root}/{above}", above, None, _OWN
            continue
        for info, last in zip(entries, names, strict=True):
            if info["name"].rstrip("/") == folder.rstrip("/"):  # the folder's own mark
                continue
            file = remote_facts(info)
            if file["type"] == "directory":
                inside = glob.enter(state, last) if glob else None
                if inside or not glob:
                    waiting.append((info["name"], above + last + "/", inside))
            elif not glob or glob.takes(state, last):
                yield f"{root}/{above}{last}", above + last, file["size"], file["modified"]


def _walk_s3(fs: Any, root: str, name: str, glob: Glob | None, own: Collection[str]) -> Iterator[_File]:
    """Yield all keys below, a page at a time: fsspec's own listing holds them all at once.

    Own outputs are known by their places alone, for keys come in one order, whatever lies beside them.
    """
    left_out = {place.removeprefix(root + "/") + "/" for place in own if place.startswith(root + "/")}
    met: set[str] = set()
    bucket, key, _ = fs.split_path(name)
    begin = f"{key}/" if key else ""
    query = {"Bucket": bucket, "MaxKeys": PAGE, "Prefix": begin + (glob.prefix if glob else "")}
    page: dict[str, Any] = {"IsTruncated": True}
    while page["IsTruncated"]:
        token = {"ContinuationToken": page["NextContinuationToken"]} if "NextContinuationToken" in page else {}
        page = fs.call_s3("list_objects_v2", **query, **token)
        for item in page.get("Contents", ()):
            path = item["Key"].removeprefix(begin)
            if place := next((place for place in left_out if path.startswith(place)), None):
                if place not in met:
                    yield f"{root}/{place}", place, None, _OWN
                    met.add(place)
            elif path and not (path.endswith("/") and item["Size"] == 0) and (glob is None or matches(glob, path)):
                yield f"{root}/{path}", path, item["Size"], item["ETag"]


def _unreadable(folder: str, above: str, error: OSError) -> Iterator[_File]:
    if isinstance(error, FileNotFoundError | NotADirectoryError):  # it was just removed
        return
    if not above:
        raise UserError(f"{printable(folder)}: cannot be read ({error.strerror or error}). Allow it.") from None
    if not is_ignored(above):
        log.warning("%s cannot be read (%s): its files are left out", printable(folder), error.strerror or error)
    yield folder, above, None, ""
