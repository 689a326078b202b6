"""Scan: what the source has now, and which of it no earlier night has read."""

import pyarrow as pa
from duckdb import DuckDBPyConnection
from prefect import task
from upath import UPath

from resnet_core.catalog import corrections
from resnet_core.catalog.build import ENTRIES
from resnet_core.errors import UserError
from resnet_core.reading import pool as reading
from resnet_core.reading.image import Limits
from resnet_core.sources.manifest import LISTED, list_manifest, read_manifest
from resnet_core.sources.source import check_source, list_source, source_kind
from resnet_core.storage import database
from resnet_core.storage.files import absolute, write_whole
from tasks.dataset import Dataset
from tasks.ingest.pixels import pixel_folder
from tasks.parts import COLUMNS, Part, make_parts
from tasks.progress import counted
from tasks.store import begin_work, load_catalog
from tasks.values import Scan

_MISSING = "file missing: the labels name it, the source has it not"
_UNLABELLED = "label missing: no row of the labels names it"
_WITH_LABELS = """
create or replace table listed as
select coalesce(f.uri, $folder || '/' || l.path) as uri, coalesce(f.path, l.path) as path, l.label,
    coalesce(l.split, f.split) as split, l."group", l.weight, l.soft_label, l.attributes,
    f.size, f.modified, f.container, f.kind, f."offset", f.length, f.ignored
from (select * from listed where not ignored) f full join labels l on f.path = l.path
"""
# A file that could not be opened is tried again: permissions and networks recover, and neither shows
# in a file's size or time.
_ALL_ENTRIES = f"""
create or replace table entries as
with entry as (
    select coalesce(size, 0) as size, coalesce(modified, '') as modified, coalesce(weight, 1) as weight,
        case when size is null then '{_MISSING}' when label is null then '{_UNLABELLED}' end as reason,
        * exclude (size, modified, weight, ignored)
    from listed where not coalesce(ignored, false)
),
known as (
    select uri, size, modified, min(part) as part from old
    where part in (select unnest($there::varchar[]))
        and (image_id is not null or reason not like 'unreadable%')
    group by all
)
select entry.*, case when entry.reason is null then known.part end as part
from entry left join known
    on entry.uri = known.uri and entry.size = known.size and entry.modified = known.modified
"""
_KNOWN_BY = ("uri", "size", "modified", "part", "image_id", "reason")
_HANDED_ON = f"""
select {", ".join(f'entries."{name}"' for name in ENTRIES.names if name != "part")},
    coalesce(entries.part, assigned.part) as part
from entries left join assigned on entries.uri = assigned.uri
"""
_ASSIGNED = pa.schema([("uri", pa.string()), ("part", pa.string())])
_UNREAD = f"""
select {", ".join(f'"{name}"' for name in COLUMNS)} from entries where part is null and reason is null
"""


@task
def scan(dataset: Dataset, store: UPath, limits: Limits) -> Scan:
    """List the source, join the labels, and find what is unread. Raises UserError for a source that
    is missing, empty, or of fewer than two classes."""
    check_source(dataset.source)
    reading.start()  # most nights bring something new
    pixels = pixel_folder(store, dataset.name, dataset.image, limits, dataset.encrypt)
    there = [path.name for path in pixels.iterdir()] if pixels.exists() else []
    with database.database() as db:
        list_files(db, dataset)
        if dataset.corrections:
            corrections.list_corrected(db, dataset.corrections)
        load_catalog(db, store, dataset.name, _KNOWN_BY)
        db.execute(_ALL_ENTRIES, {"there": there})
        _check_entries(db, dataset)
        work = begin_work(store, dataset.name)
        count, unread = db.execute(f"select count(*), (select count(*) from ({_UNREAD})) from entries").fetchall()[0]
        # Neighbours in an archive are neighbours in a part.
        ordered = f'{_UNREAD} order by container nulls first, "offset", uri'
        parts = make_parts(lambda rows: database.pieces(db, ordered, rows), unread, work / "unread.parquet", pixels)
        database.create(db, "assigned", _ASSIGNED, (_assigned(part) for part in parts))
        with write_whole(work / "entries.parquet") as draft:
            db.sql(_HANDED_ON).write_parquet(str(draft))
        corrected = _write_corrections(db, work) if dataset.corrections else None
    return Scan(dataset.name, pixels, work / "entries.parquet", count, parts, corrected)


def _write_corrections(db: DuckDBPyConnection, work: UPath) -> UPath:
    path = work / "corrections.parquet"
    with write_whole(path) as draft:
        db.sql("select * from corrections").write_parquet(str(draft))
    return path


def _assigned(part: Part) -> pa.RecordBatch:
    """The part of each file in it: ASSIGNED."""
    names = pa.array([part.path.name] * part.count, pa.string())
    return pa.RecordBatch.from_arrays([part.files()["uri"].combine_chunks(), names], schema=_ASSIGNED)


def list_files(db: DuckDBPyConnection, dataset: Dataset) -> None:
    """Make `listed`: a row a file of the source, or of its labels. Raises UserError."""
    kind = source_kind(dataset.source)
    if kind == "shards":
        raise UserError(f"{dataset.source}: holds shards, which were made of images. Name those as `source:`.")
    if kind == "manifest":
        database.create(db, "listed", LISTED, list_manifest(absolute(UPath(dataset.source))))
    else:
        database.create(db, "listed", LISTED, counted("scan", list_source(dataset.source)))
        if not database.count(db, "select count(*) from listed where not ignored"):
            raise UserError(f"{dataset.source}: holds no images. Fill it, or correct `source:`.")
        if dataset.labels:
            db.register("labels", read_manifest(UPath(dataset.labels)))
            db.execute(_WITH_LABELS, {"folder": str(absolute(UPath(dataset.source)))})
            db.unregister("labels")


def _check_entries(db: DuckDBPyConnection, dataset: Dataset) -> None:
    classes = db.execute("select distinct label from entries where label is not null order by label limit 2").fetchall()
    if len(classes) < 2:
        names = repr(classes[0][0]) if classes else "none"
        raise UserError(
            f"{dataset.source}: a classifier needs two classes or more, found {names}. "
            "Put images into one folder a class, or name a table of labels with `labels:`."
        )
    twice = db.execute("select uri from entries group by uri having count(*) > 1 limit 1").fetchall()
    if twice:
        raise UserError(f"{dataset.source}: {twice[0][0]} is named twice. Keep one row.")
    if not database.count(db, "select count(*) from entries where size > 0 or reason is null"):
        raise UserError(f"{dataset.source}: none of its paths is a file. Write them relative to it.")
