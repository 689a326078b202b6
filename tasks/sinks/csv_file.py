"""Sink `FILE.csv` or `FILE.csv.gz`: a batch as one CSV file; lists are JSON, and no text is a formula."""

import csv
import gzip
import io
from collections.abc import Iterator
from contextlib import suppress

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.csv import CSVWriter

from resnet_core.errors import UserError
from resnet_core.storage import locations
from resnet_core.storage.delimited import AS_TEXT, FORMULA, INNER, NUMBER
from resnet_core.storage.files import to_output, to_path, write_whole
from tasks.sinks.rows import ADDED, COLUMNS, with_text

# Embeddings have hundreds of numbers, which a spreadsheet cannot use.
_HEADER = [name for name in COLUMNS.names if name != "embedding"]
_OLDEST_HEADER = [name for name in _HEADER if name not in ADDED]
ERRORS: tuple[type[Exception], ...] = (OSError, NotImplementedError)
_LONGEST_HEADER = 4096  # bytes


def check(place: str) -> None:
    """Raises UserError or OSError unless the file can be written; a file of other content is not replaced."""
    to_output(place, "--to")
    try:
        kind = locations.facts(place)["type"]
    except FileNotFoundError:  # nothing is replaced
        kind = None
    if kind == "directory":
        raise UserError(f"--to: {place} is a folder. Name a file in it.")
    if kind and [name for name in _header(place) if name not in ADDED] != _OLDEST_HEADER:
        raise UserError(f"--to: {place} does not hold scores. Choose another file.")
    _check_writable(place)


def _header(place: str) -> list[str]:
    """Return the names in the first line of a file; none if it is not CSV."""
    try:
        with locations.open_stream(place) as file:
            start = file.read(_LONGEST_HEADER)
        if place.endswith(".gz"):
            start = gzip.GzipFile(fileobj=io.BytesIO(start)).read1(_LONGEST_HEADER)
        return next(csv.reader(start.decode("utf-8", "replace").splitlines()), [])
    except (gzip.BadGzipFile, EOFError, csv.Error):
        return []


def _check_writable(place: str) -> None:
    """Raises OSError unless a file can be made beside it. The file is removed if the store allows it."""
    probe = to_path(place + ".probe")
    with write_whole(probe) as draft:
        draft.write_bytes(b"")
    with suppress(OSError):  # some stores allow no deletion
        probe.unlink()


def write(place: str, batch: str, rows: Iterator[pa.RecordBatch]) -> None:
    """Replace the file as a whole; the rows name their batch."""
    with write_whole(to_path(place)) as draft:
        raw = pa.OSFile(str(draft), "wb")
        with pa.CompressedOutputStream(raw, "gzip") if place.endswith(".gz") else raw as file:
            write_csv(file, rows)


def write_csv(file: pa.NativeFile, rows: Iterator[pa.RecordBatch]) -> None:
    schema = with_text(pa.RecordBatch.from_pylist([], COLUMNS).select(_HEADER)).schema
    with CSVWriter(file, schema) as writer:
        for piece in rows:
            texts = with_text(piece.select(_HEADER))
            writer.write_batch(pa.RecordBatch.from_arrays([*map(_as_cells, texts.columns)], names=texts.schema.names))


def _as_cells(column: pa.Array) -> pa.Array:
    """Do what `delimited.as_cell` does."""
    if not pa.types.is_string(column.type):
        return column
    formula = pc.match_substring_regex(column, f"{FORMULA}|{INNER}")
    if not pc.any(formula).as_py():
        return column
    computed = pc.and_not(pc.match_substring_regex(column, FORMULA), pc.match_substring_regex(column, NUMBER))
    cells = pc.replace_substring_regex(column, INNER, AS_TEXT)
    return pc.if_else(computed, pc.binary_join_element_wise("'", cells, ""), cells)
