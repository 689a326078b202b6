"""Tar and zip archives as sources: one row per member, wherever the archive lies.

DuckDB decides what only the whole archive tells, and goes on in files when memory is short. The last
of members with the same path counts, as when the archive is unpacked; a hard link has the bytes of its target.
A path is the member's name with slashes for backslashes, without drive, leading slash, `.` and `..`. Members whose
paths became one only by that are all rows.
"""

import logging
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, Literal

import pyarrow as pa
from duckdb import DuckDBPyConnection

from resnet_core.sources import _tar, _zip
from resnet_core.sources.listing import BATCH, LISTING, batches, top_folder
from resnet_core.storage.compressed import open_unpacked
from resnet_core.storage.database import count, create, database, pieces
from resnet_core.storage.ignored import is_ignored
from resnet_core.storage.locations import facts, is_url, open_stream, printable
from resnet_core.storage.names import with_slashes

log = logging.getLogger("grayline")

# `written`: the member's name, if its path says less. A hard link has the path of its target, and the number of the
# row before which the target lies.
_LINK = (("target", pa.string()), ("before", pa.int64()))
_MEMBERS = pa.schema([("number", pa.int64()), *LISTING, ("written", pa.string()), *_LINK])
_Row = tuple[Any, ...]  # a row of _MEMBERS

_RESOLVE_LINKS = """
update members set
    size = coalesce(file.size, members.size), modified = coalesce(file.modified, members.modified),
    kind = coalesce(file.kind, members.kind), "offset" = coalesce(file."offset", members."offset"),
    length = coalesce(file.length, members.length), ignored = members.ignored or file.path is null
from (
    select link.number as link, file.* exclude (number)
    from (from members where target is not null) link
    asof left join (from members where target is null) file on link.target = file.path and link.before > file.number
) file
where number = link
"""
_LISTED = """
with repeated as (
    select path, written, max(number) as last from members where not ignored
    group by path, written having count(*) > 1
)
select members.* exclude (number, written, target, before) replace (
    modified || mark as modified, ignored or coalesce(number < last, false) as ignored
)
from members left join repeated
    on members.path = repeated.path and members.written is not distinct from repeated.written, archive
order by number
"""
# Names that people take for the same: separate rows, which labels cannot tell apart.
_ALIKE = """
select count(*), min(name) from (
    select min(coalesce(written, path)) as name from members where not ignored
    group by nfc_normalize(path) having count(distinct coalesce(written, path)) > 1
)
"""


_GUESSED = {"tar": "names that are not UTF-8, read as Latin-1", "zip": "names that are not UTF-8, read as CP437"}
_MADE_SLASHES = "names with backslashes, read as folders"


class _Names:
    """The names of an archive's members; counts those read by a rule that the user should know."""

    def __init__(self, protocol: Literal["tar", "zip"], archive: str) -> None:
        self.place = printable(archive)
        self._protocol = protocol
        self._uri_end = f"::{self.place if is_url(self.place) else 'file://' + self.place}"
        self._notes: dict[str, list[Any]] = {}  # the number of names, and the first
        self._unusual = False  # two of them may be alike

    def read(self, name: str, guessed: bool) -> tuple[str, str, str | None]:
        """Return a member's URI, as fsspec chains it, its path, and its name if the path says less."""
        path, written = member_path(name), None
        if path is name and name.isascii() and not guessed:
            return f"{self._protocol}://{name}{self._uri_end}", path, None
        if "\\" in name or ".." in name or name[1:2] == ":":
            written = printable(name)
        if "\\" in name:
            self._count(_MADE_SLASHES, name)
        if guessed:
            self._count(_GUESSED[self._protocol], name)
        if not self._unusual:
            self._unusual = written is not None or not unicodedata.is_normalized("NFC", name)
        return f"{self._protocol}://{printable(name)}{self._uri_end}", path, written

    def say(self, db: DuckDBPyConnection) -> None:
        """Print a line for each rule, once in a process."""
        if self._unusual and (row := db.execute(_ALIKE).fetchall()[0])[0]:
            self._notes["names spelled in two ways, whose files all count"] = list(row)
        for what, (number, example) in self._notes.items():
            _say_once(f"{self.place}: {what}: {number:,}, such as {printable(example)!r}")

    def _count(self, what: str, name: str) -> None:
        self._notes.setdefault(what, [0, name])[0] += 1


