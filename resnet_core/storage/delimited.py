"""Delimited text: CSV and its relatives, as spreadsheets and programs of any country write them.

Encoding: the byte order mark says it; else UTF-8, if all bytes are; else cp1252, and a line says so.
Separator: the first of `,` `;` tab `|` with which the first line has a wanted column; `sep=;` above it decides.
Cells are text of any length, lines may end in any way, and empty lines are left out.
"""

import codecs
import csv
import io
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

from resnet_core.errors import UserError, nearest

log = logging.getLogger("grayline")

_SEPARATORS = ",;\t|"
_HEAD = 64 * 1024  # bytes that are looked at to tell encodings, characters to find the header
_LONGEST = 64 * 1024**2  # characters of a cell, bytes of a line
_SHOWN = 40  # columns in a message, and characters of each
_ABOVE = re.compile(r'[\r\n]*("?sep=(.)"?[ \t]*[\r\n]+)?')  # empty lines, and Excel's own
# UTF-32 before UTF-16, whose mark it begins with.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
_NO_TEXT = {
    b"PK\3\4": "an Excel workbook or a zip", b"\xd0\xcf\x11\xe0": "an Excel workbook", b"PAR1": "Parquet",
    b"\x1f\x8b": "compressed by gzip", b"%PDF": "a PDF",
}  # fmt: skip

# A text that spreadsheets compute, also in wide letters of Chinese and Japanese; a number alone. All fit RE2.
FORMULA, NUMBER = "^'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]", r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
# The same within a text, where a spreadsheet of other separators begins a cell, and how it becomes text.
INNER, AS_TEXT = "([;|\t\r\n][\" ]*)('*[=+\\-@\uff1d\uff0b\uff0d\uff20])", r"\1'\2"
_ESCAPED = re.compile(INNER.replace("('*", "'('*"))


def read_delimited(
    file: IO[bytes], name: str, wanted: Sequence[str], required: Sequence[str], *, bare: bool = False
) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Return the columns, and an iterator of the number and the cells of each line that is not empty.

    wanted: columns that are recognised in any case. required: those of which one tells the separator. Cells that a
    short line lacks are empty. bare: without a header, every line is a cell of the first of them. Raises UserError,
    with the line, for what is not such a table.
    """
    _check_lines(file, name)
    encoding = _find_encoding(file, name)
    with _open(file, encoding) as text:
        head = text.read(_HEAD)
    above = _ABOVE.match(head)
    assert above
    headers = {
        separator: [normalised(column, wanted) for column in _header(head[above.end() :], separator)]
        for separator in above[2] or _SEPARATORS
    }
    fits = [separator for separator, header in headers.items() if not set(required).isdisjoint(header)]
    separator = fits[0] if fits else max(headers, key=lambda separator: len(headers[separator]))
    if bare and not fits:
        return [required[0]], _lines(file, encoding)
    columns = headers[separator]
    if not fits:
        check_columns(columns, required[0], name)
    return columns, _rows(file, encoding, separator, above[0], name)


def check_columns(columns: Sequence[str], required: str, name: str) -> None:
    """Raise UserError if the required column is missing, or two have the same name."""
    if required not in columns:
        hint = nearest(required, list(columns))
        shown = [column if len(column) <= _SHOWN else f"{column[:_SHOWN]}..." for column in columns[:_SHOWN]]
        raise UserError(f"{name}: has no column {required!r}.{hint} Its columns: {', '.join(shown)}. Name one so.")
    for column in columns:
        if column and columns.count(column) > 1:
            raise UserError(f"{name}: two columns are named {column!r}. Rename or remove one.")


def normalised(column: str, wanted: Sequence[str]) -> str:
    """Return a column's name without blanks around it; a wanted one as it is wanted, in whatever case it is."""
    column = column.strip()
    return column.lower() if column.lower() in wanted else column


def as_cell(text: str) -> str:
    """Return a text as a spreadsheet takes it for text: with an apostrophe before what it would compute.

    A spreadsheet that cuts lines at semicolons or tabs would compute what follows one.
    """
    cell = re.sub(INNER, AS_TEXT, text)
    return f"'{cell}" if re.match(FORMULA, text) and not re.fullmatch(NUMBER, text) else cell


