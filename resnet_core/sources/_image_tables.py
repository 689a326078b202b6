"""Parquet files with the bytes of an image in each row.

The bytes lie in a binary column, or in the `image` struct (bytes, path) of Hugging Face's `datasets`. That
library writes the names of the classes into the schema's metadata.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from resnet_core.errors import UserError
from resnet_core.sources.listing import BATCH, numbered_rows
from resnet_core.storage.compressed import shared_copy
from resnet_core.storage.locations import UNKNOWN_SIZE, facts, open_stream

_ROWS = 32  # rows whose images are in memory at a time
# A row can be reached only through the rows before it in its row group. Larger groups (rows and bytes) are
# rewritten in groups of _ROWS rows before they are read.
LARGE_GROUP, LARGE_GROUP_BYTES = 2048, 64 * 1024**2
_SPLIT_NAME = re.compile(r"(validation|test)-\d{5}-of-\d{5}")  # as `datasets` names files


@contextmanager
def open_table(place: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file. Raises OSError if it cannot be read, UserError if it is damaged or another file."""
    with open_stream(place) as file:
        try:
            table = pq.ParquetFile(file, pre_buffer=False, buffer_size=1024**2)
        except pa.ArrowInvalid as error:
            raise UserError(f"{place}: not a whole Parquet file ({error}). Fetch or make it again.") from None
        yield table


def image_column(schema: pa.Schema, place: str) -> str | None:
    """Return the column of the images' bytes, as Parquet names it, or None.

    It is named `image`, or the only column of bytes. Raises UserError for several without that name.
    """
    columns = {field.name: leaf for field in schema if (leaf := _bytes_leaf(field)) is not None}
    if len(columns) > 1 and "image" not in columns:
        raise UserError(f"{place}: {', '.join(columns)} hold bytes; name the column of the images `image`.")
    return columns.get("image") or next(iter(columns.values()), None)


def list_table(place: str, path: str) -> Iterator[pa.RecordBatch]:
    """Yield one row per image. `path`: of the file, relative to the source. Raises UserError without images."""
    split = _SPLIT_NAME.match(path.rpartition("/")[2])
    columns = {"size": UNKNOWN_SIZE, "modified": facts(place)["modified"], "split": split[1] if split else None}
    with open_table(place) as table:
        schema = table.schema_arrow
        if image_column(schema, place) is None:
            raise UserError(f"{place}: no column holds the bytes of images. Its columns: {', '.join(schema.names)}.")
        start = 0
        for labels in _labels(table, _class_names(schema)):
            numbers = range(start, start + len(labels))
            columns |= {"label": labels, "kind": "parquet", "offset": list(numbers)}
            yield numbered_rows(place, path, numbers, columns)
            start += len(labels)


def _labels(table: pq.ParquetFile, names: list[str] | None) -> Iterator[pa.Array]:
    """Yield the labels of all rows, nulls without a column `label`."""
    if "label" in table.schema_arrow.names:
        for batch in table.iter_batches(BATCH, columns=["label"]):
            yield _as_labels(batch["label"], names)
    else:
        for start in range(0, table.metadata.num_rows, BATCH):
            yield pa.nulls(min(BATCH, table.metadata.num_rows - start), pa.string())


def _class_names(schema: pa.Schema) -> list[str] | None:
    """Return the names of the numbers in the column `label`, if `datasets` wrote the file."""
    text = (schema.metadata or {}).get(b"huggingface")
    try:
        return [str(name) for name in json.loads(text or b"")["info"]["features"]["label"]["names"]]
    except (TypeError, ValueError, KeyError):
        return None


