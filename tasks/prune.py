"""Prune: remove files of earlier nights that nothing refers to any more, and old versions that nothing needs.

place                     stays while
versions, runs in MLflow  `tasks.registry.retention` says so
pixels/                   the catalog refers to it; a cache named by settings and code
shards/, runs/            a registered version was made of it, or it is the latest
engines/                  its version is champion or challenger
tune/, label_issues/      it is the latest
reproduce/                its version is registered
checks/                   always, and its plots while they are among the newest
work/                     a night is at work
prefect/storage/          it is new: results of tasks
drafts of killed writes   it is new
catalog/, history/        always, and so do scores/

A version that is deleted in MLflow no longer keeps its files. A training of another registry than the one that is
asked stays, with its shards: whether a version needs it is not known here.
"""

import logging
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pyarrow.compute as pc
import pyarrow.parquet as pq
from mlflow.entities.model_registry import ModelVersion as RegisteredVersion
from upath import UPath

from resnet_core.storage.digest import digest_of
from resnet_core.storage.files import DamagedFileError, read_json
from resnet_core.storage.turns import holder_of
from tasks.progress import progress
from tasks.registry import runs
from tasks.registry.champion import last_champion
from tasks.registry.retention import delete_from_registry, expired_runs, expired_versions
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


@dataclass(frozen=True)
class Pruning:
    """The files and versions that are to go, and the ids of runs that no version was made of."""

    leftovers: list[Leftover]
    versions: list[RegisteredVersion]
    runs: list[str]

    @property
    def bytes(self) -> float:
        """The space that the files take, without MLflow's."""
        return sum(leftover.bytes for leftover in self.leftovers)


def plan_pruning(here: Workspace, before: datetime, keep: int) -> Pruning:
    """Find what is older than `before` and not needed. keep: versions, runs and data checks that stay at any age."""
    used = _of_batches(here.store)
    versions: list[RegisteredVersion] = []
    runs: list[str] = []
    for name in _names(here.store) if used is not None else ():
        if holder_of(here.store.turn(name)) is None and versions_of(here.tracking_uri, name):
            old = expired_versions(here.tracking_uri, name, keep, before, (used or {}).get(name, set()))
            versions += old
            runs += expired_runs(here.tracking_uri, name, keep, before, [str(version.run_id) for version in old])
    going = {(version.name, str(version.version)) for version in versions}
    return Pruning(leftovers(here, before, going) + _small_things(here, before, keep), versions, runs)


def prune(plan: Pruning, here: Workspace) -> None:
    """Delete the files first: a version that is gone no longer says which files were its own."""
    delete(plan.leftovers)
    delete_from_registry(here.tracking_uri, plan.versions, plan.runs)


def _names(store: Store) -> list[str]:
    """Return the data sets that have files which may go."""
    places = (store.pixels, store.shards, store.runs)
    return sorted({path.name for place in places for path in folders(place("any").parent)})


def _of_batches(store: Store) -> dict[str, set[str]] | None:
    """Return the versions that scored the batches of the store, by their names; None if a manifest is damaged."""
    used: dict[str, set[str]] = {}
    for path in own_files(store.scores(), f"*/{MANIFEST}"):
        try:
            content = read_json(path)
            used.setdefault(content["model_name"], set()).add(str(content["model_version"]))
        except (DamagedFileError, KeyError) as error:
            log.warning("prune       %s: no version is deleted", error)
            return None
    return used


def leftovers(here: Workspace, before: datetime, going: Collection[tuple[str, str]] = ()) -> list[Leftover]:
    """Return folders and files that nothing refers to and nothing has written to since `before`.

    going: versions, by name and number, that count as deleted. A data set whose catalog a night is making is left
    out, with a warning. Later stages of a night work on the latest shard set and training, which stay.
    """
    store, tracking_uri = here.store, here.tracking_uri
    places = {SHARDS: store.shards, CHECKPOINT: store.runs}  # the tag of the versions that need them
    found: list[Leftover] = []
    for name in _names(store):
        if holder := holder_of(store.turn(name)):
            log.warning("prune       %s: %s is at work: left as it is", name, holder)
            continue
        found += _unread_pixels(store, name, before)
        registered = versions_of(tracking_uri, name)
        versions = [version for number, version in registered.items() if (name, number) not in going]
        if not registered:
            log.warning("prune       %s: no version is registered here: its shards and trainings are left", name)
            continue
        elsewhere = _of_other_registries(store, name, tracking_uri, {str(each.run_id) for each in registered.values()})
        for tag, place in places.items():
            needed = {version.tags.get(tag, "") for version in versions}
            found += _unneeded(place(name), needed | elsewhere[tag])
        used = (
            *(by_alias(tracking_uri, name, alias) for alias in (CHAMPION, CHALLENGER)),
            last_champion(tracking_uri, name),
        )
        in_use = {digest_of(version.files) for version in used if version}
        found += _unused_engines(store, name, in_use)
    return [one for one in found if one.modified < before]


