"""Parquet files with the bytes of an image in each row.

The bytes lie in a binary column, or in the `image` struct (bytes, path) of Hugging Face's `datasets`. That
library writes the names of the classes into the schema's metadata. It leaves the bytes out where a path will do.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from resnet_core.errors import UserError
from resnet_core.policy import check_members, parse_json
from resnet_core.sources.listing import (
    BATCH,
    column_bytes,
    find_label_column,
    find_path_column,
    numbered_rows,
    record_batch,
    refused,
)
from resnet_core.storage.compressed import check_room, shared_copy
from resnet_core.storage.locations import UNKNOWN_SIZE, Reach, facts, find_files, open_stream, printable

_SOME_ROWS = 256  # whose images are read to tell which have bytes
_ROWS = 32  # rows whose images are in memory at a time
# A row can be reached only through the rows before it in its row group. Larger groups (rows and bytes) are
# rewritten in groups of _ROWS rows before they are read.
LARGE_GROUP, LARGE_GROUP_BYTES = 2048, 64 * 1024**2


@contextmanager
def open_table(place: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file. Raises OSError if it cannot be read, UserError if it is damaged or another file."""
    with open_stream(place) as file:
        try:
            table = pq.ParquetFile(file, pre_buffer=False, buffer_size=1024**2)
        except pa.ArrowInvalid as error:
            raise UserError(f"{place}: not a whole Parquet file ({error}). Fetch or make it again.") from None
        yield table


def _image_column(schema: pa.Schema, place: str) -> str | None:
    """Return the column of the images' bytes, as Parquet names it, or None.

    It is named `image`, or the only column of bytes. Raises UserError for several without that name.
    """
    columns = {field.name: leaf for field in schema if (leaf := _bytes_leaf(field)) is not None}
    if len(columns) > 1 and "image" not in columns:
        raise UserError(f"{place}: {', '.join(columns)} hold bytes; name the column of the images `image`.")
    return columns.get("image") or next(iter(columns.values()), None)


def list_table(place: str, path: str, label_column: str | None = None) -> Iterator[pa.RecordBatch]:
    """Yield one row per image. `path`: of the file, relative to the source; `label_column` as in `find_label_column`.

    A row without bytes whose path names a file, relative to the table, is that file. Raises UserError without images.
    """
    with open_table(place) as table:
        schema, modified = table.schema_arrow, facts(place)["modified"]
        image, paths = _image_column(schema, place), _path_leaf(schema, place)
        if paths is None and image is None:
            raise UserError(f"{place}: no column holds the bytes of images. Its columns: {', '.join(schema.names)}.")
        check_members(place, table.metadata.num_rows)
        label = find_label_column(schema.names, label_column, place)
        check_label_type(schema, label, place)
        if refusal := refused(table, place, [leaf for leaf in (label, paths) if leaf]):
            raise refusal
        start, reach = 0, Reach(place.rsplit("/", path.count("/") + 1)[0])
        for labels, linked in _labels_and_paths(table, label, image, paths):
            numbers = range(start, start + len(labels))
            start += len(labels)
            own: dict[str, Any] = {"size": UNKNOWN_SIZE, "modified": modified, "label": labels, "kind": "parquet"}
            rows = numbered_rows(place, path, numbers, own | {"offset": list(numbers)})
            if linked.null_count < len(linked):
                yield _linked_rows(rows.filter(linked.is_valid()), place, linked.drop_null(), reach)
                rows = rows.filter(linked.is_null())
            if len(rows):
                yield rows


def _linked_rows(rows: pa.RecordBatch, place: str, paths: pa.Array, reach: Reach) -> pa.RecordBatch:
    """Return the rows as the files that they name. A missing file is a row, too: reading it gives the reason."""
    files = find_files(place.rpartition("/")[0], paths.to_pylist(), place, reach)
    file = {
        "uri": [printable(file.place) for file in files],
        "size": [UNKNOWN_SIZE if file.size is None else file.size for file in files],
        "modified": [file.modified or "" for file in files],
        "ignored": False,
    }
    return record_batch(len(files), {name: rows[name] for name in ("path", "label", "split")} | file)


def _labels_and_paths(
    table: pq.ParquetFile, label: str | None, image: str | None, path: str | None
) -> Iterator[tuple[pa.Array, pa.Array]]:
    """Yield the labels of all rows, and the paths of those without bytes; null where there is none."""
    linked = _are_linked(table, image) if path is not None else False
    # Where only some rows have bytes, only the bytes tell which.
    leaves = (label, path if linked is not False else None, image if linked is None else None)
    names = None if label is None else class_names(table.schema_arrow, label)
    rows = _SOME_ROWS if linked is None else BATCH
    if not any(leaves):
        for start in range(0, table.metadata.num_rows, rows):
            missing = pa.nulls(min(rows, table.metadata.num_rows - start), pa.string())
            yield missing, missing
        return
    for batch in table.iter_batches(rows, columns=[leaf for leaf in leaves if leaf]):
        missing = pa.nulls(len(batch), pa.string())
        labels = missing if label is None else as_labels(batch[label], names)
        paths = missing if linked is False else _leaf(batch, path or "").cast(pa.string())
        yield labels, pc.if_else(_leaf(batch, image or "").is_null(), paths, None) if linked is None else paths


