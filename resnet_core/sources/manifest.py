"""Manifests: CSV or Parquet tables that say what is known about files.

column      holds
path        the file: relative to the manifest's folder, absolute, or a URL
label       its class; empty: unlabelled
split       optional: train | validation | test
group       optional: files that must be in the same split
soft_label  optional: a share for each class
weight      optional: 0 or more, 1 unless given
any other   an attribute; all of a row's attributes are one JSON object in `attributes`
"""

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
from resnet_core.sources.listing import BATCH, LOCATED, record_batch
from resnet_core.storage.locations import AT_ONCE, absolute, facts, is_url, printable

_REQUIRED = ("path", "label")
COLUMNS = (*_REQUIRED, "split", "group", "soft_label", "weight")
_SPLITS = ("train", "validation", "test")
_ATTRIBUTES = "attributes"
MANIFEST = pa.schema(
    [*((name, pa.string()) for name in COLUMNS[:-1]), ("weight", pa.float32()), (_ATTRIBUTES, pa.string())]
)
_TEXT = pa.schema([(name, pa.string()) for name in (*COLUMNS, _ATTRIBUTES)])
LISTED = pa.schema([*LOCATED, *(MANIFEST.field(name) for name in ("group", "weight", "soft_label", _ATTRIBUTES))])


def read_manifest(path: UPath) -> pa.Table:
    """Return one row per path, in the file's order: MANIFEST.

    Raises UserError, with the file and the column, for a table that is damaged or contradicts itself.
    """
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
    """Yield the manifest's rows with their files: LISTED. Only these files belong to the data set.

    Raises UserError if none of its paths is a file.
    """
    folder = absolute(str(manifest.parent))
    table = read_manifest(manifest)
    any_file = False
    with ThreadPoolExecutor(AT_ONCE) if is_url(folder) else nullcontext() as pool:
        for batch in table.to_batches(BATCH):
            uris = [place_of(folder, path) for path in batch["path"].to_pylist()]
            sizes_and_tags = list((pool.map if pool else map)(_size_and_tag, uris))
            any_file = any_file or any(size is not None for size, _ in sizes_and_tags)
            columns = {
                **{name: batch[name] for name in MANIFEST.names},
                "uri": [printable(uri) for uri in uris],
                "size": [size for size, _ in sizes_and_tags],
                "modified": [tag for _, tag in sizes_and_tags],
                "ignored": False,
            }
            yield record_batch(len(batch), columns, LISTED)
    if not any_file:
        raise UserError(f"{manifest}: none of its {len(table):,} paths is a file. Write them relative to it.")


def attribute_of(texts: Sequence[str | None], name: str) -> list[str | None]:
    """Return an attribute of N images from their column `attributes`; None where it is missing."""
    return [json.loads(text).get(name) if text else None for text in texts]


def place_of(folder: str, path: str) -> str:
    """Return the place that a path of a manifest in the folder names."""
    if is_url(path) or path.startswith("file://"):
        return absolute(path)
    return f"{folder}/{path.removeprefix('/')}" if is_url(folder) else absolute(os.path.join(folder, path))


def _size_and_tag(uri: str) -> tuple[int | None, str | None]:
    """Return size and `modified` of a file, None for both if it is missing."""
    try:
        file = facts(uri)
    except (OSError, ValueError):
        return None, None
    return (file["size"], file["modified"]) if file["type"] == "file" else (None, None)


def _read_csv(file: Any, name: str) -> Iterator[pa.RecordBatch]:
    """Read everything as text: a class named 007 must not become 7, nor a class named NA vanish."""
    rows = csv.reader(io.TextIOWrapper(file, "utf-8-sig", newline=""), skipinitialspace=True, strict=True)
    header = next(rows, [])
    _check_header(header, name)
    places = {column: header.index(column) for column in header if column}
    while some := list(islice(_full_rows(rows, len(header), places["path"], name), BATCH)):
        texts = {
            column: pa.array([row[place] or None if place < len(row) else None for row in some], pa.string())
            for column, place in places.items()
        }
        yield _text_batch(texts, len(some))


def _full_rows(rows: Any, width: int, path: int, name: str) -> Iterator[list[str]]:
    """Yield the rows of a csv.reader, without empty lines."""
    for row in rows:
        if any(row[width:]):
            raise ValueError(f"line {rows.line_num} has {len(row)} fields, the first line {width}")
        if row:
            if path >= len(row) or not row[path]:
                raise UserError(f"{name}: line {rows.line_num}: `path` is empty.")
            yield row


