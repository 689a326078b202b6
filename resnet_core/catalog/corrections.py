"""Labels that people have corrected or confirmed, and what they do to the labels of the source.

A correction is of an image, which is its bytes; the URI only says where they were seen. Whatever file has these
bytes gets the corrected label, in the source or not, moved since or not. A file that has other bytes by now does
not. Of several corrections of one image the latest counts.
"""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
from upath import UPath

from resnet_core.errors import UserError
from resnet_core.reasons import ReasonCode
from resnet_core.sources import folders, shard_files
from resnet_core.sources.listing import LOCATED
from resnet_core.sources.locate import locate
from resnet_core.sources.manifest import place_of, read_manifest
from resnet_core.storage import database
from resnet_core.storage.locations import absolute, facts

_TABLES = (".csv", ".parquet")
ROWS = pa.schema(
    [
        ("uri", pa.string()),
        ("label", pa.string()),
        ("split", pa.string()),
        ("group", pa.string()),
        ("weight", pa.float32()),
        ("soft_label", pa.string()),
        ("attributes", pa.string()),
        ("file", pa.string()),
    ]
)
CORRECTIONS = pa.schema(
    [
        *(field for field in ROWS if field.name != "file"),
        ("image_id", pa.string()),  # the bytes that were seen; null: those that are there
        ("place", pa.int64()),  # the later one counts
        ("added", pa.bool_()),  # the source has no such file
        ("alone", pa.bool_()),  # nothing else says what it is
    ]
)
# ISO 8601 in one time zone sorts by time.
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
from found f join corrections c using (uri) where f.kind is distinct from '{shard_files.KIND}'
"""
NAME = "update listed set label = c.label from corrections c where listed.uri = c.uri and c.alone and not c.added"

# What each image is, by whoever saw it last. Where nothing says which bytes were seen, it is those there now.
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
_STALE = f"""
update entries set label = null, attributes = null, soft_label = null,
    reason_code = '{ReasonCode.LABEL_OUTDATED}',
    reason = 'changed since it was corrected: its bytes are others than those that the label is of'
from corrections c join facts f on c.uri = f.uri
where entries.uri = c.uri and entries.part = f.part and c.alone and c.image_id <> f.image_id
    and entries.uri not in (select uri from verdicts)
"""
# A file that was moved is found by its bytes.
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
    """Raises UserError unless it is a file, a folder or a glob; looks into none."""
    next(_files(place), None)


def _read_corrections(place: str) -> Iterator[pa.RecordBatch]:
    """The rows of a table, of all of a folder, or of all that a glob names: ROWS. Raises UserError."""
    for file in sorted(_files(place)):
        table = read_manifest(UPath(file))
        folder = file.rpartition("/")[0]
        columns = {name: table[name] for name in ROWS.names if name in table.column_names}
        columns["uri"] = pa.array([place_of(folder, path) for path in table["path"].to_pylist()], pa.string())
        columns["file"] = pa.array([file] * len(table), pa.string())
        yield from pa.table(columns).select(ROWS.names).cast(ROWS).to_batches()


def _files(place: str) -> Iterator[str]:
    where = absolute(place)
    glob = None
    try:
        kind = facts(where)["type"]
    except FileNotFoundError:
        if not folders.is_glob(place):
            raise UserError(f"corrections: {place}: there is no such file or folder. Make it, or correct it.") from None
        glob = folders.parse_glob(where)
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


def list_corrected(db: duckdb.DuckDBPyConnection, place: str) -> None:
    """Make `corrections`, and put the files that they name into `listed` (`manifest.LISTED`) where it has them not."""
    database.create(db, "raw_corrections", ROWS, _read_corrections(place))
    db.execute(_LOAD)
    uris = [uri for (uri,) in db.sql("select uri from corrections where added order by uri").fetchall()]
    database.create(db, "found", LOCATED, locate(uris).to_batches())
    db.execute(_ADD)
    db.execute(NAME)


def write_corrections(db: duckdb.DuckDBPyConnection, file: Path) -> None:
    """Write `corrections` as Parquet."""
    db.sql("select * from corrections").write_parquet(str(file))


def load_corrections(db: duckdb.DuckDBPyConnection, file: Path | None) -> None:
    """Make `corrections` from the file of `write_corrections`; empty without a file."""
    database.create(db, "corrections", CORRECTIONS)
    if file is not None:
        db.execute("insert into corrections by name select * from read_parquet($file)", {"file": str(file)})


def correct(db: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Give the `entries` the labels that people gave their bytes. Returns how many are `corrected`, how many of them
    are `added` to the source, and how many corrections are `lost`, for their images are not there any more."""
    for statement in (_VERDICTS, _APPLY, _STALE, _MOVED, _GONE):
        db.execute(statement)
    counts = """
    select (select count(*) from verdicts), (select count(*) from verdicts join corrections using (uri) where added),
        (select count(*) from entries join corrections using (uri) where reason_code is not null and alone)
    """
    return dict(zip(("corrected", "added", "lost"), db.sql(counts).fetchall()[0], strict=True))
