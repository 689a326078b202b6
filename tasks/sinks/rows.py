"""Rows of a batch for sinks: in order, in pieces of ROWS, with the batch's name as first column."""

import json
from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from upath import UPath

from resnet_core.errors import plural
from resnet_core.inference.scores import ADDED as ADDED_TO_SCORES
from resnet_core.inference.scores import SCHEMA, with_added
from resnet_core.reasons import with_reason_codes

ROWS = 8192  # in memory at a time, independent of the size of the parts
BATCH = "batch"
COLUMNS = pa.schema([(BATCH, pa.string()), *SCHEMA])
# Tables made by older releases lack these columns and get them, all null, with the next batch.
ADDED = ("reason_code", *ADDED_TO_SCORES)


def batch_rows(parts: Iterable[UPath], batch: str, count: int) -> Iterator[pa.RecordBatch]:
    """Yield the rows of the parts in pieces of ROWS, in COLUMNS. A piece is read when it is asked for.

    Raises RuntimeError at the end, before a sink commits, unless there were `count` rows.
    """
    seen = 0
    for piece in _even(_pieces(parts)):
        seen += len(piece)
        names = pa.array([batch], COLUMNS.field(BATCH).type).take(pa.array([0] * len(piece)))
        yield pa.RecordBatch.from_arrays([names, *piece.columns], schema=COLUMNS)
    if seen != count:
        raise RuntimeError(
            f"{batch}: the parts have {plural(seen, 'row')} and the batch {plural(count, 'file')}; score it again"
        )


def _pieces(parts: Iterable[UPath]) -> Iterator[pa.RecordBatch]:
    for part in parts:
        with part.open("rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(ROWS, columns=SCHEMA.names):
                yield with_added(with_reason_codes(batch)).select(SCHEMA.names)


def _even(pieces: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the same rows, ROWS at a time; sinks then work the same for parts of any size."""
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
    """Return the same rows with lists as text, by default as JSON. Numbers have their shortest exact form."""
    columns = [
        _list_text(column, brackets, quoted) if pa.types.is_list(column.type) else column for column in rows.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=rows.schema.names)


def _list_text(lists: pa.Array, brackets: str, quoted: Callable[[str], str]) -> pa.Array:
    values = lists.flatten()
    if pa.types.is_string(values.type):
        coded = values.dictionary_encode()  # labels: few distinct values, thousands of times
        texts = pa.array(map(quoted, coded.dictionary.to_pylist()), pa.string()).take(coded.indices)
    else:
        texts = pc.cast(values, pa.string())
    sizes = pc.fill_null(pc.list_value_length(lists), 0)
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(sizes)])
    joined = pc.binary_join(pa.ListArray.from_arrays(offsets, texts), ",")
    return pc.if_else(lists.is_valid(), pc.binary_join_element_wise(brackets[0], joined, brackets[1], ""), None)


def missing_columns(names: Iterable[str]) -> list[str]:
    """Return the columns of scores that a table lacks, without those that it will get."""
    present = {*names, *ADDED}
    return [name for name in COLUMNS.names if name not in present]


def differences(schema: pa.Schema) -> str:
    """Return how a table's schema differs from COLUMNS, or an empty text. The order of columns is free."""
    missing = missing_columns(schema.names)
    if missing:
        return f"has no column {', '.join(missing)}"
    more = [name for name in schema.names if name not in COLUMNS.names]
    if more:
        return f"has a column {', '.join(more)} that scores do not have"
    for field in schema:
        kind, scores_kind = _plain(field.type), _plain(COLUMNS.field(field.name).type)
        if kind != scores_kind:
            return f"has {kind} in its column {field.name}, scores have {scores_kind}"
    return ""


def _plain(kind: pa.DataType) -> str:
    """Return a type's name without details of libraries: the width of offsets, the name of a list's values."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list of {_plain(kind.value_type)}"
    return str(kind).removeprefix("large_").removesuffix("_view")