@cache
def _say_once(text: str) -> None:
    log.warning(text)


def list_tar(archive: str) -> Iterator[pa.RecordBatch]:
    """Yield one row per file, in the archive's order; hard links are rows, symbolic links ignored rows.

    Where all members have the same time, it tells nothing, and the archive's own time is added.
    """
    times: set[str] = set()
    names = _Names("tar", archive)
    with open_unpacked(archive) as file:
        rows = _tar_rows(_tar.read_headers(file, archive), names, times)
        yield from _settled(rows, names, lambda: "-" + facts(archive)["modified"] if len(times) < 2 else "")


def list_zip(archive: str) -> Iterator[pa.RecordBatch]:
    """Yield one row per file, in the order of the archive's directory."""
    names = _Names("zip", archive)
    with open_stream(archive) as file:
        yield from _settled(_zip_rows(_zip.read_directory(file, archive), names), names, lambda: "")


def holds_files(archive: str, kind: Literal["tar", "zip"]) -> bool:
    """Return whether the archive holds any file; stop reading at the first."""
    if kind == "tar":
        with open_unpacked(archive) as file:
            return next(_tar.read_headers(file, archive), None) is not None
    with open_stream(archive) as file:
        return next(_zip.read_directory(file, archive), None) is not None


def _tar_rows(members: Iterable[_tar.Member], names: _Names, times: set[str]) -> Iterator[_Row]:
    links: dict[str, tuple[str, int]] = {}
    for number, member in enumerate(members):
        if len(times) < 2:
            times.add(member.modified)
        uri, path, written = names.read(member.name, member.guessed)
        target = before = None
        if member.type == _tar.HARD_LINK and member.link:
            named = member_path(member.link)
            target, before = links[path] = links.get(named, (named, number))
        elif links:
            links.pop(path, None)
        yield (
            number, uri, path, member.size, f"{member.modified}-{member.offset}",
            top_folder(path), None, names.place, "tar" if member.sparse else "raw", member.offset, member.length,
            (member.type != b"0" and target is None) or is_ignored(path), written, target, before,
        )  # fmt: skip


def _zip_rows(members: Iterable[_zip.Member], names: _Names) -> Iterator[_Row]:
    for number, member in enumerate(members):
        uri, path, written = names.read(member.name, member.guessed)
        yield (
            number, uri, path, member.size, f"{member.crc:08x}",
            top_folder(path), None, names.place, "zip", member.offset, member.length,
            member.symbolic_link or is_ignored(path), written, None, None,
        )  # fmt: skip


def member_path(name: str) -> str:
    """Return a member's name as a path below the archive; nothing is ever written to that path."""
    if name[:1] in "./" or "/." in name or "\\" in name or "//" in name or name[1:2] == ":":
        parts = with_slashes(name).split("/")
        if parts[0][1:] == ":" and len(parts) > 1:  # a drive
            del parts[0]
        name = "/".join(part for part in parts if part not in ("", ".", "..")) or name
    return printable(name)


def _settled(rows: Iterable[_Row], names: _Names, mark: Callable[[], str]) -> Iterator[pa.RecordBatch]:
    """Yield all rows as LISTING. `mark` is called once the last row is there, and goes behind every `modified`."""
    with database() as db:
        create(db, "members", _MEMBERS, batches(rows, _MEMBERS, names.place))
        db.execute("create table archive as select $1 as mark", [mark()])
        if count(db, "select count(target) from members"):
            db.execute(_RESOLVE_LINKS)
        names.say(db)
        for table in pieces(db, _LISTED, BATCH):
            yield from table.cast(LISTING).combine_chunks().to_batches()
