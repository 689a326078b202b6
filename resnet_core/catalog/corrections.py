"""Corrections: labels that people gave or confirmed, and their effect on the labels of the source.

table            one row is                                       made by          read by
raw_corrections  a row of a corrections file (_ROWS)              list_corrected   list_corrected
corrections      the latest correction of a URI (CORRECTIONS)     list_corrected   correct, build.judge
located          a corrected file that the source may lack        list_corrected   list_corrected
verdicts         an entry with the label that a person gave it    correct          correct

A correction is of an image, that is, of its bytes; the URI only says where they were seen. Every file with these
bytes gets the label, moved or not. A file whose bytes have changed does not. The latest correction counts.

An export of a labelling tool knows files by names. A name leads to a file of the source. A digest within it leads to
the place that a row without a label has for these bytes: a review's own list, beside the export.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa

from resnet_core.annotations.exports import ENDINGS, labels_of, read_labels
from resnet_core.annotations.people import Annotators
from resnet_core.catalog.build import LABELS, fields
from resnet_core.catalog.entries import fold_labels
from resnet_core.errors import UserError
from resnet_core.policy import more_roots
from resnet_core.reasons import ReasonCode
from resnet_core.sources import folders, shard_files
from resnet_core.sources.listing import LOCATED
from resnet_core.sources.locate import locate, may_open
from resnet_core.sources.manifest import say_beyond
from resnet_core.storage import database, globs
from resnet_core.storage.files import to_path
from resnet_core.storage.locations import Reach, absolute, facts, is_url, out_of_reach, place_of
from resnet_core.storage.matching import Places, match
from resnet_core.storage.names import fold_path

log = logging.getLogger("grayline")

NONE_OF_THESE = "(none of these)"  # a label by people: the image is of no class, and waits
# name: the file as a labelling tool calls it; null: `uri` is its place.
_ROWS = pa.schema([*fields(*LABELS), ("file", pa.string()), ("name", pa.string())])
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

_PLACE_NAMES = """
update raw_corrections set uri = seen.uri,
    attributes = json_merge_patch(raw_corrections.attributes, seen.attributes)::varchar
from (
    select json_extract_string(attributes, '$.image_id') as image_id, min(uri) as uri,
        arg_min(attributes, uri) as attributes
    from raw_corrections where label is null and name is null group by image_id
) seen
where name is not null and json_extract_string(raw_corrections.attributes, '$.image_id') = seen.image_id
"""
_FROM_SOURCE = """
update raw_corrections set uri = placed_names.uri from placed_names
where raw_corrections.name = placed_names.name and file = $1
"""

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


def _read_corrections(place: str, annotators: Annotators) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file, or of all files of labels in a folder or of a glob. Raises UserError."""
    for file, sought in sorted(_files(place)):
        found = (labels_of if sought else read_labels)(to_path(file), annotators=annotators)
        if found is None:
            log.warning("corrections %s holds no labels by people, and is left out", file)
            continue
        table, folder = found.rows, file.rpartition("/")[0]
        paths = table["path"].to_pylist()
        columns = {name: table[name] for name in _ROWS.names if name in table.column_names}
        uris = list(found.uris) or [place_of(folder, path) for path in paths]
        columns["uri"] = pa.array(uris, pa.string())
        columns["file"] = pa.array([file] * len(table), pa.string())
        names = [None if _is_place(path) else path for path in paths] if found.named else [None] * len(paths)
        columns["name"] = pa.array(names, pa.string())
        yield from pa.table(columns).select(_ROWS.names).cast(_ROWS).to_batches()


def _is_place(path: str) -> bool:
    """Return whether a path of a labelling tool says itself where its file lies."""
    return path.startswith("/") or is_url(path)


def _files(place: str) -> Iterator[tuple[str, bool]]:
    """Yield the files, and whether a walk through a folder has found them."""
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
        yield where, False
        return
    for uri, path, size, _ in folders.walk(glob.folder if glob else where, glob):
        name = path.rpartition("/")[2].lower()
        left_out = name[:1] == "." or (name[:1] == "_" and name.endswith(".json"))  # a queue's own record
        if size is not None and not left_out and (glob or name.endswith(ENDINGS)):
            yield uri, not glob


def list_corrected(
    db: duckdb.DuckDBPyConnection, place: str, source: str, annotators: Annotators = "agree"
) -> dict[str, list[str]]:
    """Make `corrections`; add files that only they name to `listed` (`manifest.LISTED`). Raises UserError.

    source: with the corrections' own folder and `manifest_roots`, the places whose files they may name. They may also
    name a file of this machine together with the digest of its bytes, as the gallery does: whoever has that has seen
    the image.

    Returns the spellings of labels that were changed, by label.
    """
    database.create(db, "raw_corrections", _ROWS, _read_corrections(place, annotators))
    _place_names(db, Places.of(source, place))
    spellings = fold_labels(db, "raw_corrections")
    _spell_as_listed(db)
    db.execute(_LOAD)
    _keep_in_reach(db, place, Places.of(source, place))
    uris = [uri for (uri,) in db.sql("select uri from corrections where added order by uri").fetchall()]
    database.create(db, "located", LOCATED, locate(uris).to_batches())
    db.execute(_ADD)
    db.execute(_NAME)
    return spellings


def _place_names(db: duckdb.DuckDBPyConnection, places: Places) -> None:
    """Give the names of labelling tools the places of their files. Raises UserError for a name of several files."""
    db.execute(_PLACE_NAMES)
    by_file: dict[str, list[str]] = defaultdict(list)
    query = "select distinct file, name from raw_corrections where name is not null and label is not null"
    for file, name in db.sql(query).fetchall():
        by_file[file].append(name)
    if not by_file:
        return
    uris = dict(db.sql("select path, uri from listed where not coalesce(ignored, false)").fetchall())
    for file, names in by_file.items():
        try:
            found = match(names, uris, places, tails=True)
        except UserError as error:
            raise UserError(f"{file}: {error}") from None
        pairs = {"name": list(found), "uri": [uris[path] for path in found.values()]}
        db.register("placed_names", pa.table(pairs, pa.schema([("name", pa.string()), ("uri", pa.string())])))
        db.execute(_FROM_SOURCE, [file])
        db.unregister("placed_names")


def _keep_in_reach(db: duckdb.DuckDBPyConnection, place: str, places: Places) -> None:
    """Rename files that corrections may not name, so that nothing opens them."""
    own = absolute(place)
    if globs.is_glob(own):
        own = globs.parse_glob(own).folder
    elif own.lower().endswith(ENDINGS):
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
