"""The folder of a batch: its owner, its files, and how a new version's rows replace the old ones.

<key>-<digest>.parquet   rows; <key> is the digest of the version and of everything else that decides a row
_batch.json              the source, the version, and the run that writes
_manifest.json           written last: a folder with it is complete
_work/                   files that the stages hand to each other
_next/                   the same again: another version's rows, until they are complete
"""

import json
import logging
import os
import re
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from duckdb import DuckDBPyConnection
from upath import UPath

from resnet_core.credentials import public
from resnet_core.errors import JobError, UserError
from resnet_core.inference.scores import PREDICTED, read_scores
from resnet_core.sources.source import check_source, source_kind
from resnet_core.storage import locations
from resnet_core.storage.digest import digest_of
from resnet_core.storage.files import read_json, to_path, write_text, write_whole
from resnet_core.storage.globs import parse_glob
from tasks.store import BATCH_BEGUN, MANIFEST, NEXT, SCORED, WORK, Store, own_files
from tasks.values import ModelVersion

log = logging.getLogger("grayline")

_ANEW = "Choose another --output, or delete the folder and run the same command again: every file is scored again"
_MOST_KNOWN = 100_000  # rows whose predictions a worker looks up by content: 50 MB of memory
_TRIED = """
select uri, max(tries)::int as tries from done join entries using (uri, size, modified)
where tries is not null group by uri
"""


class SupersededError(JobError):
    """Another run has begun to write into the same folder."""


@dataclass(frozen=True)
class Job:
    """The identity of a batch: a run with the same job may go on with it.

    `key` is the digest of the version's files, the code and the options that decide a row.
    """

    source: str
    model: ModelVersion
    key: str


@dataclass(frozen=True)
class Claim:
    """The folder that a run writes to: `final` or `final`/_next.

    `run` names the run: late files of a forgotten worker of an earlier run are not taken.
    """

    final: UPath
    folder: UPath
    run: str


def absolute_source(source: str) -> str:
    return public(source) if "://" in source else str(to_path(source))


def check_places(source: str, output: UPath | None) -> None:
    """Raises UserError if the source is missing, or if the output is the folder of its files.

    An output in a folder within the source is left out of the listing.
    """
    try:
        check_source(source)
    except UserError as error:
        raise UserError(f"--source: {str(error).replace('`source:`', '--source')}") from None
    if output is not None and _takes_rows_of(source, output):
        raise UserError(
            f"--output: {output} is the source, and would be scored itself. Choose a folder in it or beside."
        )


def lies_in(place: str, source: str) -> bool:
    """Return whether a place is a local source's folder, or within it; also when the source is gone."""
    if locations.is_url(source):
        return False
    try:
        glob = parse_glob(locations.absolute(source)) if source_kind(source) == "glob" else None
    except UserError:
        glob = None
    folder = os.path.realpath(glob.folder if glob else source)
    return (os.path.realpath(place) + os.sep).startswith(folder + os.sep)


def _takes_rows_of(source: str, output: UPath) -> bool:
    """Return whether files in the folder `output` itself are files of the source."""
    glob = parse_glob(locations.absolute(source)) if source_kind(source) == "glob" else None
    folder, mine = glob.folder if glob else source, str(output)
    if not locations.is_url(folder):
        folder, mine = os.path.realpath(folder), os.path.realpath(mine)
    return locations.absolute(folder) == mine and (glob is None or glob.takes(glob.begin(), "rows.parquet"))


def claim(output: UPath, job: Job) -> Claim:
    """Take the folder for this job. Raises UserError if it holds something else."""
    if (output / NEXT / MANIFEST).exists():
        replace(output)  # a run was killed in the middle of it
    found = read_job(output)
    if found is None and own_files(output, "*.parquet"):
        raise UserError(f"--output: {output} holds Parquet files of something else. Choose another folder.")
    if found is not None and public(found["source"]) != job.source:
        raise UserError(
            f"--output: {output} holds a batch of {public(found['source'])} by {found['model']['name']} "
            f"version {found['model']['version']}. Choose another folder."
        )
    begun, folder = output / NEXT, output
    if found is not None and found.get("key") != job.key:
        log.info("score       %s: %s: every file is scored again", output, _why_not(found, job))
        folder = begun
        begun_job = read_job(begun)
        if begun_job is not None and begun_job.get("key") != job.key:
            remove(begun)
    elif begun.exists():
        remove(begun)  # of a version that is not wanted any more
    run = uuid4().hex
    content = json.dumps(asdict(job) | {"run": run}, indent=2, ensure_ascii=False) + "\n"
    try:
        write_text(folder / BATCH_BEGUN, content)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"--output: cannot write under {output} ({reason}). Choose another folder.") from None
    return Claim(output, folder, run)


