"""Plan a batch: list the source, find valid rows of earlier runs, and cut the remaining files into parts.

A row is valid while its file's size and mtime are unchanged. Part files with only valid rows are kept; valid rows
of other part files are copied to a new one. Every part becomes one file, whole or not at all. No step needs memory
for all files.
"""

from collections.abc import Collection, Iterator
from itertools import groupby

import pyarrow as pa
import pyarrow.compute as pc
from duckdb import DuckDBPyConnection
from prefect import task
from prefect.cache_policies import NO_CACHE
from upath import UPath

import resnet_core.images
import resnet_core.inference
import resnet_core.model
import resnet_core.reading
import resnet_core.reasons
from resnet_core.errors import UserError
from resnet_core.images.preprocessing import Preprocessing
from resnet_core.inference.scores import read_scores
from resnet_core.reasons import LOOK_AGAIN
from resnet_core.sources import shard_files
from resnet_core.sources.listing import NO_LABELS
from resnet_core.sources.manifest import LISTED, list_manifest
from resnet_core.sources.source import list_source, source_kind
from resnet_core.storage import database
from resnet_core.storage.digest import digest_of, source_digest
from resnet_core.storage.files import to_path, write_whole
from tasks.batch.folder import (
    Claim,
    Job,
    absolute_source,
    check_places,
    claim,
    read_job,
    score_files,
    write_known,
    write_tried,
)  # fmt: skip
from tasks.batch.values import Batch
from tasks.parts import COLUMNS, Part, make_parts, part_size
from tasks.progress import counted, progress
from tasks.settings import Settings
from tasks.store import WORK, Store
from tasks.values import ModelVersion
from tasks.workspace import ask_for, of_batch

# The code that decides a row, beside the file and the version.
_CODE = (
    resnet_core.images, resnet_core.inference, resnet_core.model, resnet_core.reading, resnet_core.reasons,
)  # fmt: skip
MOST_PARTS = 10_000  # beyond ten million files parts are larger: to each of them Prefect takes some 20 ms

ENTRIES = f"""
create or replace table entries as
select {", ".join(f'"{name}"' for name in COLUMNS)}
from (select * replace (coalesce(size, 0) as size, coalesce(modified, '') as modified) from listed)
where not coalesce(ignored, false)
"""
_DONE = pa.schema([(name, pa.string()) for name in ("uri", "modified", "part")] + [("size", pa.int64())])
_DONE = _DONE.append(pa.field("state", pa.string()))  # scored; failed
for _field in (pa.field("reason_code", pa.string()), pa.field("tries", pa.int32())):
    _DONE = _DONE.append(_field)
# A fault of the moment is not a verdict on an image. Its end does not show in the file's time.
_CHOSEN = f"""
create or replace table chosen as
select uri, min(part) as part from done join entries using (uri, size, modified)
where not {LOOK_AGAIN} group by uri
"""
# Failed files once more: other files of the source are not looked at.
_CHOSEN_UNLESS_FAILED = """
delete from entries where uri not in (select uri from done where state != 'scored');
create or replace table chosen as
select uri, min(part) as part from done where uri not in (select uri from entries) group by uri
"""
# Neighbours in an archive are read together.
_WAITING = """
select entries.* from entries anti join chosen using (uri) order by container nulls first, "offset", entries.uri
"""
_HOW_MANY = "select count(*), coalesce(avg(size), 0) from entries anti join chosen using (uri)"
PARTS = """
select part, count(*), count(chosen.uri) from done left join chosen using (uri, part) group by part order by part
"""
_CHECK = """
select count(*), coalesce(sum(hash(uri)::hugeint), 0) from
(select uri from chosen union all select uri from entries anti join chosen using (uri))
"""
_CHOSEN_OF = "select part, uri from chosen where part in (select unnest($names::varchar[])) order by part"
_TWICE = "select uri from entries group by uri having count(*) > 1 limit 1"


@task(cache_policy=NO_CACHE)
def plan_batch(
    source: str,
    output: UPath,
    model: ModelVersion,
    preprocessing: Preprocessing,
    embeddings: bool | None = False,
    only_failed: bool = False,
) -> Batch:
    """List the source, and find files without a valid row.

    The output and the store are left out if they lie in the source.

    Raises UserError for a source that is missing, empty, or of other pixels than the version's. Raises it for an
    output that another job uses. embeddings: whether all are kept; None: the version is confidential, and none is.
    only_failed: try only the files again whose rows say failed.
    """
    check_places(source, output)
    place = absolute_source(source)
    if source_kind(place) == "shards":
        shard_files.check_preprocessing(place, preprocessing)
    job = Job(place, model, digest_of(model, embeddings, source_digest(*_CODE))[:12])
    if only_failed:
        _check_known(output, job)
    own = [str(output), *Store(Settings().root).own_places()]
    with database.database() as db:
        database.create(db, "listed", LISTED, counted("list", list_files(place, own)))
        db.execute(ENTRIES)
        _check_entries(db, source)
        mine = claim(output, job)
        old = _load_done(db, score_files(mine.folder, job.key))
        db.execute(_CHOSEN_UNLESS_FAILED if only_failed else _CHOSEN)
        kept, stale = _carry(db, old, mine.folder, job.key)
        waiting = cut(db, mine, job.key)
        ask_for(output, of_batch(sum(part.count for part in waiting)), "score")
        known = write_known(stale, mine.folder) if waiting else None
        tried = write_tried(db, mine)
        files, total = db.execute(_CHECK).fetchall()[0]
        ignored = _write_ignored(db, mine)
    return Batch(
        source=place,
        model=model,
        final=mine.final,
        folder=mine.folder,
        run=mine.run,
        kept=kept,
        waiting=waiting,
        known=known,
        tried=tried,
        ignored=ignored,
        files=files,
        check=(files, int(total)),
        confidential=embeddings is None,
    )