def _read_parquet(file: Any, name: str) -> Iterator[pa.RecordBatch]:
    table = pq.ParquetFile(file)
    _check_header(table.schema_arrow.names, name)
    selected = [field.name for field in table.schema_arrow if field.name in COLUMNS or _is_attribute(field)]
    start = 0
    for batch in table.iter_batches(BATCH, columns=selected):
        rows = _text_batch({column: _as_text_or_null(batch[column]) for column in selected}, len(batch))
        if rows["path"].null_count:
            raise UserError(f"{name}: row {start + rows['path'].to_pylist().index(None) + 1:,}: `path` is empty.")
        start += len(batch)
        yield rows


def _as_text_or_null(column: pa.Array) -> pa.Array:
    text = as_text(column.dictionary_decode() if pa.types.is_dictionary(column.type) else column)
    return pc.if_else(pc.equal(text, ""), None, text)


def _check_header(names: list[str], manifest: str) -> None:
    """Raise UserError if a required column is missing."""
    for column in _REQUIRED:
        if column not in names:
            hint = nearest(column, names)
            raise UserError(f"{manifest}: has no column {column!r}.{hint} Its columns: {', '.join(names)}.")


def _text_batch(texts: dict[str, pa.Array], count: int) -> pa.RecordBatch:
    """Return `count` rows of a manifest as text; all columns but COLUMNS are attributes."""
    others = [name for name in texts if name not in COLUMNS]
    attributes = _encode(zip(*(texts[name].to_pylist() for name in others), strict=True), others) if others else None
    path = pc.replace_substring_regex(texts["path"], r"^\./", "")
    return record_batch(count, {**texts, "path": path, _ATTRIBUTES: attributes}, _TEXT)


def _check(path: UPath, table: pa.Table) -> None:
    if pc.count_distinct(table["path"]).as_py() < len(table):
        counts = pc.value_counts(table["path"])
        first = counts.filter(pc.greater(counts.field("counts"), 1))[0].as_py()
        raise UserError(f"{path}: {first['values']!r} stands in {first['counts']} rows. Keep one.")
    for value in pc.unique(table["split"]).to_pylist():
        if value is not None and value not in _SPLITS:
            raise UserError(
                f"{path}: split {value!r} is not one of {', '.join(_SPLITS)}.{nearest(value, list(_SPLITS))}"
            )
    _check_soft_labels(path, table)


def _check_soft_labels(path: UPath, table: pa.Table) -> None:
    labels = pc.unique(table["label"]).drop_null().to_pylist()
    classes = set(labels)
    for text in pc.unique(table["soft_label"]).drop_null().to_pylist():
        try:
            unknown = parse(text).keys() - classes
            problem = unknown and f"no row has the label {min(unknown)!r}.{nearest(min(unknown), labels)}"
        except ValueError as error:
            problem = f"{error}."
        if problem:
            image = table["path"].filter(pc.equal(table["soft_label"], text))[0].as_py()
            raise UserError(
                f"{path}: soft_label {text!r} of {image!r}: {problem} Write a share for each class, which sum to 1, "
                f"like `{EXAMPLE}`."
            )


def _encode(rows: Iterable[Sequence[str | None]], names: Sequence[str]) -> pa.Array:
    """Return the attributes that are not empty as a JSON object per row, null for a row without any: string [N]."""
    encoded: dict[tuple[str | None, ...], str | None] = {}  # many images have the same
    texts = []
    for row in rows:
        key = tuple(row)
        if key not in encoded:
            if len(encoded) > 10_000:
                encoded.clear()
            filled = {name: value for name, value in zip(names, key, strict=True) if value}
            encoded[key] = json.dumps(filled, ensure_ascii=False) if filled else None
        texts.append(encoded[key])
    return pa.array(texts, pa.string())


def _is_attribute(field: pa.Field) -> bool:
    """Return whether a Parquet column holds words or numbers; vectors, bytes and pandas' index do not count."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    plain = (pa.types.is_string, pa.types.is_large_string, pa.types.is_boolean, pa.types.is_integer,
             pa.types.is_floating, pa.types.is_decimal, pa.types.is_temporal)  # fmt: skip
    return not field.name.startswith("__index_level_") and any(is_kind(kind) for is_kind in plain)


def _weights(path: UPath, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return float32; 1 where none is given."""
    weights = {text: _weight(path, text) for text in pc.unique(column).drop_null().to_pylist()}
    chunks = (pa.array([weights.get(text, 1.0) for text in chunk.to_pylist()], pa.float32()) for chunk in column.chunks)
    return pa.chunked_array(chunks, pa.float32())


def _weight(path: UPath, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise UserError(f"{path}: weight {text!r} is not a number of 0 or more.")
    return weight