def _as_labels(column: pa.Array, names: list[str] | None) -> pa.Array:
    """Return labels as text; null stays null, and so do numbers without a name (-1 in `datasets`)."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if names is not None and pa.types.is_integer(column.type):
        numbers = column.cast(pa.int64())
        named = pc.and_(pc.greater_equal(numbers, 0), pc.less(numbers, len(names)))
        return pa.array(names, pa.string()).take(pc.if_else(named, numbers, None))
    return as_text(column)


def as_text(column: pa.Array) -> pa.Array:
    """Return any values as text; null for null and NaN."""
    if pa.types.is_floating(column.type):
        return pa.array([None if v is None or v != v else str(v) for v in column.to_pylist()], pa.string())
    try:
        return column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.array([None if v is None else str(v) for v in column.to_pylist()], pa.string())


def read_rows(place: str, rows: Sequence[int]) -> Iterator[bytes | OSError]:
    """Yield the bytes in each of these rows, in their order; row groups are read once for rising rows."""
    try:
        with open_table(regrouped(place)) as table:
            column = image_column(table.schema_arrow, place)
            starts = _group_starts(table)
            for run in _runs(rows, starts):
                group = int(np.searchsorted(starts, run[0], side="right")) - 1
                if column is None or group >= table.num_row_groups:
                    yield from (OSError("the file holds no image there any more") for _ in run)
                else:
                    yield from _read_run(_values(table, group, column, int(starts[group])), run)
    except (OSError, pa.ArrowException, UserError) as error:
        yield from (error if isinstance(error, OSError) else OSError(str(error)) for _ in rows)


def _runs(rows: Sequence[int], starts: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> Iterator[list[int]]:
    """Cut rows into runs that lie in one row group and rise."""
    run: list[int] = []
    groups = np.searchsorted(starts, rows, side="right")
    for place, row in enumerate(rows):
        if run and (groups[place] != groups[place - 1] or row <= run[-1]):
            yield run
            run = []
        run.append(row)
    if run:
        yield run


def _read_run(values: Iterator[tuple[int, bytes | None]], rows: Sequence[int]) -> Iterator[bytes | OSError]:
    done = 0
    try:
        for row, value in values:
            if row == rows[done]:
                yield OSError("holds no bytes") if value is None else value
                done += 1
                if done == len(rows):
                    return
        error = OSError("the row group is cut short")
    except (OSError, pa.ArrowException) as caught:
        error = caught if isinstance(caught, OSError) else OSError(str(caught))
    yield from (error for _ in rows[done:])


def regrouped(place: str) -> str:
    """Return a file of the same images in small row groups: the file itself, or one made from it.

    Raises OSError, or UserError for a file that is damaged or not Parquet.
    """
    with open_table(place) as table:
        column = image_column(table.schema_arrow, place)
        if column is None or not any(_is_large(table, group, column) for group in range(table.num_row_groups)):
            return place
    return shared_copy(place, "regrouped", _regroup)


def _regroup(place: str, to: Path) -> None:
    with open_table(place) as table:
        column = image_column(table.schema_arrow, place)
        with pq.ParquetWriter(to, pa.schema([("image", pa.binary())]), compression="none", use_dictionary=False) as out:
            for group in range(table.num_row_groups):
                values = _values(table, group, column or "", 0)
                while some := [value for _, value in zip(range(_ROWS), (value for _, value in values), strict=False)]:
                    out.write_table(pa.table({"image": pa.array(some, pa.binary())}))


def _is_large(table: pq.ParquetFile, group: int, column: str) -> bool:
    metadata = table.metadata.row_group(group)
    chunks = (metadata.column(number) for number in range(metadata.num_columns))
    size = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == column)
    return metadata.num_rows > LARGE_GROUP and size > LARGE_GROUP_BYTES


def _values(table: pq.ParquetFile, group: int, column: str, start: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield the images of a row group with the numbers of their rows, which begin at `start`."""
    for batch in table.iter_batches(_ROWS, row_groups=[group], columns=[column]):
        array = batch.column(0)
        if pa.types.is_struct(array.type):
            array = pc.struct_field(array, "bytes")
        for value in array:
            yield start, value.as_py()
            start += 1


def _group_starts(table: pq.ParquetFile) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Return int64 [groups + 1]: the first row of each row group, and the number of all rows."""
    counts = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
    return np.cumsum([0, *counts], dtype=np.int64)


def _bytes_leaf(field: pa.Field) -> str | None:
    if _is_bytes(field.type):
        return str(field.name)
    if pa.types.is_struct(field.type):
        place = field.type.get_field_index("bytes")
        if place >= 0 and _is_bytes(field.type.field(place).type):
            return f"{field.name}.bytes"
    return None


def _is_bytes(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view))
