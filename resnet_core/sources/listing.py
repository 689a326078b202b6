"""The listing of a source: one row per file, as a stream of Arrow record batches.

column     type    meaning
uri        string  opens the file with nothing else, see `resnet_core.sources.locate.read_bytes`
path       string  relative to the source, with forward slashes
size       int64   bytes; -1: unknown until the file is read
modified   string  changes when the content does: a time, an ETag, a checksum
label      string  the label that the source itself gives
split      string  train | validation | test, where a shard gives it
container  string  the archive, Parquet or IDX file that holds it; null: a file of its own
kind       string  raw | tar | zip | parquet | shards | idx: how the container holds it
offset     int64   first byte in the container; parquet and shards: the number of the row
length     int64   bytes in the container
ignored    bool    not an image by its name (`storage.ignored`), an own output, or a second name of a file
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from resnet_core.errors import UserError, nearest
from resnet_core.policy import Budget, check_members
from resnet_core.storage.locations import printable

if TYPE_CHECKING:
    import pyarrow.parquet as pq

LISTING = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("modified", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("split", pa.string()),
        pa.field("container", pa.string()),
        pa.field("kind", pa.string()),
        pa.field("offset", pa.int64()),
        pa.field("length", pa.int64()),
        pa.field("ignored", pa.bool_(), nullable=False),
    ]
)
# The same for files that were asked for by name: size and modified of a missing file are null.
LOCATED = pa.schema([field.with_nullable(field.nullable or field.name in ("size", "modified")) for field in LISTING])
BATCH = 8192  # rows in memory at a time
BROKEN_LINK = "broken link"  # `modified` of a link to nothing
NO_LABELS = ""  # in place of a label column: nobody asks for labels
# Columns of paths, in any case; `path` before others.
PATH_COLUMNS = (
    "path", "image", "file", "file_name", "filename", "file_path", "filepath", "image_path", "image_file", "img_path"
)  # fmt: skip
_LABEL_COLUMNS = ("label", "labels", "fine_label", "coarse_label", "target", "class")  # in any case


def batches(rows: Iterable[tuple[Any, ...]], schema: pa.Schema, place: str) -> Iterator[pa.RecordBatch]:
    """Yield the rows as record batches of at most BATCH rows. Raises UserError for too many members of a place."""
    rows, count = iter(rows), 0
    while some := list(islice(rows, BATCH)):
        check_members(place, count := count + len(some))
        columns = zip(*some, strict=True)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def record_batch(count: int, columns: dict[str, Any], schema: pa.Schema = LISTING) -> pa.RecordBatch:
    """Return `count` rows. A column is a list, an array, or a value of all rows; columns left out are null."""
    arrays = []
    for field in schema:
        values = columns.get(field.name)
        if isinstance(values, list):
            values = pa.array(values, field.type)
        elif not isinstance(values, pa.Array):
            values = pa.repeat(pa.scalar(values, field.type), count)
        arrays.append(values)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def numbered_rows(place: str, path: str, numbers: range, columns: dict[str, Any]) -> pa.RecordBatch:
    """Return the rows of a container's numbered images, with `#row=17` behind place and path; IDX: `#image=17`."""
    mark = "image" if columns["kind"] == "idx" else "row"
    names = {
        column: [f"{text}#{mark}={number}" for number in numbers]
        for column, text in (("uri", printable(place)), ("path", printable(path)))
    }
    return record_batch(len(numbers), {**names, "container": printable(place), "ignored": False, **columns})


def top_folder(path: str) -> str | None:
    """Return the label that a path gives: its first folder, if it has one."""
    top, slash, _ = path.partition("/")
    return printable(top) if slash and top not in ("", "..") else None


def column_bytes(table: "pq.ParquetFile", leaves: Sequence[str], groups: Iterable[int]) -> tuple[int, int]:
    """Return the packed and unpacked bytes of columns in some row groups, as a Parquet file says itself."""
    chunks = (
        group.column(place) for group in map(table.metadata.row_group, groups) for place in range(group.num_columns)
    )
    sizes = [(c.total_compressed_size, c.total_uncompressed_size) for c in chunks if c.path_in_schema in leaves]
    return sum(packed for packed, _ in sizes), sum(unpacked for _, unpacked in sizes)


def refused(
    table: "pq.ParquetFile", place: str, leaves: Sequence[str], groups: Iterable[int] | None = None
) -> UserError | None:
    """Return why columns may not be unpacked, or None. groups: row groups that the file may have; by default all.

    A file that says less than it holds meets the small memory of a reader process.
    """
    known = range(table.num_row_groups)
    packed, unpacked = column_bytes(table, leaves, known if groups is None else [g for g in groups if g in known])
    try:
        Budget(place, packed).spend(unpacked)
    except UserError as error:
        return error
    return None


def find_path_column(columns: Sequence[str], place: str) -> str | None:
    """Return the column of paths: `path`, else the only one of PATH_COLUMNS. Raises UserError for several."""
    names = [name for name in columns if name.strip().lower() in PATH_COLUMNS]
    paths = [name for name in names if name.strip().lower() == "path"] or names
    if len(paths) > 1:
        raise UserError(f"{place}: {' and '.join(paths)} may be the paths of the files. Name one of them `path`.")
    return paths[0] if paths else None


def find_label_column(columns: Sequence[str], wanted: str | None, place: str) -> str | None:
    """Return the column of the classes: the wanted one, else `label`, else the only one of _LABEL_COLUMNS, else None.

    wanted: NO_LABELS if nobody asks for them. Raises UserError for several, and if the wanted one is missing.
    """
    if wanted == NO_LABELS:
        return None
    if wanted and wanted not in columns:
        hint = nearest(wanted, list(columns))
        raise UserError(
            f"{place}: has no column {wanted!r}, as `label_column` says.{hint} Its columns: {', '.join(columns)}."
        )
    if wanted or "label" in columns:
        return wanted or "label"
    names = [name for name in columns if name.strip().lower() in _LABEL_COLUMNS]
    if len(names) > 1:
        may_be = ", ".join(names)
        raise UserError(f"{place}: {may_be} may be the class. Name the column, like `label_column: {names[0]}`.")
    return names[0] if names else None
