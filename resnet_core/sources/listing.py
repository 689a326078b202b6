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

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import pyarrow as pa

from resnet_core.storage.locations import printable

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


def batches(rows: Iterable[tuple[Any, ...]], schema: pa.Schema = LISTING) -> Iterator[pa.RecordBatch]:
    """Yield the rows as record batches of at most BATCH rows."""
    rows = iter(rows)
    while some := list(islice(rows, BATCH)):
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
