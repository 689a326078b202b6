"""What a source lists: a row a file, as a stream of Arrow record batches."""

import os
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

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
        pa.field("ignored", pa.bool_(), nullable=False),  # no image: hidden, a sidecar, or what `ignored_row` says
    ]
)
# Rows that are held at a time.
BATCH = 8192
UNKNOWN_SIZE = -1

# What accompanies images and is none itself.
SIDECARS = frozenset({".csv", ".json", ".txt", ".xml", ".yaml", ".yml", ".md"})


class Row(NamedTuple):
    """A row of LISTING: by default, a file of its own."""

    uri: str
    path: str
    size: int
    modified: str
    label: str | None = None
    split: str | None = None
    container: str | None = None
    kind: str | None = None
    offset: int | None = None
    length: int | None = None
    ignored: bool = False


def batches(rows: Iterable[tuple[Any, ...]], schema: pa.Schema = LISTING) -> Iterator[pa.RecordBatch]:
    """The rows as record batches of at most BATCH rows."""
    rows = iter(rows)
    while some := list(islice(rows, BATCH)):
        columns = zip(*some, strict=True)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def is_ignored(path: str) -> bool:
    """Hidden, in a hidden folder, or a sidecar."""
    if (path[:1] == "." or "/." in path) and any(_is_hidden(part) for part in path.split("/")):
        return True
    name = path[path.rfind("/") + 1 :]
    dot = name.rfind(".")
    return dot > 0 and name[dot:].lower() in SIDECARS


def _is_hidden(part: str) -> bool:
    return part[:1] == "." and part not in (".", "..")


def top_folder(path: str) -> str | None:
    """The label that a path says: its first folder, if it has one."""
    top, slash, _ = path.partition("/")
    return printable(top) if slash and top not in ("", "..") else None


def printable(name: str) -> str:
    """A name whose bytes are no UTF-8 as text that any table can hold; other names unchanged."""
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode("utf-8")


def unprintable(name: str) -> str:
    """The name that `printable` was given."""
    return re.sub(r"\\udc([89a-f][0-9a-f])", lambda match: os.fsdecode(bytes([int(match[1], 16)])), name)
