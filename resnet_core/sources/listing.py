"""What a source lists: a row a file, as a stream of Arrow record batches."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import pyarrow as pa

LISTING = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),  # opens the file with nothing else: see `sources.read_bytes`
        pa.field("path", pa.string(), nullable=False),  # relative to the source, forward slashes
        pa.field("size", pa.int64(), nullable=False),  # bytes; -1: not known until it is read
        pa.field("modified", pa.string(), nullable=False),  # changes when the content does
        pa.field("label", pa.string()),  # what the source itself says
        pa.field("split", pa.string()),  # train | validation | test, where the source itself says so
        pa.field("container", pa.string()),  # what holds it: an archive, Parquet or IDX file; null: a file of its own
        pa.field("kind", pa.string()),  # how it lies there: raw | tar | zip | parquet | idx; null: a file of its own
        pa.field("offset", pa.int64()),  # where it lies there, in bytes; parquet: the number of its row
        pa.field("length", pa.int64()),  # bytes that it takes there
        pa.field("ignored", pa.bool_(), nullable=False),  # no image: hidden, a sidecar, or a copy that does not count
    ]
)
# Rows that are held at a time.
BATCH = 8192


def batches(rows: Iterable[tuple[Any, ...]], schema: pa.Schema = LISTING) -> Iterator[pa.RecordBatch]:
    """The rows as record batches of at most BATCH rows."""
    rows = iter(rows)
    while some := list(islice(rows, BATCH)):
        columns = zip(*some, strict=True)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)
