"""Tar and zip archives as sources: one row per member, wherever the archive lies.

DuckDB decides what only the whole archive tells, and goes on in files when memory is short. The last
of members with the same path counts, as when the archive is unpacked; a hard link has the bytes of its target.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import pyarrow as pa

from resnet_core.sources import _tar, _zip
from resnet_core.sources.listing import BATCH, LISTING, batches, is_ignored, top_folder
from resnet_core.storage.compressed import open_unpacked
from resnet_core.storage.database import count, create, database, pieces
from resnet_core.storage.locations import facts, is_url, open_stream, printable

# A hard link has the path of its target, and the number of the row before which the target lies.
_MEMBERS = pa.schema([("number", pa.int64()), *LISTING, ("target", pa.string()), ("before", pa.int64())])
_Row = tuple[Any, ...]  # a row of _MEMBERS without its number

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
    select path, max(number) as last from members where not ignored group by path having count(*) > 1
)
select members.* exclude (number, target, before) replace (
    modified || mark as modified, ignored or coalesce(number < last, false) as ignored
)
from members left join repeated using (path), archive order by number
"""


def list_tar(archive: str) -> Iterator[pa.RecordBatch]:
    """Yield one row per file, in the archive's order; hard links are rows, symbolic links ignored rows.

    Where all members have the same time, it tells nothing, and the archive's own time is added.
    """
    times: set[str] = set()
    with open_unpacked(archive) as file:
        rows = _tar_rows(_tar.read_headers(file, archive), archive, times)
        yield from _settled(rows, lambda: "-" + facts(archive)["modified"] if len(times) < 2 else "")


def list_zip(archive: str) -> Iterator[pa.RecordBatch]:
    """Yield one row per file, in the order of the archive's directory."""
    with open_stream(archive) as file:
        yield from _settled(_zip_rows(_zip.read_directory(file, archive), archive), lambda: "")


def holds_files(archive: str, kind: Literal["tar", "zip"]) -> bool:
    """Return whether the archive holds any file; stop reading at the first."""
    if kind == "tar":
        with open_unpacked(archive) as file:
            return next(_tar.read_headers(file, archive), None) is not None
    with open_stream(archive) as file:
        return next(_zip.read_directory(file, archive), None) is not None


def _member_uri(protocol: str, name: str, archive: str) -> str:
    """Return the URI of an archive's member, as fsspec chains it."""
    return f"{protocol}://{name}::{archive if is_url(archive) else 'file://' + archive}"


def _tar_rows(members: Iterable[_tar.Member], archive: str, times: set[str]) -> Iterator[_Row]:
    place = printable(archive)
    links: dict[str, tuple[str, int]] = {}
    for number, member in enumerate(members):
        if len(times) < 2:
            times.add(member.modified)
        path = member_path(member.name)
        target = before = None
        if member.type == _tar.HARD_LINK and member.link:
            named = member_path(member.link)
            target, before = links[path] = links.get(named, (named, number))
        elif links:
            links.pop(path, None)
        yield (
            printable(_member_uri("tar", member.name, place)), path, member.size, f"{member.modified}-{member.offset}",
            top_folder(path), None, place, "tar" if member.sparse else "raw", member.offset, member.length,
            (member.type != b"0" and target is None) or is_ignored(path), target, before,
        )  # fmt: skip


def _zip_rows(members: Iterable[_zip.Member], archive: str) -> Iterator[_Row]:
    place = printable(archive)
    for member in members:
        path = member_path(member.name)
        yield (
            printable(_member_uri("zip", member.name, place)), path, member.size, f"{member.crc:08x}",
            top_folder(path), None, place, "zip", member.offset, member.length,
            member.symbolic_link or is_ignored(path), None, None,
        )  # fmt: skip


def member_path(name: str) -> str:
    """Return a member's name as a path below the archive; nothing is ever written to that path."""
    return printable(re.sub(r"^/+|(?<![^/])\./+", "", name)) if name[:1] in "./" or "/./" in name else printable(name)


def _settled(rows: Iterable[_Row], mark: Callable[[], str]) -> Iterator[pa.RecordBatch]:
    """Yield all rows as LISTING. `mark` is called once the last row is there, and goes behind every `modified`."""
    with database() as db:
        create(db, "members", _MEMBERS, batches(((number, *row) for number, row in enumerate(rows)), _MEMBERS))
        db.execute("create table archive as select $1 as mark", [mark()])
        if count(db, "select count(target) from members"):
            db.execute(_RESOLVE_LINKS)
        for table in pieces(db, _LISTED, BATCH):
            yield from table.cast(LISTING).combine_chunks().to_batches()
