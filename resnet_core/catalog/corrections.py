"""Corrections: labels that people gave or confirmed, and their effect on the labels of the source.

table            one row is                                       made by          read by
raw_corrections  a row of a corrections file (_ROWS)              list_corrected   list_corrected
corrections      the latest correction of a URI (CORRECTIONS)     list_corrected   correct, build.judge
located          a corrected file that the source may lack        list_corrected   list_corrected
verdicts         an entry with the label that a person gave it    correct          correct

A correction is of an image, that is, of its bytes; the URI only says where they were seen. Every file with these
bytes gets the label, moved or not. A file whose bytes have changed does not. The latest correction counts.
"""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa

from resnet_core.catalog.build import LABELS, fields
from resnet_core.catalog.entries import fold_labels
from resnet_core.errors import UserError
from resnet_core.policy import more_roots
from resnet_core.reasons import ReasonCode
from resnet_core.sources import folders, shard_files
from resnet_core.sources.listing import LOCATED
from resnet_core.sources.locate import locate, may_open
from resnet_core.sources.manifest import read_manifest, say_beyond
from resnet_core.storage import database, globs
from resnet_core.storage.files import to_path
from resnet_core.storage.locations import Reach, absolute, facts, out_of_reach, place_of
from resnet_core.storage.matching import Places
from resnet_core.storage.names import fold_path

NONE_OF_THESE = "(none of these)"  # a label by people: the image is of no class, and waits
_TABLES = (".csv", ".tsv", ".parquet")
_ROWS = pa.schema([*fields(*LABELS), ("file", pa.string())])
CORRECTIONS = pa.schema(
    [
        *fields(*LABELS),
        ("image_id", pa.string()),  # of the bytes that were seen; null: of the bytes there now
        ("place", pa.int64()),  # the highest counts
        ("added", pa.bool_()),  # the source lacks the file
        ("alone", pa.bool_()),  # the source and the labels give it no label
    ]
)
# Times are ISO 8601 in one time zone, which sorts by time.
_LOAD = """
create or replace table corrections as
with numbered as (
    select *,
        row_number() over (order by coalesce(json_extract_string(attributes, '$.corrected_at'), ''), file) as place
    from raw_corrections where label is not null
),
known as (select uri, label from listed where not coalesce(ignored, false))
select uri, label, split, "group", weight, soft_label,
    nullif(json_merge_patch(coalesce(attributes, '{}'), '{"image_id": null}')::varchar, '{}') as attributes,
    json_extract_string(attributes, '$.image_id') as image_id, place,
    uri not in (select uri from known) as added,
    uri not in (select uri from known where label is not null) as alone
from numbered qualify row_number() over (partition by uri order by place desc) = 1
"""
_ADD = f"""
insert into listed by name
select f.* replace (c.label as label, c.split as split), c."group", c.weight, c.soft_label, c.attributes
from located f join corrections c using (uri) where f.kind is distinct from '{shard_files.KIND}'
"""
_NAME = "update listed set label = c.label from corrections c where listed.uri = c.uri and c.alone and not c.added"

# The latest label of every image. Corrections without an image_id are of the bytes that are there now.
_VERDICTS = """
create or replace temp table verdicts as
with now as (
    select e.uri, e.part, f.image_id from entries e join facts f on e.part = f.part and e.uri = f.uri
),
said as (
    select coalesce(c.image_id, now.image_id) as image_id, c.place, c.label, c.soft_label, c.attributes
    from corrections c left join now using (uri)
)
select now.uri, last.* from now join (
    select image_id, arg_max(label, place) as label, arg_max_null(soft_label, place) as soft_label,
        arg_max_null(attributes, place) as attributes
    from said where image_id is not null group by image_id
) last using (image_id)
"""
_APPLY = """
update entries set label = v.label, soft_label = v.soft_label,
    attributes = coalesce(json_merge_patch(coalesce(entries.attributes, '{}'), v.attributes)::varchar,
        entries.attributes)
from verdicts v where entries.uri = v.uri
"""
_NONE = f"""
update entries set label = null, soft_label = null, reason_code = '{ReasonCode.LABEL_MISSING}',
    reason = 'label missing: a correction says that it is of no class'
where label = '{NONE_OF_THESE}'
"""
_STALE = f"""
update entries set label = null, attributes = null, soft_label = null,
    reason_code = '{ReasonCode.LABEL_OUTDATED}',
    reason = 'changed since it was corrected: the label is of other bytes'
from corrections c join facts f on c.uri = f.uri
where entries.uri = c.uri and entries.part = f.part and c.alone and c.image_id <> f.image_id
    and entries.uri not in (select uri from verdicts)
"""
# A corrected file that was moved is found by its bytes; its old entry goes.
_MOVED = """
delete from entries where reason_code is not null and uri in (
    select uri from corrections where added and image_id in (select image_id from verdicts)
)
"""
_GONE = f"""
update entries set reason_code = '{ReasonCode.FILE_MISSING}',
    reason = 'file missing: a correction names it, and it is not there'
from corrections c where entries.uri = c.uri and c.added and entries.part is null
"""


