"""Prune: remove files of earlier nights that nothing refers to any more.

place                     stays while
pixels/                   the catalog refers to it; a cache named by settings and code
shards/, runs/            a registered version was made of it, or it is the latest
engines/                  its version is champion or challenger
catalog/, history/        always, and so do checks/ and scores/

A version that is deleted in MLflow no longer keeps its files. A training of another registry than the one that is
asked stays, with its shards: whether a version needs it is not known here.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pyarrow.compute as pc
import pyarrow.parquet as pq
from upath import UPath

from resnet_core.storage.digest import digest_of
from resnet_core.storage.files import DamagedFileError, read_json
from resnet_core.storage.turns import holder_of
from tasks.progress import progress
from tasks.registry import runs
from tasks.registry.versions import CHALLENGER, CHAMPION, CHECKPOINT, SHARDS, by_alias, versions_of
from tasks.store import EPOCHS, LINEAGE, MANIFEST, Store, own_files
from tasks.workspace import Workspace

log = logging.getLogger("grayline")

COMPLETE = (MANIFEST, EPOCHS)  # written last, and so deleted first


@dataclass(frozen=True)
class _StoredFile:
    """A file; `bytes` is the space that its deletion frees: a share for a file with several names."""

    path: UPath
    bytes: float
    modified: datetime


@dataclass(frozen=True)
class Leftover:
    """Files of one folder, all or a part of them."""

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
    """Return folders and files that nothing refers to and nothing has written to since `before`.

    A data set whose catalog a night is making is left out, with a warning. Later stages of a night work on the
    latest shard set and training, which stay.
    """
    store, tracking_uri = here.store, here.tracking_uri
    places = {SHARDS: store.shards, CHECKPOINT: store.runs}  # the tag of the versions that need them
    found: list[Leftover] = []
    for name in sorted(
        {path.name for place in (store.pixels, *places.values()) for path in folders(place("any").parent)}
    ):
        if holder := holder_of(store.turn(name)):
            log.warning("prune       %s: %s is at work: left as it is", name, holder)
            continue
        found += _unread_pixels(store, name, before)
        versions = versions_of(tracking_uri, name).values()
        if not versions:
            log.warning("prune       %s: no version is registered here: its shards and trainings are left", name)
            continue
        elsewhere = _of_other_registries(store, name, tracking_uri)
        for tag, place in places.items():
            needed = {version.tags.get(tag, "") for version in versions}
            found += _unneeded(place(name), needed | elsewhere[tag])
        used = (by_alias(tracking_uri, name, alias) for alias in (CHAMPION, CHALLENGER))
        in_use = {digest_of(version.files) for version in used if version}
        found += _unused_engines(store, name, in_use)
    return [one for one in found if one.modified < before]


def _of_other_registries(store: Store, name: str, tracking_uri: str) -> dict[str, set[str]]:
    """Return the digests of trainings that another registry may need, and of their shard sets, by their tags."""
    trainings = [folder for folder in folders(store.runs(name)) if runs.is_of_another_registry(tracking_uri, folder)]
    if not trainings:
        return {CHECKPOINT: set(), SHARDS: set()}
    log.warning(
        "prune       %s: trainings of another MLflow registry stay (%d). Set MLFLOW_TRACKING_URI to ask it",
        name, len(trainings),
    )  # fmt: skip
    shard_sets = {_shards_of(folder) for folder in trainings}
    if None in shard_sets:  # a training of an earlier release does not say which it learned from
        shard_sets |= {folder.name for folder in folders(store.shards(name))}
    return {CHECKPOINT: {folder.name for folder in trainings}, SHARDS: {digest for digest in shard_sets if digest}}


def _shards_of(training: UPath) -> str | None:
    path = training / LINEAGE
    try:
        return read_json(path).get("shards") if path.exists() else None
    except DamagedFileError as error:
        log.warning("prune       %s: every shard set is left", error)
        return None


def _unread_pixels(store: Store, name: str, before: datetime) -> Iterator[Leftover]:
    """Yield caches that the catalog does not refer to, and unused files in the current cache.

    Yields nothing without a catalog, or if files of it are gone: the next night may read any cache.
    """
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
    """Yield folders that no version was made of, except the latest."""
    made = {folder: files for folder in folders(parent) if (files := _files_of(folder))}
    newest = max(made, key=lambda folder: _latest(made[folder]), default=None)
    for folder, files in made.items():
        if folder.name not in needed and folder != newest:
            yield Leftover(folder, tuple(files), "no registered version was made of it")


def _unused_engines(store: Store, name: str, in_use: set[str]) -> Iterator[Leftover]:
    """Yield engine files and trials of versions that no longer score; another trial makes them again.

    Earlier releases named them by a number, which another version may have today.
    """
    for folder in folders(store.engines()):
        found = re.fullmatch(rf"{re.escape(name)}-(\d+|[0-9a-f]{{16}})-[0-9a-f]+", folder.name)
        if found and found[1] not in in_use and (files := _files_of(folder)):
            yield Leftover(folder, tuple(files), "its version is neither champion nor challenger")


def delete(some: Sequence[Leftover]) -> None:
    """Delete the files, and folders that are empty then.

    The file that marks a folder as complete goes first, so that a half-deleted folder is not taken for whole.
    """
    with progress("prune", sum(len(leftover.files) for leftover in some), "files") as advance:
        for leftover in some:
            fs = leftover.folder.fs
            for file in sorted(leftover.files, key=lambda file: (file.path.name not in COMPLETE, file.path.name)):
                fs.rm_file(file.path.path)
                advance(1)
            if fs.exists(leftover.folder.path) and not fs.find(leftover.folder.path):
                fs.rm(leftover.folder.path, recursive=True)


def folders(parent: UPath) -> list[UPath]:
    return [path for path in own_files(parent) if path.is_dir()]


def _files_of(folder: UPath) -> list[_StoredFile]:
    """Return all files below the folder."""
    found = folder.fs.find(folder.path, detail=True)
    return [
        _StoredFile(folder / name[len(folder.path) :].lstrip("/"), info["size"] / info.get("nlink", 1), modified(info))
        for name, info in found.items()
    ]


def modified(info: dict[str, object]) -> datetime:
    """Return the time of the last change, by fsspec's names for it: disks, S3, Azure, Google and memory."""
    found = next(
        (info[name] for name in ("mtime", "LastModified", "last_modified", "updated", "created") if info.get(name)),
        None,
    )
    if isinstance(found, str):
        found = datetime.fromisoformat(found)
    if isinstance(found, int | float):
        found = datetime.fromtimestamp(found, UTC)
    # A file without a time may be new.
    return found.astimezone(UTC) if isinstance(found, datetime) else datetime.now(UTC) + timedelta(days=1)


def _latest(files: list[_StoredFile]) -> datetime:
    return max((file.modified for file in files), default=datetime.min.replace(tzinfo=UTC))
