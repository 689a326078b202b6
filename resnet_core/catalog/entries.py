"""The first tables of a night: `listed` and `labels` become `entries`, the files to read and to judge.

`resnet_core.catalog.build` has the table of all tables.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from duckdb import DuckDBPyConnection

from resnet_core.catalog.build import CATALOG, ENTRIES
from resnet_core.credentials import masked
from resnet_core.errors import UserError, plural
from resnet_core.reasons import LOOK_AGAIN, Reason, ReasonCode, with_reason_codes
from resnet_core.sources.listing import BROKEN_LINK
from resnet_core.storage import database
from resnet_core.storage.matching import Places, difference, match
from resnet_core.storage.names import bare_label, fold_label, fold_path

log = logging.getLogger("grayline")

ASSIGNED = pa.schema([("uri", pa.string()), ("part", pa.string())])
KNOWN_BY = ("uri", "size", "modified", "part", "reason_code", "tries")  # columns of `previous` that entries need

_VOID = ("nan", "na", "n/a", "none", "null", "<na>", "#n/a", "nil")
_MISSING = Reason.of(ReasonCode.FILE_MISSING, "listed in the labels, not found in the source")
_UNLABELLED = Reason.of(ReasonCode.LABEL_MISSING, "it has none yet")
_WITH_LABELS = """
create or replace table listed as
select coalesce(f.uri, case when regexp_matches(l.path, '^(/|[A-Za-z][A-Za-z0-9+.-]*://)') then l.path
        else $folder || '/' || l.path end) as uri, coalesce(f.path, l.path) as path, l.label,
    coalesce(l.split, f.split) as split, l."group", l.weight, l.soft_label, l.attributes,
    f.size, f.modified, f.container, f.kind, f."offset", f.length, f.ignored
from (select * from listed where not ignored) f full join labels l on f.path = l.path
"""
_UNMATCHED = "select path from labels where path not in (select path from listed where not ignored) order by path"
# A link to nothing is read, with or without a label: that gives its reason.
_NO_LABEL = f"label is null and modified is distinct from '{BROKEN_LINK}'"
# Faults of a moment are not verdicts: permissions and networks recover without a change of size or time.
_ENTRIES = f"""
create or replace table entries as
with entry as (
    select coalesce(size, 0) as size, coalesce(modified, '') as modified, coalesce(weight, 1) as weight,
        case when size is null then '{_MISSING.code}' when {_NO_LABEL} then '{_UNLABELLED.code}' end as reason_code,
        case when size is null then '{_MISSING.text}' when {_NO_LABEL} then '{_UNLABELLED.text}' end as reason,
        * exclude (size, modified, weight, ignored)
    from listed where not coalesce(ignored, false)
),
known as (
    select uri, size, modified, min(part) as part from previous
    where part in (select unnest($parts::varchar[])) and not {LOOK_AGAIN}
    group by all
)
select entry.*, case when entry.reason_code is null then known.part end as part
from entry left join known
    on entry.uri = known.uri and entry.size = known.size and entry.modified = known.modified
"""
_UNREAD = "part is null and reason_code is null"
_ASSIGNED_ENTRIES = f"""
select {", ".join(f'entries."{name}"' for name in ENTRIES.names if name != "part")},
    coalesce(entries.part, assigned.part) as part
