"""Audit: hold registry, catalogs, shards, trainings, rows and engines against each other, by their digests.

place          agrees when
databases      SQLite finds pages and indexes of MLflow's, Prefect's and the searches' whole
registry       every version has the files that its digest lists; every alias names a version
catalog        it is whole; its version is the last of its history; the history has no gap
shards         every file is whole; the images of the newest set have the label and the split of the catalog
pixels, runs   files are those that were written
scores         parts, rows and manifest agree; the registry knows the version by its digest
engines        the file is the one that was tried
drafts, work   there are none where no night is at work

`repair` removes derived files alone: what a night or a batch makes again. Indexes of databases are made again, and so
are shards of earlier nights that another set has. A database that nothing depends on is set aside. The rest has the
command that mends it.
"""

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pyarrow.parquet as pq
from mlflow.exceptions import MlflowException
from upath import UPath

from flows.machine.findings import Finding, caught
from resnet_core.catalog import history
from resnet_core.errors import JobError, UserError
from resnet_core.inference.scores import read_scores
from resnet_core.shards import format as shards
from resnet_core.shards.encryption import Keys
from resnet_core.storage.database import check_parquet, database
from resnet_core.storage.digest import check_digests, file_digest
from resnet_core.storage.files import as_local, link, read_json, remove_drafts
from resnet_core.storage.turns import holder_of
from tasks.access.prefect_key import prefect_database
from tasks.batch.manifest import read_manifest
from tasks.registry.champion import last_champion
from tasks.registry.integrity import check_version
from tasks.registry.runs import client
from tasks.registry.versions import CHAMPION, SHARDS, model_names, value_of, versions_of
from tasks.settings import Settings
from tasks.store import (
    CATALOG_VERSION,
    ENGINE_FILE,
    EPOCHS,
    EVALUATION,
    MANIFEST,
    TRIALS,
    Store,
    own_files,
    sqlite_file,
)
from tasks.training.run import is_whole
from tasks.values import ShardSet
from tasks.workspace import Workspace

_NIGHT, _BACKUP = "grayline retrain --dataset FILE.yaml", "restore it from a backup of the store"
_REPAIR = "grayline doctor --deep --repair"
_PATIENCE = 30.0  # seconds that a locked database is waited for
_OF_AN_INDEX = re.compile(r"(in|from) index ")  # the rows are whole
_DISAGREE = """
select count(*) from facts
anti join (from rows where present and status = 'ok') using (image_id, label, split)
"""


def audit(here: Workspace) -> Iterator[Finding]:
    """Yield every disagreement. Data sets that a night is working on are left out."""
    store = here.store
    databases = [*_databases(here)]
    yield from databases
    asks = str(sqlite_file(here.tracking_uri)) not in {found.place for found in databases}
    yield from _registry(here) if asks else ()
    names = {path.name for place in (store.shards, store.runs, store.pixels) for path in own_files(place("any").parent)}
    for name in sorted(names | {path.name for path in own_files(store.catalog("any").parents[1])}):
        if holder := holder_of(store.turn(name)):
            yield Finding(name, f"not looked at: {holder} is at work", f"wait, then {_REPAIR}")
            continue
        yield from _catalog(store, name)
        yield from _shards(store, name, here.keys)
        yield from _derived(store, name, here.keys)
    models = model_names(here.tracking_uri) if asks else []
    known = {value_of(v).files for name in models for v in _versions(here, name)} if asks else None
    for folder in own_files(store.scores()):
        yield from _batch(folder, known)
    yield from _engines(store)


def _versions(here: Workspace, name: str) -> list:  # type: ignore[type-arg]  # of MLflow's versions
    return list(versions_of(here.tracking_uri, name).values())


def _databases(here: Workspace) -> Iterator[Finding]:
    files = {sqlite_file(here.tracking_uri): "MLflow's", prefect_database(os.environ): "Prefect's"}
    searches = [sqlite_file(here.store.tuning_uri(path.name)) for path in own_files(here.store.tune("any").parent)]
    files |= dict.fromkeys([*searches, sqlite_file(Settings().tune_storage or "")], "a search's")
    for file, whose in files.items():
        if file is None or not file.exists() or (wrong := _faults_of(file)) == ["ok"]:
            continue
        where, text = str(file), f"{whose} database is damaged ({wrong[0]})"
        if "locked" in wrong[0]:
            yield Finding(where, f"not looked at: {whose} {wrong[0]}", f"wait, then {_REPAIR}")
        elif all(_OF_AN_INDEX.search(each) for each in wrong):
            yield Finding(where, text, _REPAIR, partial(_make_indexes, file), "its indexes are made again")
        elif whose == "MLflow's":
            yield Finding(where, text, _BACKUP)
        elif _is_open(file):
            yield Finding(where, text, f"end what uses it (`grayline down`), then {_REPAIR}")
        else:
            aside = file.with_name(f"{file.name}.damaged-{int(file.stat().st_mtime)}")
            yield Finding(where, text, _REPAIR, partial(_set_aside, file, aside), f"set aside as {aside.name}")