def _are_linked(table: pq.ParquetFile, image: str | None) -> bool | None:
    """Return whether all rows lack bytes; None if only some do, or the file does not say it."""
    if image is None:
        return True
    missing = 0
    for group in map(table.metadata.row_group, range(table.metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            if column.path_in_schema == image:
                if column.statistics is None or not column.statistics.has_null_count:
                    return None
                missing += column.statistics.null_count
    return {table.metadata.num_rows: True, 0: False}.get(missing)


def _leaf(batch: pa.RecordBatch, leaf: str) -> pa.Array:
    """Return a column, or a field of a struct: `image.path`."""
    name, _, part = (leaf, "", "") if leaf in batch.schema.names else leaf.rpartition(".")
    return pc.struct_field(batch[name], part) if part else batch[name]


def holds_images(schema: pa.Schema, place: str) -> bool:
    """Return whether the rows of a Parquet file are images: bytes, or paths in another column than `path`."""
    return _image_column(schema, place) is not None or _path_leaf(schema, place) not in (None, "path")


def _path_leaf(schema: pa.Schema, place: str) -> str | None:
    """Return the column of paths to files: of the image's struct, else one of PATH_COLUMNS. Raises UserError."""
    image = _image_column(schema, place)
    name = (image or "image").removesuffix(".bytes")
    if name in schema.names and pa.types.is_struct(kind := schema.field(name).type):
        return f"{name}.path" if kind.get_field_index("path") >= 0 else None
    if image is not None:
        return None
    for field in schema:
        if pa.types.is_list(field.type) and _bytes_leaf(field.with_type(field.type.value_type)):
            raise UserError(f"{place}: the column {field.name!r} holds lists of images. Write one image a row.")
    return find_path_column([field.name for field in schema if _is_text(field.type)], place)


def check_label_type(schema: pa.Schema, column: str | None, place: str) -> None:
    """Raise UserError for a column of lists, structs or bytes."""
    kind = None if column is None else schema.field(column).type
    if kind is not None and (pa.types.is_nested(kind) or _is_bytes(kind)):
        what = "lists" if pa.types.is_list(kind) or pa.types.is_large_list(kind) else str(kind)
        raise UserError(
            f"{place}: the column {column!r} holds {what}, and an image has one class. "
            "Name a column of one class an image with `label_column`."
        )


def class_names(schema: pa.Schema, column: str) -> list[str] | None:
    """Return the names of the numbers in a column of labels, if `datasets` wrote the file."""
    text = (schema.metadata or {}).get(b"huggingface")
    try:
        return [str(name) for name in parse_json(text or b"")["info"]["features"][column]["names"]]
    except (TypeError, ValueError, KeyError):
        return None


def as_labels(column: pa.Array, names: list[str] | None) -> pa.Array:
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
            column = _image_column(table.schema_arrow, place)
            starts = _group_starts(table)
            for run in _runs(rows, starts):
                group = int(np.searchsorted(starts, run[0], side="right")) - 1
                if (refusal := refused(table, place, [column or ""], [group])) is not None:
                    yield from (OSError(str(refusal)) for _ in run)
                elif column is None or group >= table.num_row_groups:
                    yield from (OSError("the file holds no image there any more") for _ in run)
                else:
                    yield from _read_run(_values(table, group, column, int(starts[group])), run)
    except (OSError, pa.ArrowException, UserError) as error:  # their rows say so
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
    except (OSError, pa.ArrowException) as caught:  # the rows after it say so
        error = caught if isinstance(caught, OSError) else OSError(str(caught))
    yield from (error for _ in rows[done:])


def regrouped(place: str) -> str:
    """Return a file of the same images in small row groups: the file itself, or one made from it.

    Raises OSError, or UserError for a file that is damaged or not Parquet.
    """
    with open_table(place) as table:
        column = _image_column(table.schema_arrow, place)
        groups = range(table.num_row_groups)
        if column is None or not any(_is_large(table, group, column) for group in groups):
            return place
        if any(refused(table, place, [column], [group]) for group in groups):
            return place
    return shared_copy(place, "regrouped", _regroup)


def _regroup(place: str, to: Path) -> None:
    with open_table(place) as table:
        column = _image_column(table.schema_arrow, place)
        with pq.ParquetWriter(to, pa.schema([("image", pa.binary())]), compression="none", use_dictionary=False) as out:
            for group in range(table.num_row_groups):
                values = _values(table, group, column or "", 0)
                while some := [value for _, value in zip(range(_ROWS), (value for _, value in values), strict=False)]:
                    check_room(to)
                    out.write_table(pa.table({"image": pa.array(some, pa.binary())}))


def _is_large(table: pq.ParquetFile, group: int, column: str) -> bool:
    size = column_bytes(table, [column], [group])[1]
    return table.metadata.row_group(group).num_rows > LARGE_GROUP and size > LARGE_GROUP_BYTES


def _values(table: pq.ParquetFile, group: int, column: str, start: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield the images of a row group with the numbers of their rows, which begin at `start`."""
    size = column_bytes(table, [column], [group])[1] // (table.metadata.row_group(group).num_rows or 1)
    rows = max(1, min(_ROWS, LARGE_GROUP_BYTES // (size or 1)))
    for batch in table.iter_batches(rows, row_groups=[group], columns=[column]):
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


def _is_text(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _is_bytes(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view))