from entries left join assigned on entries.uri = assigned.uri
"""


def count_listed(db: DuckDBPyConnection) -> int:
    """Return the number of listed files that are not ignored."""
    return database.count(db, "select count(*) from listed where not ignored")


def join_labels(db: DuckDBPyConnection, labels: pa.Table, places: Places, *, named: bool = False) -> list[str]:
    """Join a labels table (`manifest.MANIFEST`) to `listed`. Returns lines about the paths.

    Paths that are not relative to the source have a line, and so do those that name no file. named: the paths are those
    of a labelling tool.

    Raises UserError if none names a file, and for a path that may name several.
    """
    db.register("labels", labels)
    lines: list[str] = []
    if rest := [path for (path,) in db.sql(_UNMATCHED).fetchall()]:
        files = [path for (path,) in db.sql("select path from listed where not ignored order by path").fetchall()]
        paths = labels["path"].to_pylist()
        files_of = match(paths, files, places, tails=named)
        labels = labels.set_column(0, "path", pa.array([files_of.get(path, path) for path in paths], pa.string()))
        db.unregister("labels")
        db.register("labels", labels)
        if other := [path for path in rest if path in files_of and fold_path(path) != fold_path(files_of[path])]:
            example = f"such as {other[0]!r} as {files_of[other[0]]!r}"
            lines.append(f"read {plural(len(other), 'path')} as below the source, {example}")
        if 2 * len(files_of) < len(paths):
            taken = set(files_of.values())
            differ = difference(
                [path for path in rest if path not in files_of], [file for file in files if file not in taken] or files
            )
            lines.append(f"{len(files_of):,} of {plural(len(paths), 'path')} are files of the source: {differ}")
        if not files_of:
            raise UserError(lines[-1])
    db.execute(_WITH_LABELS, {"folder": places.source})
    db.unregister("labels")
    return lines


def fold_labels(db: DuckDBPyConnection, table: str) -> dict[str, list[str]]:
    """Write every label of a table in its one spelling; return the spellings of those that were changed, by label.

    Outer blanks and the Unicode form do not make a class.
    """
    rows = db.sql(f"select distinct label from {table} where label is not null order by label").fetchall()
    changed = {label: fold_label(label) for (label,) in rows if label != fold_label(label)}
    for label, folded in changed.items():
        db.execute(f"update {table} set label = $1 where label = $2", [folded or None, label])
    return {name: [label for (label,) in rows if fold_label(label) == name] for name in changed.values() if name}


def labels_alike(db: DuckDBPyConnection) -> list[list[str]]:
    """Return the labels of `entries` that differ by what a person hardly sees, as `names.bare_label` has it."""
    alike: dict[str, list[str]] = {}
    for (label,) in db.sql("select distinct label from entries where label is not null order by label").fetchall():
        alike.setdefault(bare_label(label), []).append(label)
    return [labels for labels in alike.values() if len(labels) > 1]


def void_labels(db: DuckDBPyConnection) -> str:
    """Return the labels of `entries` that programs write for a missing value, such as 'NaN'."""
    query = f"select distinct label from entries where lower(label) in {_VOID} order by label"
    return " and ".join(repr(label) for (label,) in db.sql(query).fetchall())


def load_previous(db: DuckDBPyConnection, file: Path | None, columns: Sequence[str] = ("*",)) -> None:
    """Make `previous` from a catalog file; empty without a file. Columns that are not named stay null.

    Files of older releases have no `reason_code`: it comes from the text.
    """
    database.create(db, "previous", CATALOG)
    if file is not None and "reason_code" not in pq.read_schema(file).names:
        database.create(db, "previous", CATALOG, map(with_reason_codes, pq.ParquetFile(file).iter_batches()))
    elif file is not None:
        there = set(pq.read_schema(file).names)  # earlier releases lack some
        names = ", ".join(name for name in columns if name == "*" or name in there)
        query = f"insert into previous by name select {names} from read_parquet($file)"
        db.execute(query, {"file": database.file_name(file)})
    _take_out_secrets(db)


def _take_out_secrets(db: DuckDBPyConnection) -> None:
    """Give the rows of earlier releases the public URLs that sources have now."""
    query = "select uri from previous where contains(uri, '://') and (contains(uri, '@') or contains(uri, '?'))"
    changed = [(shown, uri) for (uri,) in db.sql(query).fetchall() if (shown := masked(uri)) != uri]
    if changed:
        db.executemany("update previous set uri = $1 where uri = $2", changed)
        log.warning(
            "ingest      %s an earlier release has kept with a password or a signature: it goes from the catalog, and "
            "stays in history/. Change it", plural(len(changed), "URL that", "URLs that"),
        )  # fmt: skip


def make_entries(db: DuckDBPyConnection, parts: Sequence[str]) -> None:
    """Make `entries`; a file read in an earlier night keeps its part if `parts`, the cached ones, have it."""
    db.execute(_ENTRIES, {"parts": list(parts)})


def first_labels(db: DuckDBPyConnection, most: int) -> list[str]:
    query = "select distinct label from entries where label is not null order by label limit $most"
    return [label for (label,) in db.execute(query, {"most": most}).fetchall()]


def repeated_uri(db: DuckDBPyConnection) -> str | None:
    """Return a URI that two entries have, or None."""
    row = db.execute("select uri from entries group by uri having count(*) > 1 limit 1").fetchone()
    return row[0] if row else None


def has_files(db: DuckDBPyConnection) -> bool:
    """Return whether any entry is a file that exists."""
    return database.count(db, "select count(*) from entries where size > 0 or reason_code is null") > 0


def count_entries(db: DuckDBPyConnection) -> tuple[int, int]:
    """Return the number of entries, and of those that must be read."""
    count, unread = db.execute(f"select count(*), count(*) filter ({_UNREAD}) from entries").fetchall()[0]
    return count, unread


def unread(db: DuckDBPyConnection, columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
    """Yield the unread entries, `rows` at a time; neighbours in an archive stay neighbours."""
    names = ", ".join(f'"{name}"' for name in columns)
    query = f'select {names} from entries where {_UNREAD} order by container nulls first, "offset", uri'
    return database.pieces(db, query, rows)


def write_entries(db: DuckDBPyConnection, assigned: Iterable[pa.RecordBatch], file: Path) -> None:
    """Write `entries` as Parquet. assigned: the parts of the unread ones (ASSIGNED)."""
    database.create(db, "assigned", ASSIGNED, assigned)
    db.sql(_ASSIGNED_ENTRIES).write_parquet(str(file))


def load_entries(db: DuckDBPyConnection, file: Path) -> list[str]:
    """Make `entries` from the file of `write_entries`. Returns the names of their parts."""
    db.execute(
        "create or replace table entries as select * from read_parquet($file)", {"file": database.file_name(file)}
    )
    rows = db.sql("select distinct part from entries where part is not null order by part").fetchall()
    return [part for (part,) in rows]
