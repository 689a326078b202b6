"""Files of which the URI is all that is known: a row for each, as the listing of its source has it."""

import errno
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from resnet_core.errors import UserError
from resnet_core.sources import _idx, shard_files
from resnet_core.sources._archives import list_tar, list_zip, member_path
from resnet_core.sources._image_tables import open_table
from resnet_core.sources.fetch import open_files
from resnet_core.sources.listing import LISTING
from resnet_core.sources.source import suffix_kind
from resnet_core.storage.locations import UNKNOWN_SIZE, absolute, facts

_MEMBER = re.compile(r"::(?=/|[A-Za-z][A-Za-z0-9+.-]*://)")
_FRAGMENT = re.compile(r"(.+)#(row|image)=(\d+)", re.DOTALL)


def read_bytes(uri: str) -> bytes:
    """The bytes of a file of any listing. Goes through an archive's whole list: `open_files` is for
    many. Raises OSError."""
    try:
        row = _row_of(uri)
    except UserError as error:
        raise OSError(str(error)) from None
    (data,) = open_files(pa.Table.from_pylist([row], LISTING))
    if isinstance(data, OSError):
        raise data
    return data


def _row_of(uri: str) -> dict[str, Any]:
    """The row of a listing, as far as it takes to open the file; `resnet_core.sources.locate` is for many. Raises
    OSError, UserError."""
    row: dict[str, Any] = dict.fromkeys(LISTING.names) | {"uri": uri, "size": UNKNOWN_SIZE, "modified": ""}
    if _is_member(uri):
        return _member_row(uri)
    found = _FRAGMENT.fullmatch(uri)
    kind = suffix_kind(found[1]) if found else None
    if found and kind in ("parquet", "idx") and not _exists(uri):
        place, number = absolute(found[1]), int(found[3])
        offset, length = _idx.image_place(place, number) if kind == "idx" else (number, None)
        return row | {"container": place, "kind": kind, "offset": offset, "length": length}
    return row


def _is_member(uri: str) -> bool:
    """Whether it leads into an archive."""
    return uri.startswith(("tar://", "zip://")) and _MEMBER.search(uri) is not None


def _member_places(uri: str) -> Iterator[tuple[str, str, str]]:
    """Protocol, archive and path in it, of the archives that are there. The last `::` before a place is the
    archive's, unless the archive's own name has such a thing."""
    for mark in reversed(list(_MEMBER.finditer(uri))):
        archive = absolute(uri[mark.end() :])
        if _exists(archive):
            yield uri[:3], archive, member_path(uri[len("tar://") : mark.start()])


def _member_row(uri: str) -> dict[str, Any]:
    for protocol, archive, path in _member_places(uri):
        found: dict[str, Any] = {}
        for batch in (list_tar if protocol == "tar" else list_zip)(archive):
            rows = batch.filter(pc.equal(batch["path"], path)).to_pylist()
            found = next((row for row in rows if not row["ignored"]), found or next(iter(rows), {}))
        if found:
            return found
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), uri)


def _exists(place: str) -> bool:
    try:
        facts(place)
    except OSError:
        return False
    return True


AT_ONCE = 32  # requests for the facts of files in an object store
LOCATED = pa.schema([field.with_nullable(field.nullable or field.name in ("size", "modified")) for field in LISTING])

Row = dict[str, Any]


def locate(uris: Iterable[str]) -> pa.Table:
    """A row a URI, in order: LOCATED. Of a file that is not there, size and modified are null. An archive is
    listed once, however many of its members are wanted."""
    uris = list(uris)
    found = dict(_members([uri for uri in uris if _is_member(uri)]))
    look, is_shard = cache(facts), cache(_is_shard)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        rows = pool.map(lambda uri: found.get(uri) or _row(uri, look, is_shard), uris)
        return pa.Table.from_pylist(list(rows), LOCATED)


def _row(uri: str, look: Any, is_shard: Any) -> Row:
    """look, is_shard: remember what they have said, for many rows lie in one file."""
    nothing: Row = dict.fromkeys(LOCATED.names) | {"uri": uri, "path": uri, "ignored": False}
    if _is_member(uri):
        return nothing
    try:
        row = _row_of(uri)
        holder = look(row["container"] or uri)
        kind = shard_files.KIND if row["kind"] == "parquet" and is_shard(row["container"]) else row["kind"]
    except (OSError, UserError, ValueError):
        return nothing
    if holder["type"] != "file":
        return nothing
    size = row["size"] if row["container"] else holder["size"]
    return row | {"path": uri, "size": size, "modified": holder["modified"], "kind": kind, "ignored": False}


def _is_shard(place: str) -> bool:
    with open_table(place) as table:
        return shard_files.is_shard(table)


def _members(uris: list[str]) -> Iterator[tuple[str, Row]]:
    """The rows of members of archives; those that are not found are left out."""
    wanted: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for uri in uris:
        for protocol, archive, path in _member_places(uri):
            wanted[protocol, archive][path].append(uri)
    for (protocol, archive), paths in wanted.items():
        names = pa.array(paths, pa.string())
        try:
            for batch in (list_tar if protocol == "tar" else list_zip)(archive):
                # Of members of one name the last counts, and the others are ignored ones.
                some = batch.filter(pc.and_(pc.is_in(batch["path"], value_set=names), pc.invert(batch["ignored"])))
                for row in some.to_pylist():
                    for uri in paths[row["path"]]:
                        yield uri, row | {"uri": uri, "path": uri}
        except (OSError, UserError):
            continue
