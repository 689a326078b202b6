"""A table of what is known about files: CSV or Parquet with path, label, optional columns and any others."""

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from upath import UPath

from resnet_core.errors import UserError, nearest
from resnet_core.shards.soft_labels import EXAMPLE, parse
from resnet_core.sources._image_tables import as_text
from resnet_core.sources.listing import BATCH, LISTING
from resnet_core.storage.locations import absolute, facts, is_url, printable


def _encoded(rows: Iterable[Sequence[str | None]], names: Sequence[str]) -> pa.Array:
    """For each row the JSON object of what is not empty, null where nothing is: string [N]."""
    known: dict[tuple[str | None, ...], str | None] = {}  # many images say the same
    found = []
    for row in rows:
        key = tuple(row)
        if key not in known:
            if len(known) > 10_000:
                known.clear()
            filled = {name: value for name, value in zip(names, key, strict=True) if value}
            known[key] = json.dumps(filled, ensure_ascii=False) if filled else None
        found.append(known[key])
    return pa.array(found, pa.string())


def decoded(texts: Sequence[str | None], name: str) -> list[str | None]:
    """One attribute of N images; None where it is not there."""
    return [json.loads(text).get(name) if text else None for text in texts]


def _is_attribute(field: pa.Field) -> bool:
    """Whether a Parquet column can be said in a word: vectors and bytes cannot, and pandas' index says nothing."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    spoken = (pa.types.is_string, pa.types.is_large_string, pa.types.is_boolean, pa.types.is_integer,
              pa.types.is_floating, pa.types.is_decimal, pa.types.is_temporal)  # fmt: skip
    return not field.name.startswith("__index_level_") and any(test(kind) for test in spoken)


_REQUIRED = ("path", "label")
_OPTIONAL = ("split", "group", "soft_label", "weight")
_SPLITS = ("train", "validation", "test")
COLUMNS = (*_REQUIRED, *_OPTIONAL)
_ATTRIBUTES = "attributes"  # what the other columns say: see `attributes`
MANIFEST = pa.schema(
    [*((name, pa.string()) for name in COLUMNS[:-1]), ("weight", pa.float32()), (_ATTRIBUTES, pa.string())]
)
_TEXT = pa.schema([(name, pa.string()) for name in (*COLUMNS, _ATTRIBUTES)])
# A file that is not there has neither size nor tag.
LISTED = pa.schema(
    [
        *(field.with_nullable(field.nullable or field.name in ("size", "modified")) for field in LISTING),
        MANIFEST.field("group"),
        MANIFEST.field("weight"),
        MANIFEST.field("soft_label"),
        MANIFEST.field(_ATTRIBUTES),
    ]
)
# Requests at a time for the facts of files in an object store.
AT_ONCE = 32


def read_manifest(path: UPath) -> pa.Table:
    """One row a path, in the file's order: path, label, split, group, soft_label (text or null), weight
    (float32, 1 unless given), attributes (a JSON object, or null). Raises UserError, naming the file and the
    column, for anything that cannot be meant."""
    try:
        with path.open("rb") as file:
            read = _read_parquet if path.suffix.lower() == ".parquet" else _read_csv
            table = pa.Table.from_batches(read(file, str(path)), _TEXT)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file. Correct `labels:` or `source:`.") from None
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        raise UserError(f"{path}: cannot be read as a table ({error}).") from None
    _check(path, table)
    return table.set_column(COLUMNS.index("weight"), MANIFEST.field("weight"), _weights(path, table["weight"]))


def list_manifest(manifest: UPath) -> Iterator[pa.RecordBatch]:
    """The manifest's rows with their files: LISTED. It says what belongs to the data set; its paths are
    relative to its folder, absolute, or URLs. Raises UserError where none of them is a file."""
    folder = absolute(str(manifest.parent))
    table = read_manifest(manifest)
    any_found = False
    with ThreadPoolExecutor(AT_ONCE) if is_url(folder) else nullcontext() as pool:
        for batch in table.to_batches(BATCH):
            uris = [place_of(folder, path) for path in batch["path"].to_pylist()]
            found = list((pool.map if pool else map)(_facts, uris))
            any_found = any_found or any(found)
            yield _listed(batch, uris, found)
    if not any_found:
        raise UserError(f"{manifest}: none of its {len(table):,} paths is a file. Write them relative to it.")


def place_of(folder: str, path: str) -> str:
    """Where a path of a manifest in the folder leads: relative to it, absolute, or a URL."""
    if is_url(path) or path.startswith("file://"):
        return absolute(path)
    return f"{folder}/{path.removeprefix('/')}" if is_url(folder) else absolute(os.path.join(folder, path))


def _facts(uri: str) -> tuple[int, str] | None:
    try:
        found = facts(uri)
    except (OSError, ValueError):
        return None
    return (found["size"], found["modified"]) if found["type"] == "file" else None


def _listed(batch: pa.RecordBatch, uris: list[str], found: list[tuple[int, str] | None]) -> pa.RecordBatch:
    nothing = pa.nulls(len(batch))
    columns: dict[str, Any] = {name: nothing.cast(LISTED.field(name).type) for name in LISTED.names}
    columns |= {name: batch[name] for name in MANIFEST.names}
    columns["uri"] = [printable(uri) for uri in uris]
    columns["size"] = [each[0] if each else None for each in found]
    columns["modified"] = [each[1] if each else None for each in found]
    columns["ignored"] = [False] * len(batch)
    return pa.RecordBatch.from_pydict(columns, LISTED)


def _read_csv(file: Any, name: str) -> Iterator[pa.RecordBatch]:
    """Everything as text: a class named 007 must not become 7, nor a class named NA vanish."""
    rows = csv.reader(io.TextIOWrapper(file, "utf-8-sig", newline=""), skipinitialspace=True, strict=True)
    header = next(rows, [])
    places = _places(header, name)
    others = {column: place for place, column in enumerate(header) if column and column not in COLUMNS}
    while some := list(islice(_whole_rows(rows, len(header), places["path"] or 0, name), BATCH)):
        columns = [
            pa.nulls(len(some), pa.string())
            if place is None
            else pa.array([row[place] or None if place < len(row) else None for row in some], pa.string())
            for place in places.values()
        ]
        said = ([row[place] if place < len(row) else None for place in others.values()] for row in some)
        columns.append(_encoded(said, list(others)) if others else pa.nulls(len(some), pa.string()))
        yield _tidy(columns)


def _whole_rows(rows: Any, width: int, path: int, name: str) -> Iterator[list[str]]:
    """rows: a csv.reader."""
    for row in rows:
        if any(row[width:]):
            raise ValueError(f"line {rows.line_num} has {len(row)} fields, the first line {width}")
        if row:
            if path >= len(row) or not row[path]:
                raise UserError(f"{name}: line {rows.line_num}: `path` is empty.")
            yield row


def _read_parquet(file: Any, name: str) -> Iterator[pa.RecordBatch]:
    table = pq.ParquetFile(file)
    places = _places(table.schema_arrow.names, name)
    others = [field.name for field in table.schema_arrow if field.name not in COLUMNS and _is_attribute(field)]
    wanted = [*(column for column in COLUMNS if places[column] is not None), *others]
    row = 0
    for batch in table.iter_batches(BATCH, columns=wanted):
        columns = [
            pa.nulls(len(batch), pa.string()) if place is None else _text(batch[column])
            for column, place in places.items()
        ]
        said = zip(*(_text(batch[column]).to_pylist() for column in others), strict=True)
        columns.append(_encoded(said, others) if others else pa.nulls(len(batch), pa.string()))
        tidy = _tidy(columns)
        if tidy["path"].null_count:
            raise UserError(f"{name}: row {row + tidy['path'].to_pylist().index(None) + 1:,}: `path` is empty.")
        row += len(batch)
        yield tidy


def _text(column: pa.Array) -> pa.Array:
    text = as_text(column.dictionary_decode() if pa.types.is_dictionary(column.type) else column)
    return pc.if_else(pc.equal(text, ""), None, text)


def _places(names: list[str], manifest: str) -> dict[str, int | None]:
    """Where each of COLUMNS stands. Raises UserError for one that has to be there and is not."""
    for column in _REQUIRED:
        if column not in names:
            hint = nearest(column, names)
            raise UserError(f"{manifest}: has no column {column!r}.{hint} Its columns: {', '.join(names)}.")
    return {column: names.index(column) if column in names else None for column in COLUMNS}


def _tidy(columns: list[pa.Array]) -> pa.RecordBatch:
    columns[0] = pc.replace_substring_regex(columns[0], r"^\./", "")
    return pa.RecordBatch.from_arrays(columns, schema=_TEXT)


def _check(path: UPath, table: pa.Table) -> None:
    if pc.count_distinct(table["path"]).as_py() < len(table):
        counts = pc.value_counts(table["path"])
        first = counts.filter(pc.greater(counts.field("counts"), 1))[0].as_py()
        raise UserError(f"{path}: {first['values']!r} stands in it {first['counts']} times; keep one row.")
    for value in pc.unique(table["split"]).to_pylist():
        if value is not None and value not in _SPLITS:
            raise UserError(f"{path}: split {value!r} is none of {', '.join(_SPLITS)}.{nearest(value, list(_SPLITS))}")
    _check_soft_labels(path, table)


def _check_soft_labels(path: UPath, table: pa.Table) -> None:
    labels = pc.unique(table["label"]).drop_null().to_pylist()
    known = set(labels)
    for text in pc.unique(table["soft_label"]).drop_null().to_pylist():
        try:
            unknown = parse(text).keys() - known
            problem = unknown and f"no row's label is {min(unknown)!r}.{nearest(min(unknown), labels)}"
        except ValueError as error:
            problem = f"{error}."
        if problem:
            image = table["path"].filter(pc.equal(table["soft_label"], text))[0].as_py()
            raise UserError(
                f"{path}: soft_label {text!r} of {image!r}: {problem} Write a share for each class, which sum to 1, "
                f"like `{EXAMPLE}`."
            )


def _weights(path: UPath, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """float32; 1 where none is given."""
    given = pc.unique(column).drop_null().to_pylist()
    weights = {text: _weight(path, text) for text in given}
    chunks = (pa.array([weights.get(text, 1.0) for text in chunk.to_pylist()], pa.float32()) for chunk in column.chunks)
    return pa.chunked_array(chunks, pa.float32())


def _weight(path: UPath, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise UserError(f"{path}: weight {text!r} is no number of 0 or more.")
    return weight