def _faults_of(file: Path) -> list[str]:
    """Return what SQLite finds wrong in a database; `ok` alone if it is whole."""
    try:
        with closing(sqlite3.connect(file, _PATIENCE)) as db:
            return [str(row[0]).splitlines()[0] for row in db.execute("pragma integrity_check(20)")]
    except sqlite3.DatabaseError as error:  # its text tells a lock from damage
        return [str(error)]


def _is_open(file: Path) -> bool:
    """Return whether a process of this user has the file open."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # another user's, or just ended
            if str(file.resolve()) in {each.path for each in process.open_files()}:
                return True
    return False


def _make_indexes(file: Path) -> None:
    with closing(sqlite3.connect(file, _PATIENCE)) as db:
        db.execute("reindex")


def _set_aside(file: Path, aside: Path) -> None:
    """Rename a database with what SQLite keeps beside it; whoever needs it makes an empty one."""
    for end in ("-wal", "-shm", ""):
        if (part := file.with_name(f"{file.name}{end}")).exists():
            part.rename(aside.with_name(f"{aside.name}{end}"))


def _registry(here: Workspace) -> Iterator[Finding]:
    found: list[Finding] = []
    registry = client(here.tracking_uri)
    for name in model_names(here.tracking_uri):
        versions = _versions(here, name)
        ours = [version for version in versions if SHARDS in version.tags]  # those of other tools are not judged
        numbers = {str(version.version) for version in versions}
        aliases = registry.get_registered_model(name).aliases
        if ours and CHAMPION not in aliases and (last := last_champion(here.tracking_uri, name)):
            remedy = f"grayline promote {name} {last.version}"
            yield Finding(f"{name}@{CHAMPION}", f"the alias is gone; version {last.version} had it last", remedy)
        for alias, number in aliases.items():
            if ours and str(number) not in numbers:
                remedy = f"grayline promote {name} VERSION" if alias == "champion" else "delete the alias in MLflow"
                yield Finding(f"{name}@{alias}", f"names version {number}, which is gone", remedy)
        for version in ours:
            model = value_of(version)
            with caught(
                found, model, f"restore its files, or delete it in MLflow and grayline rollback {name} VERSION"
            ):
                check_version(here.tracking_uri, model, Settings().verify_key)
            shard_set = here.store.shards(name) / version.tags[SHARDS]
            if own_files(here.store.shards(name)) and not (shard_set / MANIFEST).exists():
                yield Finding(
                    str(model), f"its shards {shard_set.name} are gone: it scores, but is not reproduced", _BACKUP
                )
            try:
                if model.run_id and registry.get_run(model.run_id).info.lifecycle_stage == "deleted":
                    yield Finding(str(model), "its run is deleted", f"mlflow runs restore --run-id {model.run_id}")
            except MlflowException as error:  # MLflow's own word: no answer is another error
                yield Finding(
                    str(model), f"its run {model.run_id} is gone ({error.error_code})", "nothing: it scores without"
                )
    yield from found


def _catalog(store: Store, name: str) -> Iterator[Finding]:
    path, folder, found = store.catalog(name), store.history(name), list[Finding]()
    if not path.exists() and not history.last_version(folder):
        return
    with caught(found, path, f"{_NIGHT} (restores it from its history)"):
        check_parquet(path)
        with path.open("rb") as file:
            version = int(pq.read_schema(file).metadata[CATALOG_VERSION.encode()])
        if (last := history.last_version(folder)) != version:
            raise ValueError(f"it is of version {version}, and its history ends with {last}")
    with caught(found, folder, _BACKUP):
        history.check(folder)
    yield from found


def _shards(store: Store, name: str, keys: Keys | None) -> Iterator[Finding]:
    # no reader reads one without a manifest, and `prune` takes it
    sets = [folder for folder in own_files(store.shards(name)) if (folder / MANIFEST).exists()]
    found: list[Finding] = []
    rows_of: dict[UPath, dict[str, int]] = {}
    for folder in sets:
        with caught(found, folder / MANIFEST, _NIGHT, partial(_remove, folder / MANIFEST)):
            rows_of[folder] = read_json(folder / MANIFEST)["shards"]
    latest = max(rows_of, key=_age, default=None)
    if latest:  # no night writes an older manifest again
        since = (latest / MANIFEST).stat().st_mtime
        old = {str(folder / MANIFEST) for folder in sets if (folder / MANIFEST).stat().st_mtime < since}
        gone = [each for each in found if each.mend and each.place in old]
        found = [replace(each, remedy=_BACKUP, mend=None) if each in gone else each for each in found]
    yield from found
    for folder, rows in rows_of.items():
        for file in rows:
            remedy = _NIGHT if folder == latest else _BACKUP
            if latest and folder != latest and file in rows_of[latest]:
                remedy = f"{_NIGHT}, then {_REPAIR}"
            yield from _shard(folder / file, rows[file], [other / file for other in rows_of], remedy, keys)
    if latest and store.catalog(name).exists() and (newest := ShardSet.open(latest)):
        yield from _against_catalog(newest, store.catalog(name), keys)


def _shard(path: UPath, rows: int, twins: list[UPath], remedy: str, keys: Keys | None) -> Iterator[Finding]:
    """Check a shard. A night writes those of the latest set again, others are mended by a twin: names are digests."""
    found: list[Finding] = []
    with caught(found, path, remedy, partial(_remove, path) if remedy == _NIGHT else None):
        shards.check(path, rows, keys)
    torn = [each for each in found if each.remedy == remedy != _NIGHT]
    if torn and (twin := next((twin for twin in twins if _is_whole(twin, rows, keys)), None)):
        mended = f"made again from {twin.parent.name}"
        found = [replace(each, remedy=_REPAIR, mend=partial(link, twin, path), mended=mended) for each in found]
    yield from found


def _against_catalog(newest: ShardSet, catalog: UPath, keys: Keys | None) -> Iterator[Finding]:
    found: list[Finding] = []
    with caught(found, newest.folder, _NIGHT):
        facts = shards.read_facts(newest.files, ["image_id", "label", "split"], ["train", "validation", "test"], keys)
        with database() as db, catalog.open("rb") as file:
            db.register("facts", facts)
            db.register("rows", pq.read_table(file, columns=["image_id", "label", "split", "status", "present"]))
            count = db.execute(_DISAGREE).fetchall()[0][0]
        if count:
            raise ValueError(f"{count:,} of its images have another label or split than in the catalog, or are gone")
    yield from found


def _is_whole(shard: UPath, rows: int, keys: Keys | None) -> bool:
    try:
        shards.check(shard, rows, keys)
    except (UserError, JobError, OSError):  # missing, torn or unreadable: no twin
        return False
    return True


def _age(folder: UPath) -> tuple[int, float]:
    """Return the version of the catalog that shards were last made of; a clock may have been set back since."""
    path = folder / MANIFEST
    return read_json(path).get("catalog_version", 0), path.stat().st_mtime


def _derived(store: Store, name: str, keys: Keys | None) -> Iterator[Finding]:
    """Hold caches, trainings and evaluations against what was written."""
    found: list[Finding] = []
    for path in own_files(store.pixels(name), "*/*.parquet"):
        # no night reads those of another preprocessing
        with caught(found, path, _REPAIR, partial(_remove, path)):
            shards.open_file(path, keys).read()
    for folder in own_files(store.runs(name)):
        with caught(found, folder, _NIGHT, partial(_remove, folder / EPOCHS)):
            if (folder / EPOCHS).exists() and not is_whole(folder):
                raise ValueError("other files than were written")
        if (folder / EVALUATION / "digests.json").exists():
            mend = partial(_remove, folder / EVALUATION)
            with caught(found, folder / EVALUATION, _NIGHT, mend), as_local(folder / EVALUATION) as local:
                check_digests(local)
    for place in (
        store.work(name),
        store.shards(name),
        store.pixels(name),
        store.runs(name),
        store.catalog(name).parent,
    ):
        if place == store.work(name) and own_files(place):
            found.append(Finding(str(place), "left by a night that was killed", _REPAIR, partial(_remove, place)))
        if drafts := remove_drafts(place, only_count=True):
            found.append(
                Finding(str(place), f"{drafts} drafts of killed nights", _REPAIR, partial(remove_drafts, place))
            )
    yield from found


def _batch(folder: UPath, known: set[str] | None) -> Iterator[Finding]:
    if not (folder / MANIFEST).exists():
        return  # not finished: the same command goes on
    found: list[Finding] = []
    again = f"grayline classify-batch --source SOURCE --output {folder}"
    with caught(found, folder / MANIFEST, again):
        scores, parts = read_manifest(folder), read_json(folder / MANIFEST)["parts"]
        again = f"grayline classify-batch --source {scores.source} --output {folder}"
        for name, rows in parts.items():
            with caught(found, folder / name, f"delete it; {again}"):
                check_parquet(folder / name)
                count = len(read_scores(folder / name, ["uri"]))
                if count != rows:
                    raise ValueError(f"{count:,} rows, not {rows:,}")
        if sum(parts.values()) != scores.files:
            found.append(Finding(str(folder), f"{sum(parts.values()):,} rows for {scores.files:,} files", again))
        if scores.model.files and known is not None and scores.model.files not in known:
            found.append(Finding(str(folder), f"the registry has no {scores.model} of these files", again))
    yield from found


def _engines(store: Store) -> Iterator[Finding]:
    found: list[Finding] = []
    for folder in own_files(store.engines()):
        with caught(found, folder, "grayline classify-batch (tries them again)", partial(_remove, folder)):
            trials = read_json(folder / TRIALS) if (folder / TRIALS).exists() else []
            digests = {row["digest"] for row in trials if row["name"] in ("onnx", "openvino")} - {""}
            if digests and (folder / ENGINE_FILE).exists():
                with as_local(folder / ENGINE_FILE) as file:
                    if file_digest(file) not in digests:
                        raise ValueError(f"{ENGINE_FILE} is not the file that was tried")
    yield from found


def _remove(path: UPath) -> None:
    if path.exists():
        path.fs.rm(path.path, recursive=path.is_dir())
