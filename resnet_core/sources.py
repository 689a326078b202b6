"""Which files a source has: a folder or an fsspec URL, walked in a fixed order."""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from upath import UPath

from resnet_core.files import is_local

# What accompanies images and is none itself.
SIDECARS = frozenset({".csv", ".json", ".txt", ".xml", ".yaml", ".yml", ".md"})


@dataclass(frozen=True)
class SourceFile:
    """`uri` opens the file: an absolute path, or a URL. `path` is relative to the source, with
    forward slashes. `size` in bytes; `modified` is the modification time, or the object's tag."""

    uri: str
    path: str
    size: int
    modified: str


@dataclass(frozen=True)
class Listing:
    """`files` in the order of their paths; `ignored` are the sidecars' and hidden files' paths."""

    files: tuple[SourceFile, ...]
    ignored: tuple[str, ...]


def list_files(folder: UPath) -> Listing:
    """Every regular file below the folder. Links to files count, links to folders are not followed
    (they may lead in circles)."""
    files: list[SourceFile] = []
    ignored: list[SourceFile] = []
    for file in _walk_local(folder) if is_local(folder) else _walk_remote(folder):
        (ignored if is_ignored(file.path) else files).append(file)
    return Listing(tuple(sorted(files, key=lambda file: file.path)), tuple(sorted(file.path for file in ignored)))


def is_ignored(path: str) -> bool:
    """Hidden, in a hidden folder, or a sidecar."""
    parts = PurePosixPath(path).parts
    return any(part.startswith(".") for part in parts) or PurePosixPath(path).suffix.lower() in SIDECARS


def locate(folder: UPath, path: str) -> SourceFile | None:
    """The file that a manifest in `folder` calls `path` (relative, absolute or a URL), if it is there."""
    file = UPath(path) if "://" in path else folder / path
    try:
        if is_local(file):
            return _local_file(os.path.abspath(file.path), path)
        return _remote_file(file, path, file.fs.info(file.path))
    except OSError:
        return None


def printable(uri: str) -> str:
    """A name whose bytes are no UTF-8 as text that any table can hold; other names unchanged."""
    return uri.encode("utf-8", "backslashreplace").decode("utf-8")


def read_bytes(uri: str) -> bytes:
    """Raises OSError. Takes what `printable` made, too."""
    if "://" in uri:
        return UPath(uri).read_bytes()
    try:
        with open(uri, "rb") as file:
            return file.read()
    except FileNotFoundError:
        with open(re.sub(r"\\udc([89a-f][0-9a-f])", lambda m: chr(0xDC00 + int(m[1], 16)), uri), "rb") as file:
            return file.read()


def _walk_local(folder: UPath) -> Iterator[SourceFile]:
    root = os.path.abspath(folder.path)
    waiting = [root]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                    continue
                try:
                    file = _local_file(entry.path, os.path.relpath(entry.path, root).replace(os.sep, "/"))
                except OSError:  # a link to nowhere, or a file that has just gone
                    continue
                if file:
                    yield file


def _local_file(name: str, path: str) -> SourceFile | None:
    facts = os.stat(name)
    if not stat.S_ISREG(facts.st_mode):
        return None
    return SourceFile(printable(name), printable(path), facts.st_size, str(facts.st_mtime_ns))


def _walk_remote(folder: UPath) -> Iterator[SourceFile]:
    root = folder.path.rstrip("/")
    for name, facts in folder.fs.find(root, detail=True).items():
        yield _remote_file(
            folder.with_segments(folder.fs.unstrip_protocol(name)), name.removeprefix(root).lstrip("/"), facts
        )


def _remote_file(file: UPath, path: str, facts: dict[str, Any]) -> SourceFile:
    tags = ("ETag", "etag", "md5", "LastModified", "mtime", "created")
    tag = next((facts[name] for name in tags if name in facts), "")
    return SourceFile(str(file), path, facts["size"] or 0, str(tag))
