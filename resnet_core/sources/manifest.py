"""Manifests: CSV or Parquet tables that say what is known about files.

column      holds
path        the file: relative to the manifest's folder, absolute, or a URL; or a name of `listing.PATH_COLUMNS`
label       its class; empty: unlabelled
split       optional: train | validation | test
group       optional: files that must be in the same split
soft_label  optional: a share for each class
weight      optional: 0 or more, 1 unless given
any other   an attribute; all of a row's attributes are one JSON object in `attributes`

A manifest without `label` may have its classes in another column: `listing.find_label_column` has the rule.
"""

import json
import logging
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from upath import UPath

from resnet_core.credentials import masked, public
from resnet_core.errors import UserError, nearest, plural, some_of
from resnet_core.policy import check_members
from resnet_core.shards.soft_labels import EXAMPLE, parse
from resnet_core.sources._image_tables import as_labels, as_text, check_label_type, class_names
from resnet_core.sources.listing import (
    BATCH,
    LOCATED,
    NO_LABELS,
    PATH_COLUMNS,
    find_label_column,
    find_path_column,
    record_batch,
    refused,
)
from resnet_core.storage.delimited import check_columns, normalised, read_delimited
from resnet_core.storage.locations import Reach, absolute, find_files, open_stream, printable
from resnet_core.storage.names import fold_label, fold_path, with_slashes

log = logging.getLogger("grayline")

_REQUIRED = ("path", "label")
COLUMNS = (*_REQUIRED, "split", "group", "soft_label", "weight")
LONGEST = 1000  # characters of an attribute: masks and the like are left out
_SPLITS = ("train", "validation", "test")
_ATTRIBUTES = "attributes"
_SHOWN = 3  # paths in a message
MANIFEST = pa.schema(
    [*((name, pa.string()) for name in COLUMNS[:-1]), ("weight", pa.float32()), (_ATTRIBUTES, pa.string())]
)
_TEXT = pa.schema([(name, pa.string()) for name in (*COLUMNS, _ATTRIBUTES)])
LISTED = pa.schema([*LOCATED, *(MANIFEST.field(name) for name in ("group", "weight", "soft_label", _ATTRIBUTES))])


def read_manifest(path: UPath, label_column: str | None = None) -> pa.Table:
    """Return one row per path, in the file's order: MANIFEST. `label_column` as in `find_label_column`.

    Raises UserError, with the file and the column, for a table that is damaged or contradicts itself.
    """
    return as_manifest(path, _read(path, label_column))


def as_manifest(path: UPath, texts: Iterable[tuple[dict[str, pa.Array], int]]) -> pa.Table:
    """Return the same of columns of text, by name, and the numbers of their rows."""
    table = pa.Table.from_batches((_text_batch(columns, count) for columns, count in texts), _TEXT)
    _check(path, table)
    return table.set_column(COLUMNS.index("weight"), MANIFEST.field("weight"), _weights(path, table["weight"]))


def read_texts(path: UPath, label_column: str | None = None) -> pa.Table:
    """Return every column of such a table as text: string columns, `path` and `label` first."""
    tables = [pa.table(texts) for texts, _ in _read(path, label_column)]
    return pa.concat_tables(tables) if tables else pa.table({name: pa.array([], pa.string()) for name in _REQUIRED})


def _read(path: UPath, label_column: str | None) -> Iterator[tuple[dict[str, pa.Array], int]]:
    """Yield columns of text, by name, with `path` and (unless NO_LABELS) `label`, and the number of their rows."""
    try:
        with open_stream(str(path)) as file:
            if path.suffix.lower() == ".parquet":
                rows = _read_parquet(file, str(path), label_column)
            else:
                rows = _read_delimited(file, path, label_column)
            for texts, count in rows:
                yield {name: without_secrets(name, texts[name]) for name in texts}, count
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file. Correct `labels:` or `source:`.") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{path}: cannot be read as a table ({masked(str(error))}). Make it again.") from None


def without_secrets(name: str, column: pa.Array) -> pa.Array:
    """Return a column with public URLs; the secrets of those of `path` are remembered, for they are opened."""
    if not pc.any(pc.match_substring(column, "://")).as_py():
        return column
    shown = public if name == "path" else masked
    return pa.array([text and shown(text) for text in column.to_pylist()], pa.string())