def list_files(source: str, own: Collection[str] = ()) -> Iterator[pa.RecordBatch]:
    """List a batch's files; nobody asks for their labels."""
    if source_kind(source) == "manifest":
        return list_manifest(to_path(source), NO_LABELS)
    return list_source(source, own, NO_LABELS)


def _check_known(output: UPath, job: Job) -> None:
    """Raises UserError unless there is a batch of this job whose failed files may be tried again."""
    found = read_job(output)
    if found is None:
        raise UserError(f"--only-failed: {output} holds no batch. Run it without, or correct --output.")
    if found.get("key") != job.key:
        raise UserError(
            f"--only-failed: {output} was scored by {found['model']['name']} version {found['model']['version']}, with "
            "other files, code or options. Give that version with --model, or run it without --only-failed to score "
            "all anew."
        )


def _check_entries(db: DuckDBPyConnection, source: str) -> None:
    if not database.count(db, "select count(*) from entries"):
        raise UserError(f"--source: {source} holds no images. Give a folder of images.")
    if twice := db.execute(_TWICE).fetchall():
        raise UserError(f"--source: {source}: {twice[0][0]} is named twice. Keep one row.")


def _load_done(db: DuckDBPyConnection, parts: list[UPath]) -> dict[str, UPath]:
    """Make the table `done`, the rows of earlier runs. Returns the files by their names."""
    database.create(db, "done", _DONE, (_done_rows(path) for path in parts))
    return {path.name: path for path in parts}


def _done_rows(path: UPath) -> pa.RecordBatch:
    table = read_scores(path, ["uri", "modified", "size", "status", "reason_code", "tries"])
    table = table.append_column("state", pc.if_else(pc.equal(table["status"], "ok"), "scored", "failed"))
    table = table.append_column("part", pa.array([path.name] * len(table), pa.string()))
    return table.select(_DONE.names).cast(_DONE).combine_chunks().to_batches()[0]


def _carry(
    db: DuckDBPyConnection, old: dict[str, UPath], folder: UPath, key: str
) -> tuple[tuple[UPath, ...], list[UPath]]:
    """Return the files whose rows stay, and the files that go away once the batch is done.

    Valid rows of files with other rows, too, are copied to a new file.
    """
    counts = db.sql(PARTS).fetchall()
    kept = [old[name] for name, rows, chosen in counts if chosen == rows]
    stale = [old[name] for name, rows, chosen in counts if chosen < rows]
    mixed = {name: chosen for name, rows, chosen in counts if 0 < chosen < rows}
    if mixed:
        with progress("keep", sum(mixed.values()), "rows") as advance:
            for name, uris in _chosen_of(db, list(mixed)):
                kept.append(_carried(old[name], uris, folder, key))
                advance(len(uris))
    return tuple(kept), stale


def _chosen_of(db: DuckDBPyConnection, names: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Return the chosen URIs of each file, in one pass over all: a pass per file would be quadratic."""
    rows = db.sql(_CHOSEN_OF, params={"names": names}).to_arrow_reader(database.BATCH_ROWS)
    pairs = (pair for batch in rows for pair in zip(batch["part"].to_pylist(), batch["uri"].to_pylist(), strict=True))
    for name, some in groupby(pairs, key=lambda pair: pair[0]):
        yield name, [uri for _, uri in some]


def _carried(path: UPath, uris: list[str], folder: UPath, key: str) -> UPath:
    """Write a new file with the rows of these URIs."""
    table = read_scores(path)
    table = table.filter(pc.is_in(table["uri"], value_set=pa.array(uris, pa.string())))
    made = folder / f"{key}-{digest_of(path.name, table['uri'].to_pylist())}.parquet"
    database.write_parquet(made, table)
    return made


def cut(db: DuckDBPyConnection, mine: Claim, key: str) -> tuple[Part, ...]:
    """Return the files without a row, as parts."""
    count, size = db.execute(_HOW_MANY).fetchall()[0]
    listing = mine.folder / WORK / f"{mine.run}.parquet"
    files = database.pieces(db, _WAITING, part_size(count, int(size), MOST_PARTS))
    return make_parts(files, listing, mine.folder, key)


def _write_ignored(db: DuckDBPyConnection, mine: Claim) -> UPath:
    """Write the names of ignored files: there may be one beside each image."""
    path = mine.folder / WORK / f"{mine.run}-ignored.parquet"
    with write_whole(path) as draft:
        db.sql("select path from listed where ignored order by path").write_parquet(str(draft))
    return path