def _why_not(found: dict[str, Any], job: Job) -> str:
    """Return why the rows of `found` are not those of the job. Rows that name no files are not known to be its own."""
    by = ModelVersion(**found["model"])
    if str(by) != str(job.model) or by.files == job.model.files:
        return "it has rows by another version, code or options"
    return f"its rows are by another {by}" if by.files else f"its rows do not say by which files of {by}"


def read_job(folder: UPath) -> dict[str, Any] | None:
    """Return the content of _batch.json; None if it is missing."""
    try:
        found: dict[str, Any] = read_json(folder / BATCH_BEGUN, f"It says whose rows these are. {_ANEW}.")
    except (FileNotFoundError, NotADirectoryError):  # the batch has not begun
        return None
    return found


def check_run(folder: UPath, run: str) -> None:
    """Raises SupersededError unless the folder is still that run's."""
    found = read_job(folder)
    if found is None or found.get("run") != run:
        raise SupersededError(f"{folder}: another run has taken it over; this one adds nothing to it.")


def score_files(folder: UPath, key: str) -> list[UPath]:
    """Return the files with rows of this key."""
    return sorted((path for path in folder.glob("*.parquet") if path.name.startswith(f"{key}-")), key=str)


def replace(output: UPath) -> None:
    """Replace the old rows by the complete ones in _next. An interrupted replacement can be done again."""
    begun = output / NEXT
    names = set(read_json(begun / MANIFEST, f"Delete {begun}, and run the same command again.")["parts"])
    text = (begun / MANIFEST).read_text(encoding="utf-8")
    (output / MANIFEST).unlink(missing_ok=True)
    for old in output.glob("*.parquet"):
        if old.name not in names:
            old.unlink()
    for name in names:
        if (begun / name).exists():
            move(begun / name, output / name)
    write_text(output / BATCH_BEGUN, (begun / BATCH_BEGUN).read_text(encoding="utf-8"))
    write_text(output / MANIFEST, text)
    remove(begun)


def move(old: UPath, new: UPath) -> None:
    old.fs.mv(old.path, new.path)


def remove(folder: UPath) -> None:
    folder.fs.rm(folder.path, recursive=True)


def default_folder(store: Store, source: str, model: ModelVersion) -> UPath:
    """Return a folder named by source and version: the next run over the same source finds it, and goes on."""
    name = re.sub(r"[^\w.-]+", "-", source.rstrip("/").rpartition("/")[2]).strip("-.")[:40] or "batch"
    return store.scores() / f"{name}-{digest_of(source)[:8]}-by-{model.name}-{model.version}"


def model_of(output: UPath) -> str | None:
    """Return the version that the rows of a batch are by, as NAME/VERSION."""
    found = read_job(output)
    return None if found is None else f"{found['model']['name']}/{found['model']['version']}"


def write_tried(db: DuckDBPyConnection, mine: Claim) -> UPath | None:
    """Write how many runs have tried the files with a fault of the moment; None if there are none."""
    rows = db.sql(_TRIED).to_arrow_table()
    if not len(rows):
        return None
    path = mine.folder / WORK / f"{mine.run}-tried.parquet"
    with write_whole(path) as draft:
        pq.write_table(rows, draft)
    return path


def write_known(stale: list[UPath], folder: UPath) -> UPath | None:
    """Write scored rows to look up by content hash, for files that were changed, moved or touched.

    Returns None if there are none, or too many to look up.
    """
    tables, count = [], 0
    for path in stale:
        table = read_scores(path)
        tables.append(table.filter(pc.field("status") == "ok"))
        count += len(tables[-1])
        if count > _MOST_KNOWN:
            return None
    if not count:
        return None
    known = folder / WORK / SCORED
    with write_whole(known) as draft:
        pq.write_table(pa.concat_tables(tables).select(["image_id", *PREDICTED.names]), draft)
    return known


@lru_cache(maxsize=2)
def read_known(path: UPath) -> pa.Table:
    with path.open("rb") as file:
        return pq.read_table(file)


@lru_cache(maxsize=2)
def read_tried(path: UPath) -> dict[str, int]:
    with path.open("rb") as file:
        rows = pq.read_table(file)
    return dict(zip(rows["uri"].to_pylist(), rows["tries"].to_pylist(), strict=True))
