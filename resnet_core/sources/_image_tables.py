"""Parquet files with the bytes of an image in each row: a binary column, or the `image` struct
(bytes, path) of Hugging Face's `datasets`, whose class names stand in the schema's metadata."""

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
from resnet_core.sources.listing import BATCH, LISTING
from resnet_core.storage.compressed import kept
from resnet_core.storage.locations import UNKNOWN_SIZE, facts, open_stream, printable

# Rows whose images are in memory at a time.
AT_ONCE = 32
# A row can be reached only through those before it in its row group. Groups of more rows and bytes than
# this are written anew, in groups of AT_ONCE rows, before they are read.
LARGE_GROUP, LARGE_GROUP_BYTES = 2048, 64 * 1024**2
# The names that `datasets` gives to files.
_HELD_OUT = re.compile(r"(validation|test)-\d{5}-of-\d{5}")


@contextmanager
def open_table(place: str) -> Iterator[pq.ParquetFile]:
    """Raises OSError for what cannot be read, UserError for what is no Parquet file."""
    with open_stream(place) as file:
        try:
            table = pq.ParquetFile(file, pre_buffer=False, buffer_size=1024**2)
        except pa.ArrowInvalid as error:
            raise UserError(f"{place}: is no whole Parquet file ({error}). Fetch or make it again.") from None
        yield table


def image_column(schema: pa.Schema, place: str) -> str | None:
    """The column that holds the images' bytes, as Parquet names it; None: there is none. It is the one
    named `image`, or the only one of its type. Raises UserError where several might be meant."""
    found = {field.name: leaf for field in schema if (leaf := _bytes_leaf(field)) is not None}
    if len(found) > 1 and "image" not in found:
        raise UserError(f"{place}: {', '.join(found)} hold bytes; name the column of the images `image`.")
    return found.get("image") or next(iter(found.values()), None)


def list_table(place: str, path: str) -> Iterator[pa.RecordBatch]:
    """A row an image. path: of the file, relative to the source. Raises UserError for a file without images."""
    modified = facts(place)["modified"]
    split = _HELD_OUT.match(path.rpartition("/")[2])
    with open_table(place) as table:
        schema = table.schema_arrow
        if image_column(schema, place) is None:
            raise UserError(
                f"{place}: no column of it holds the bytes of images. Its columns: {', '.join(schema.names)}."
            )
        row = 0
        for labels in _labels(table, _class_names(schema)):
            yield _rows(place, path, modified, split[1] if split else None, labels, row)
            row += len(labels)


def _labels(table: pq.ParquetFile, names: list[str] | None) -> Iterator[pa.Array]:
    """The labels of all rows, null where there is no such column."""
    if "label" in table.schema_arrow.names:
        for batch in table.iter_batches(BATCH, columns=["label"]):
            yield _as_labels(batch["label"], names)
    else:
        for start in range(0, table.metadata.num_rows, BATCH):
            yield pa.nulls(min(BATCH, table.metadata.num_rows - start), pa.string())


def _class_names(schema: pa.Schema) -> list[str] | None:
    """What the numbers of the column `label` mean, where `datasets` wrote it."""
    text = (schema.metadata or {}).get(b"huggingface")
    try:
        return [str(name) for name in json.loads(text or b"")["info"]["features"]["label"]["names"]]
    except (TypeError, ValueError, KeyError):
        return None


def _as_labels(column: pa.Array, names: list[str] | None) -> pa.Array:
    """Labels as text; null for none, and for numbers that have no name (-1 in `datasets`)."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if names is not None and pa.types.is_integer(column.type):
        numbers = column.cast(pa.int64())
        known = pc.and_(pc.greater_equal(numbers, 0), pc.less(numbers, len(names)))
        return pa.array(names, pa.string()).take(pc.if_else(known, numbers, None))
    return as_text(column)


def as_text(column: pa.Array) -> pa.Array:
    """Any values as text; null for null and for what is no number."""
    if pa.types.is_floating(column.type):
        return pa.array([None if v is None or v != v else str(v) for v in column.to_pylist()], pa.string())
    try:
        return column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.array([None if v is None else str(v) for v in column.to_pylist()], pa.string())


def read_rows(place: str, rows: Sequence[int]) -> Iterator[bytes | OSError]:
    """The bytes in each of these rows, in their order; row groups are read once where the rows go up."""
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
    """Rows of one row group, going up."""
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
    """The same images where each can be reached at little cost: the file itself, or one made from it.
    Raises OSError, or UserError for what is no Parquet file."""
    with open_table(place) as table:
        column = image_column(table.schema_arrow, place)
        if column is None or not any(_is_large(table, group, column) for group in range(table.num_row_groups)):
            return place
    return kept(place, "regrouped", _regroup)


def _regroup(place: str, to: Path) -> None:
    with open_table(place) as table:
        column = image_column(table.schema_arrow, place)
        with pq.ParquetWriter(to, pa.schema([("image", pa.binary())]), compression="none", use_dictionary=False) as out:
            for group in range(table.num_row_groups):
                values = _values(table, group, column or "", 0)
                while some := [value for _, value in zip(range(AT_ONCE), (value for _, value in values), strict=False)]:
                    out.write_table(pa.table({"image": pa.array(some, pa.binary())}))


def _is_large(table: pq.ParquetFile, group: int, column: str) -> bool:
    found = table.metadata.row_group(group)
    chunks = (found.column(number) for number in range(found.num_columns))
    held = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == column)
    return found.num_rows > LARGE_GROUP and held > LARGE_GROUP_BYTES


def _values(table: pq.ParquetFile, group: int, column: str, start: int) -> Iterator[tuple[int, bytes | None]]:
    """The images of a row group with the numbers of their rows, which begin at `start`."""
    for batch in table.iter_batches(AT_ONCE, row_groups=[group], columns=[column]):
        array = batch.column(0)
        if pa.types.is_struct(array.type):
            array = pc.struct_field(array, "bytes")
        for value in array:
            yield start, value.as_py()
            start += 1


def _group_starts(table: pq.ParquetFile) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """int64 [groups + 1]: the first row of each, and the number of all rows."""
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


def _rows(place: str, path: str, modified: str, split: str | None, labels: pa.Array, start: int) -> pa.RecordBatch:
    count = len(labels)
    numbers = pa.array(range(start, start + count), pa.int64())
    fragments = pc.binary_join_element_wise("#row=", numbers.cast(pa.string()), "")
    columns = {
        "uri": pc.binary_join_element_wise(printable(place), fragments, ""),
        "path": pc.binary_join_element_wise(printable(path), fragments, ""),
        "size": pa.array(np.full(count, UNKNOWN_SIZE)),
        "modified": [modified] * count,
        "label": labels,
        "split": pa.array([split] * count, pa.string()),
        "container": [printable(place)] * count,
        "kind": ["parquet"] * count,
        "offset": numbers,
        "length": pa.nulls(count, pa.int64()),
        "ignored": pa.array(np.zeros(count, dtype=bool)),
    }
    return pa.RecordBatch.from_pydict(columns, LISTING)
