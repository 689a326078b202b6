"""The rows of a batch, as every sink takes them: in order, a few at a time, with the batch's name in front."""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from upath import UPath

from resnet_core.inference.scores import SCHEMA
from resnet_core.reasons import with_reason_codes

ROWS = 8192  # in memory at a time, whatever the size of the parts
BATCH = "batch"
COLUMNS = pa.schema([(BATCH, pa.string()), *SCHEMA])
# Tables made by older releases lack these columns and get them, all null, with the next batch.
ADDED = ("reason_code",)


class Write(Protocol):
    """Write the rows of a batch to a place, instead of those that it has of this batch: all or none."""

    def __call__(self, place: str, batch: str, rows: Iterator[pa.RecordBatch]) -> None: ...


def batch_rows(parts: Iterable[UPath], batch: str, count: int) -> Iterator[pa.RecordBatch]:
    """The rows of the parts in pieces of ROWS, in COLUMNS; the next piece is read when it is asked for.

    Raises RuntimeError at the end, before a sink commits, unless there were `count`.
    """
    seen = 0
    for piece in _even(_pieces(parts)):
        seen += len(piece)
        names = pa.array([batch], COLUMNS.field(BATCH).type).take(pa.array([0] * len(piece)))
        yield pa.RecordBatch.from_arrays([names, *piece.columns], schema=COLUMNS)
    if seen != count:
        raise RuntimeError(f"{batch}: the parts have {seen:,} rows and the batch {count:,} files; score it again")


def _pieces(parts: Iterable[UPath]) -> Iterator[pa.RecordBatch]:
    for part in parts:
        with part.open("rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(ROWS, columns=SCHEMA.names):
                yield with_reason_codes(batch).select(SCHEMA.names)


def _even(pieces: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows, ROWS at a time: what a sink does for every piece shall not depend on the size of the parts."""
    held: list[pa.RecordBatch] = []
    for piece in pieces:
        held.append(piece)
        if sum(map(len, held)) >= ROWS:
            joined = pa.concat_batches(held)
            yield joined.slice(0, ROWS)
            held = [joined.slice(ROWS)]
    if sum(map(len, held)):
        yield pa.concat_batches(held)


def _as_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def with_text(rows: pa.RecordBatch, brackets: str = "[]", quoted: Callable[[str], str] = _as_json) -> pa.RecordBatch:
    """The same rows, with text where there were lists: by default JSON's. Numbers have as few digits as tell
    them apart."""
    columns = [
        _list_text(column, brackets, quoted) if pa.types.is_list(column.type) else column for column in rows.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=rows.schema.names)


def _list_text(lists: pa.Array, brackets: str, quoted: Callable[[str], str]) -> pa.Array:
    values = lists.flatten()
    if pa.types.is_string(values.type):
        coded = values.dictionary_encode()  # they are labels: thousands of times the same few
        texts = pa.array(map(quoted, coded.dictionary.to_pylist()), pa.string()).take(coded.indices)
    else:
        texts = pc.cast(values, pa.string())
    sizes = pc.fill_null(pc.list_value_length(lists), 0)
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(sizes)])
    joined = pc.binary_join(pa.ListArray.from_arrays(offsets, texts), ",")
    return pc.if_else(lists.is_valid(), pc.binary_join_element_wise(brackets[0], joined, brackets[1], ""), None)


def missing_columns(names: Iterable[str]) -> list[str]:
    """Return the columns of scores that a table lacks, without those that it will get."""
    there = {*names, *ADDED}
    return [name for name in COLUMNS.names if name not in there]


def differences(found: pa.Schema) -> str:
    """What is otherwise in a table than in COLUMNS, or nothing; the order of the columns does not matter."""
    missing = missing_columns(found.names)
    if missing:
        return f"has no column {', '.join(missing)}"
    more = [name for name in found.names if name not in COLUMNS.names]
    if more:
        return f"has a column {', '.join(more)} that scores have not"
    for field in (COLUMNS.field(name) for name in found.names):
        if (kind := found.field(field.name).type) is not None and _plain(kind) != _plain(field.type):
            return f"has {_plain(kind)} in its column {field.name}, and scores {_plain(field.type)}"
    return ""


def _plain(kind: pa.DataType) -> str:
    """A type, without what differs from library to library: the width of offsets, the name of a list's values."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list of {_plain(kind.value_type)}"
    return str(kind).removeprefix("large_").removesuffix("_view")