def _of_other_registries(store: Store, name: str, tracking_uri: str, known: Collection[str]) -> dict[str, set[str]]:
    """Return the digests of trainings that another registry may need, and of their shard sets, by their tags.

    known: the runs of this registry's versions; it is asked for the others alone, one by one.
    """
    made = [folder for folder in folders(store.runs(name)) if not runs.is_noted(folder, known)]
    trainings = [folder for folder in made if runs.is_of_another_registry(tracking_uri, folder)]
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
    found = folders(parent)
    others = [folder for folder in found if folder.name not in needed]
    newest = max(found, key=_finished, default=None) if others else None
    for folder in others:
        if folder != newest and (files := _files_of(folder)):
            yield Leftover(folder, tuple(files), "no registered version was made of it")


def _finished(folder: UPath) -> datetime:
    """Return when a folder was completed, or last written to."""
    marks = [modified(folder.fs.info(mark.path)) for name in COMPLETE if (mark := folder / name).exists()]
    return max(marks) if marks else _latest(_files_of(folder))


def _unused_engines(store: Store, name: str, in_use: set[str]) -> Iterator[Leftover]:
    """Yield engine files and trials of versions that no longer score; another trial makes them again.

    Earlier releases named them by a number, which another version may have today.
    """
    for folder in folders(store.engines()):
        found = re.fullmatch(rf"{re.escape(name)}-(\d+|[0-9a-f]{{16}})-[0-9a-f]+", folder.name)
        if found and found[1] not in in_use and (files := _files_of(folder)):
            yield Leftover(folder, tuple(files), "its version is neither champion nor challenger")


def _small_things(here: Workspace, before: datetime, keep: int) -> list[Leftover]:
    """Return files that are made again or were left by killed processes."""
    store = here.store
    found: list[Leftover] = []
    for place, why in ((store.tune, "an earlier search"), (store.label_issues, "label issues of earlier nights")):
        for parent in folders(place("any").parent):
            found += [replace(one, why=why) for one in _unneeded(parent, set())]
    for model in folders(store.reproduce("any", "any").parent.parent):
        registered = versions_of(here.tracking_uri, model.name)
        gone = [path for path in folders(model) if path.name not in registered]
        found += [Leftover(path, tuple(_files_of(path)), "its version is deleted") for path in gone]
    for parent in folders(store.checks("any").parent):
        nights = [path for path in folders(parent) if path.name.isdecimal()][: -keep or None]
        plots: dict[str, list[_StoredFile]] = {}
        for file in _files_of(parent, _PLOT):  # at once: a year has hundreds of nights, most without any
            plots.setdefault(file.path.parent.name, []).append(file)
        why = "plots of earlier data checks; their numbers stay"
        found += [Leftover(night, tuple(plots.get(night.name, ())), why) for night in nights]
    for parent in folders(store.work("any").parent):
        if holder_of(store.turn(parent.name)) is None:
            found += [Leftover(path, tuple(_files_of(path)), "a killed night has left it") for path in folders(parent)]
    results = store.prefect() / "storage"
    if results.exists():
        found += [Leftover(results, (file,), "an old task's result") for file in _files_of(results)]
    yesterday = datetime.now(UTC) - timedelta(days=1)
    drafts = [file for file in _files_of(store.root, _DRAFT) if file.modified < yesterday]
    found += [Leftover(file.path.parent, (file,), "a killed process has left it half-written") for file in drafts]
    return [one for one in found if one.files and one.modified < before]


_PLOT = re.compile(r".*\.png")
_DRAFT = re.compile(r"\..+\.[0-9a-f]{8}")  # as `resnet_core.storage.files` names them


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


def _files_of(folder: UPath, named: re.Pattern[str] = re.compile(".*")) -> list[_StoredFile]:
    """Return all files below the folder whose names match."""
    found = folder.fs.find(folder.path, detail=True)
    return [
        _StoredFile(folder / name[len(folder.path) :].lstrip("/"), info["size"] / info.get("nlink", 1), modified(info))
        for name, info in found.items()
        if named.fullmatch(name.rpartition("/")[2])  # before a path is made: a year's store has 100,000 files
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