def list_manifest(manifest: UPath, label_column: str | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the manifest's rows with their files: LISTED. Only these files belong to the data set.

    label_column: as in `find_label_column`; with NO_LABELS a list of paths alone will do. Raises UserError if none of
    its paths is a file.
    """
    folder, place = absolute(str(manifest.parent)), absolute(str(manifest))
    table = read_manifest(manifest, label_column)
    any_file, reach, beyond = False, Reach(folder), list[str]()
    alike = _repeated(map(fold_path, table["path"].to_pylist()))
    named: dict[str, str] = {}  # places of paths in two spellings
    for batch in table.to_batches(BATCH):
        paths = batch["path"].to_pylist()
        files = find_files(folder, paths, place, reach)
        for path, file in zip(paths, files, strict=True) if alike else ():
            if file.size is not None and fold_path(path) in alike and named.setdefault(file.place, path) != path:
                raise UserError(f"{manifest}: {named[file.place]!r} and {path!r} name the same file. Keep one row.")
        any_file = any_file or any(file.size is not None for file in files)
        beyond += [path for path, file in zip(paths, files, strict=True) if file.beyond]
        columns = {
            **{name: batch[name] for name in MANIFEST.names},
            "uri": [printable(file.place) for file in files],
            "size": [file.size for file in files],
            "modified": [file.modified for file in files],
            "ignored": False,
        }
        yield record_batch(len(batch), columns, LISTED)
    if not any_file and len(beyond) < len(table):
        raise UserError(f"{manifest}: none of its {plural(len(table), 'path')} is a file. Write them relative to it.")
    say_beyond(place, beyond, fails=not any_file)


def say_beyond(table: str, paths: Sequence[str], *, fails: bool = False) -> None:
    """Say which paths of a table are not read because they lead elsewhere. Raises UserError if that `fails` all."""
    if not paths:
        return
    text = (
        f"{table}: {plural(len(paths), 'path')} {'leads' if len(paths) == 1 else 'lead'} out of its folder, and "
        f"{'is' if len(paths) == 1 else 'are'} not read: {some_of([repr(printable(path)) for path in paths], _SHOWN)}. "
        "Add their folder to `manifest_roots:` of the data set file, or to GRAYLINE_MANIFEST_ROOTS, if they belong."
    )
    if fails:
        raise UserError(text)
    log.warning(text)


def attribute_of(texts: Sequence[str | None], name: str) -> list[str | None]:
    """Return an attribute of N images from their column `attributes`; None where it is missing."""
    return [json.loads(text).get(name) if text else None for text in texts]


def _read_delimited(file: Any, path: UPath, label_column: str | None) -> Iterator[tuple[dict[str, pa.Array], int]]:
    """Read everything as text: a class named 007 must not become 7, nor a class named NA vanish."""
    bare = label_column == NO_LABELS and path.suffix.lower() in (".txt", ".lst")
    columns, rows = read_delimited(file, str(path), (*COLUMNS, *PATH_COLUMNS), PATH_COLUMNS, bare=bare)
    columns = _with_path(columns, str(path))
    names = _name_columns(columns, label_column, str(path))
    while some := list(islice(_named_rows(rows, columns.index("path"), str(path)), BATCH)):
        cells = list(zip(*some, strict=True))
        texts = {name: pa.array([text or None for text in cells[place]], pa.string()) for name, place in names.items()}
        yield texts, len(some)


def _with_path(columns: list[str], name: str) -> list[str]:
    """Return the columns, the one of paths as `path`. Raises UserError without one."""
    path = find_path_column(columns, name)
    columns = ["path" if column == path else column for column in columns]
    check_columns(columns, "path", name)
    return columns


def _named_rows(rows: Iterator[tuple[int, list[str]]], place: int, name: str) -> Iterator[list[str]]:
    for line, row in rows:
        if not row[place]:
            raise UserError(f"{name}: line {line:,}: `path` is empty.")
        yield row


def _name_columns(columns: Sequence[str], label_column: str | None, name: str) -> dict[str, int]:
    """Return the places of the columns by their names in a manifest. Raises UserError without labels."""
    label = find_label_column(columns, label_column, name)
    if label is None and label_column != NO_LABELS:
        check_columns(columns, "label", name)
    places = {column: place for place, column in enumerate(columns) if column and column not in _REQUIRED}
    places.pop(label or "", None)
    labels = {} if label is None else {"label": columns.index(label)}
    return {"path": columns.index("path")} | labels | places


def _read_parquet(file: Any, name: str, label_column: str | None) -> Iterator[tuple[dict[str, pa.Array], int]]:
    table = pq.ParquetFile(file)
    schema = table.schema_arrow
    columns = _with_path([normalised(column, COLUMNS) for column in schema.names], name)
    names = {column: schema.names[place] for column, place in _name_columns(columns, label_column, name).items()}
    check_label_type(schema, names.get("label"), name)
    check_members(name, table.metadata.num_rows)
    if refusal := refused(table, name, list(names.values())):
        raise refusal
    names = {
        column: own for column, own in names.items() if column in _REQUIRED or _is_attribute(schema.field(own))
    }  # fmt: skip
    classes = class_names(schema, names["label"]) if "label" in names else None
    start = 0
    for batch in table.iter_batches(BATCH, columns=list(names.values())):
        texts = {
            column: _as_text_or_null(as_labels(batch[own], classes) if column == "label" else batch[own])
            for column, own in names.items()
        }
        if texts["path"].null_count:
            raise UserError(f"{name}: row {start + texts['path'].to_pylist().index(None) + 1:,}: `path` is empty.")
        start += len(batch)
        yield texts, len(batch)


def _as_text_or_null(column: pa.Array) -> pa.Array:
    text = as_text(column.dictionary_decode() if pa.types.is_dictionary(column.type) else column)
    return pc.if_else(pc.equal(text, ""), None, text)


def _text_batch(texts: dict[str, pa.Array], count: int) -> pa.RecordBatch:
    """Return `count` rows of a manifest as text; all columns but COLUMNS are attributes."""
    others = [name for name in texts if name not in COLUMNS]
    attributes = _encode(zip(*(texts[name].to_pylist() for name in others), strict=True), others) if others else None
    path = pc.replace_substring_regex(texts["path"], r"^(\./+)+", "")
    return record_batch(count, {**texts, "path": path, _ATTRIBUTES: attributes}, _TEXT)


def _check(path: UPath, table: pa.Table) -> None:
    if twice := _repeated(map(with_slashes, table["path"].to_pylist())):
        first = min(twice)
        raise UserError(f"{path}: {first!r} stands in {twice[first]} rows. Keep one.")
    for value in pc.unique(table["split"]).to_pylist():
        if value is not None and value not in _SPLITS:
            raise UserError(
                f"{path}: split {value!r} is not one of {', '.join(_SPLITS)}.{nearest(value, list(_SPLITS))}"
            )
    _check_soft_labels(path, table)


def _repeated(names: Iterable[str]) -> dict[str, int]:
    """Return the names that stand there more than once, and how often."""
    counts = pc.value_counts(pa.array(names, pa.string()))
    more = counts.filter(pc.greater(counts.field("counts"), 1))
    return dict(zip(more.field("values").to_pylist(), more.field("counts").to_pylist(), strict=True))


def _check_soft_labels(path: UPath, table: pa.Table) -> None:
    labels = pc.unique(table["label"]).drop_null().to_pylist()
    classes = {fold_label(label) for label in labels}
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
    """Return the attributes that are not empty, string [N]: a JSON object per row, null for a row without any."""
    encoded: dict[tuple[str | None, ...], str | None] = {}  # many images have the same
    texts = []
    for row in rows:
        key = tuple(row)
        if key not in encoded:
            if len(encoded) > 10_000:
                encoded.clear()
            filled = {name: value for name, value in zip(names, key, strict=True) if 0 < len(value or "") <= LONGEST}
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
    """Return the number; a comma is a decimal point, unless it may stand between thousands."""
    if re.fullmatch(r"[1-9]\d{0,2}(,\d{3})+", text):
        raise UserError(
            f"{path}: weight {text!r} may be {text.replace(',', '')} or {text.replace(',', '.')}. Write it so."
        )
    try:
        weight = float(text.replace(",", ".", 1))
    except ValueError:
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise UserError(f"{path}: weight {text!r} is not a number of 0 or more.")
    return weight