def _from_cell(text: str) -> str:
    """Return the text that `as_cell` was given."""
    if "'" not in text:
        return text
    plain = _ESCAPED.sub(r"\1\2", text)
    return next((each for each in (plain[1:], plain) if as_cell(each) == text), text)


@contextmanager
def _open(file: IO[bytes], encoding: str, newline: str | None = "") -> Iterator[io.TextIOWrapper]:
    """Open the file as text, from its begin; leave it open afterwards."""
    file.seek(0)
    text = io.TextIOWrapper(file, encoding, newline=newline)
    try:
        yield text
    finally:
        if not file.closed:
            text.detach()


def _reader(text: IO[str], separator: str) -> Any:
    csv.field_size_limit(_LONGEST)  # masks and JSON in a column that nobody needs
    return csv.reader(text, delimiter=separator, skipinitialspace=separator != "\t", strict=True)


def _header(text: str, separator: str) -> list[str]:
    try:
        return next(_reader(io.StringIO(text, newline=""), separator), [])
    except csv.Error:  # of another separator
        return []


def _lines(file: IO[bytes], encoding: str) -> Iterator[tuple[int, list[str]]]:
    with _open(file, encoding, newline=None) as text:
        for number, line in enumerate(text, 1):
            if line.strip():
                yield number, [line.rstrip("\n")]


def _rows(file: IO[bytes], encoding: str, separator: str, above: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows below the header. above: the text before it."""
    with _open(file, encoding) as text:
        text.read(len(above))
        rows = _reader(text, separator)
        width, lines = len(next(rows)), above.count("\n")
        begin = rows.line_num
        try:
            for row in rows:
                if any(row[width:]):
                    line = lines + rows.line_num
                    raise UserError(f"{name}: line {line} has {len(row)} fields, the header {width}. Correct it.")
                if any(row):
                    yield lines + rows.line_num, list(map(_from_cell, row)) + [""] * (width - len(row))
                begin = rows.line_num
        except csv.Error as error:
            what = "a quotation mark is not closed" if "end of data" in str(error) else str(error)
            raise UserError(f"{name}: line {lines + begin + 1}: {what}. Correct it, or save the table anew.") from None


def _check_lines(file: IO[bytes], name: str) -> None:
    """Raise UserError for a line that would fill the memory."""
    file.seek(0)
    length = 0
    while piece := file.read(1024**2):
        end = max(piece.rfind(b"\n"), piece.rfind(b"\r"))
        length = length + len(piece) if end < 0 else len(piece) - end
        if length > _LONGEST:
            raise UserError(f"{name}: a line has more than {_LONGEST:,} bytes. Correct it, or save the table anew.")


def _find_encoding(file: IO[bytes], name: str) -> str:
    file.seek(0)
    head = file.read(_HEAD)
    for begin, what in _NO_TEXT.items():
        if head.startswith(begin):
            raise UserError(f"{name}: is {what}, not text. Save it as CSV in UTF-8.")
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding
    if b"\0" in head:
        return _find_wide(head, name)
    line = _find_fault(file, head, "utf-8")
    if line is None:
        return "utf-8"
    if _find_fault(file, head, "cp1252") is not None:
        raise UserError(f"{name}: line {line} is neither UTF-8 nor cp1252. Save it as UTF-8.")
    log.warning("%s: not UTF-8 (line %s); read as cp1252. Save it as UTF-8 if its letters are wrong", name, f"{line:,}")
    return "cp1252"


def _find_wide(head: bytes, name: str) -> str:
    """Return which UTF-16 it is, without a mark: of Latin letters every other byte is 0."""
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if max(even, odd) > len(head) / 4 and min(even, odd) < len(head) / 40:
        return "utf-16-be" if even > odd else "utf-16-le"
    raise UserError(f"{name}: holds bytes of 0, which text does not. Save it as CSV in UTF-8.")


def _find_fault(file: IO[bytes], head: bytes, encoding: str) -> int | None:
    """Return the line of the first byte that the encoding does not know, or None."""
    file.seek(len(head))
    decoder = codecs.getincrementaldecoder(encoding)()
    line, piece = 1, head
    while True:
        try:
            decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            return line + piece[: error.start].count(b"\n")
        if not piece:
            return None
        line += piece.count(b"\n")
        piece = file.read(1024**2)