def check_corrections(place: str) -> None:
    """Raise UserError unless the place is a file, a folder or a glob. Does not read any."""
    next(_files(place), None)


def _read_corrections(place: str) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a table, or of all tables in a folder or of a glob. Raises UserError."""
    for file in sorted(_files(place)):
        table = read_manifest(to_path(file))
        folder = file.rpartition("/")[0]
        columns = {name: table[name] for name in _ROWS.names if name in table.column_names}
        columns["uri"] = pa.array([place_of(folder, path) for path in table["path"].to_pylist()], pa.string())
        columns["file"] = pa.array([file] * len(table), pa.string())
        yield from pa.table(columns).select(_ROWS.names).cast(_ROWS).to_batches()


def _files(place: str) -> Iterator[str]:
    where = absolute(place)
    glob = None
    try:
        kind = facts(where)["type"]
    except FileNotFoundError:  # a pattern, or the user's mistake
        if not globs.is_glob(place):
            raise UserError(f"corrections: {place}: there is no such file or folder. Make it, or correct it.") from None
        glob = globs.parse_glob(where)
        kind = "directory"
    except OSError as error:
        raise UserError(f"corrections: {place}: cannot be read ({error.strerror or error}). Allow it.") from None
    if kind == "file":
        yield where
        return
    for uri, path, size, _ in folders.walk(glob.folder if glob else where, glob):
        name = path.rpartition("/")[2].lower()
        if size is not None and name[:1] != "." and (glob or name.endswith(_TABLES)):
            yield uri


def list_corrected(db: duckdb.DuckDBPyConnection, place: str, source: str) -> dict[str, list[str]]:
    """Make `corrections`; add files that only they name to `listed` (`manifest.LISTED`). Raises UserError.

    source: with the corrections' own folder and `manifest_roots`, the places whose files they may name. They may also
    name a file of this machine together with the digest of its bytes, as the gallery does: whoever has that has seen
    the image.

    Returns the spellings of labels that were changed, by label.
    """
    database.create(db, "raw_corrections", _ROWS, _read_corrections(place))
    spellings = fold_labels(db, "raw_corrections")
    _spell_as_listed(db)
    db.execute(_LOAD)
    _keep_in_reach(db, place, Places.of(source, place))
    uris = [uri for (uri,) in db.sql("select uri from corrections where added order by uri").fetchall()]
    database.create(db, "located", LOCATED, locate(uris).to_batches())
    db.execute(_ADD)
    db.execute(_NAME)
    return spellings


def _keep_in_reach(db: duckdb.DuckDBPyConnection, place: str, places: Places) -> None:
    """Rename files that corrections may not name, so that nothing opens them."""
    own = absolute(place)
    if globs.is_glob(own):
        own = globs.parse_glob(own).folder
    elif own.lower().endswith(_TABLES):
        own = own.rpartition("/")[0]
    with more_roots([places.source]):
        reach = Reach(own)
    added = db.sql("select uri, image_id from corrections where added order by uri").fetchall()
    beyond = [uri for uri, image_id in added if not (may_open(uri, reach) or (image_id and may_open(uri, Reach("/"))))]
    for uri in beyond:
        db.execute("update corrections set uri = $1 where uri = $2", [out_of_reach(own, uri), uri])
    say_beyond(place, beyond)


def _spell_as_listed(db: duckdb.DuckDBPyConnection) -> None:
    """Write the URIs of corrections as the source does, where they differ by their Unicode form or separators."""
    query = "select distinct uri from raw_corrections where uri not in (select uri from listed)"
    if not (others := [uri for (uri,) in db.sql(query).fetchall()]):
        return
    listed: dict[str, list[str]] = {}
    for (uri,) in db.sql("select uri from listed").fetchall():
        listed.setdefault(fold_path(uri), []).append(uri)
    for uri in others:
        if len(spelt := listed.get(fold_path(uri), [])) == 1:
            db.execute("update raw_corrections set uri = $1 where uri = $2", [spelt[0], uri])


def write_corrections(db: duckdb.DuckDBPyConnection, file: Path) -> None:
    """Write `corrections` as Parquet."""
    db.sql("select * from corrections").write_parquet(str(file))


def load_corrections(db: duckdb.DuckDBPyConnection, file: Path | None) -> None:
    """Make `corrections` from the file of `write_corrections`; empty without a file."""
    database.create(db, "corrections", CORRECTIONS)
    if file is not None:
        db.execute(
            "insert into corrections by name select * from read_parquet($file)", {"file": database.file_name(file)}
        )


def correct(db: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Give `entries` the labels that people gave their bytes. Returns three counts.

    `corrected`: entries with such a label; `added`: those that the source lacks; `lost`: corrections whose images
    were not found.
    """
    for statement in (_VERDICTS, _APPLY, _STALE, _MOVED, _GONE, _NONE):
        db.execute(statement)
    counts = f"""
    select (select count(*) from verdicts), (select count(*) from verdicts join corrections using (uri) where added),
        (select count(*) from entries join corrections using (uri)
            where reason_code is not null and corrections.label <> '{NONE_OF_THESE}' and alone)
    """
    return dict(zip(("corrected", "added", "lost"), db.sql(counts).fetchall()[0], strict=True))
