"""What a source lists: a row a file, as a stream of Arrow record batches."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import pyarrow as pa

from resnet_core.storage.locations import printable

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


# What accompanies images and is none itself.
_SIDECARS = frozenset({".csv", ".json", ".txt", ".xml", ".yaml", ".yml", ".md"})


def is_ignored(path: str) -> bool:
    """Hidden, in a hidden folder, or a sidecar."""
    if (path[:1] == "." or "/." in path) and any(_is_hidden(part) for part in path.split("/")):
        return True
    name = path[path.rfind("/") + 1 :]
    dot = name.rfind(".")
    return dot > 0 and name[dot:].lower() in _SIDECARS


def _is_hidden(part: str) -> bool:
    return part[:1] == "." and part not in (".", "..")


def top_folder(path: str) -> str | None:
    """The label that a path says: its first folder, if it has one."""
    top, slash, _ = path.partition("/")
    return printable(top) if slash and top not in ("", "..") else None
