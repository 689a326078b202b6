"""Prune: what earlier nights have left in the store, and nothing refers to any more.

Pixels are a cache, named by the settings and the code that made them: another image size or another release of this
package leaves the old ones behind. A shard set or a training stays while a registered version was made of it, so that
the version can be reproduced, and so do the latest of each; what is deleted in MLflow can go here. Of scoring engines
those of champion and challenger stay. Catalogs, their history, checks and scores are nobody's leftovers.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pyarrow.compute as pc
import pyarrow.parquet as pq
from upath import UPath

from tasks.progress import progress
from tasks.registry.versions import CHALLENGER, CHAMPION, CHECKPOINT, SHARDS, by_alias, versions_of
from tasks.store import EPOCHS, MANIFEST, Store
from tasks.workspace import Workspace

log = logging.getLogger("grayline")

COMPLETE = (MANIFEST, EPOCHS)  # written last, and so deleted first


@dataclass(frozen=True)
class _StoredFile:
    """`bytes` is what its deletion frees: of a file of several names, a share."""

    path: UPath
    bytes: float
    modified: datetime


@dataclass(frozen=True)
class Leftover:
    """Files of one folder, which are all of it or a part."""

    folder: UPath
    files: tuple[_StoredFile, ...]
    why: str

    @property
    def bytes(self) -> float:
        return sum(file.bytes for file in self.files)

    @property
    def modified(self) -> datetime:
        return max(file.modified for file in self.files)


def leftovers(here: Workspace, before: datetime) -> list[Leftover]:
    """What nothing refers to and nothing has written to since `before`. A data set whose catalog a night is making is
    left out, with a warning; of a night further on, the shard set and the training are the latest, which stay."""
    store, tracking_uri = here.store, here.tracking_uri
    places = {SHARDS: store.shards, CHECKPOINT: store.runs}  # the tag of the versions that need them
    found: list[Leftover] = []
    for name in sorted(
        {path.name for place in (store.pixels, *places.values()) for path in folders(place("any").parent)}
    ):
        if store.at_work(name):
            log.warning("prune       %s: a night is at work, or was killed this week: left as it is", name)
            continue
        found += _unread_pixels(store, name, before)
        versions = versions_of(tracking_uri, name).values()
        if not versions:
            log.warning("prune       %s: no version is registered here: its shards and trainings are left", name)
            continue
        for tag, place in places.items():
            found += _unneeded(place(name), {version.tags.get(tag, "") for version in versions})
        in_use = {
            version.version for alias in (CHAMPION, CHALLENGER) if (version := by_alias(tracking_uri, name, alias))
        }
        found += _unused_engines(store, name, in_use)
    return [one for one in found if one.modified < before]


def _unread_pixels(store: Store, name: str, before: datetime) -> Iterator[Leftover]:
    """Caches that the catalog does not refer to, and in its own one the files, each night having left some. Without
    a catalog, or where some of its own are gone, any of them may be read by the next night."""
    path = store.catalog(name)
    if not path.exists():
        return
    with path.open("rb") as file:
        named = set(pc.unique(pq.read_table(file, columns=["part"])["part"]).drop_null().to_pylist())
    caches = {folder: _files_of(folder) for folder in folders(store.pixels(name))}
    whole = [folder for folder, files in caches.items() if named <= {file.path.name for file in files}]
    if not whole:
        return
    current = max(whole, key=lambda folder: _latest(caches[folder]))
    for folder, files in caches.items():
        if folder != current and files:
            yield Leftover(folder, tuple(files), "pixels by other settings or another release")
        elif loose := tuple(file for file in files if file.path.name not in named and file.modified < before):
            yield Leftover(folder, loose, "pixels of files that are gone or were read again")


def _unneeded(parent: UPath, needed: set[str]) -> Iterator[Leftover]:
    """Folders that no version was made of, less the latest one."""
    made = {folder: files for folder in folders(parent) if (files := _files_of(folder))}
    newest = max(made, key=lambda folder: _latest(made[folder]), default=None)
    for folder, files in made.items():
        if folder.name not in needed and folder != newest:
            yield Leftover(folder, tuple(files), "no registered version was made of it")


def _unused_engines(store: Store, name: str, in_use: set[str]) -> Iterator[Leftover]:
    """Files and measurements of the engines of versions that score no longer; another trial makes them again."""
    for folder in folders(store.engines()):
        found = re.fullmatch(rf"{re.escape(name)}-(\d+)-[0-9a-f]+", folder.name)
        if found and found[1] not in in_use and (files := _files_of(folder)):
            yield Leftover(folder, tuple(files), f"version {found[1]} is neither champion nor challenger")


def delete(some: Sequence[Leftover]) -> None:
    """All of their files; a folder with them, where they are all of it. What says that a folder is complete goes
    first: one that was deleted by half is not taken for whole."""
    with progress("prune", sum(len(leftover.files) for leftover in some), "files") as advance:
        for leftover in some:
            fs = leftover.folder.fs
            for file in sorted(leftover.files, key=lambda file: (file.path.name not in COMPLETE, file.path.name)):
                fs.rm_file(file.path.path)
                advance(1)
            if fs.exists(leftover.folder.path) and not fs.find(leftover.folder.path):
                fs.rm(leftover.folder.path, recursive=True)


def folders(parent: UPath) -> list[UPath]:
    return sorted(path for path in parent.iterdir() if path.is_dir()) if parent.exists() else []


def _files_of(folder: UPath) -> list[_StoredFile]:
    """Also those in folders below it."""
    found = folder.fs.find(folder.path, detail=True)
    return [
        _StoredFile(folder / name[len(folder.path) :].lstrip("/"), info["size"] / info.get("nlink", 1), modified(info))
        for name, info in found.items()
    ]


def modified(info: dict[str, object]) -> datetime:
    """By fsspec's names for it: those of disks, S3, Azure, Google's and memory."""
    found = next(
        (info[name] for name in ("mtime", "LastModified", "last_modified", "updated", "created") if info.get(name)),
        None,
    )
    if isinstance(found, str):
        found = datetime.fromisoformat(found)
    if isinstance(found, int | float):
        found = datetime.fromtimestamp(found, UTC)
    # Of what has no time nobody knows that it is old.
    return found.astimezone(UTC) if isinstance(found, datetime) else datetime.now(UTC) + timedelta(days=1)


def _latest(files: list[_StoredFile]) -> datetime:
    return max((file.modified for file in files), default=datetime.min.replace(tzinfo=UTC))
