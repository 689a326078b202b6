"""Files known by their URI alone: a row for each, as the listing of its source has it."""

import errno
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from resnet_core.errors import UserError
from resnet_core.sources import _idx, shard_files
from resnet_core.sources._archives import list_tar, list_zip, member_path
from resnet_core.sources._image_tables import open_table
from resnet_core.sources.fetch import open_files
from resnet_core.sources.listing import LISTING, LOCATED
from resnet_core.sources.source import suffix_kind
from resnet_core.storage.locations import AT_ONCE, UNKNOWN_SIZE, Reach, absolute, facts_if_there

_MEMBER = re.compile(r"::(?=/|[A-Za-z][A-Za-z0-9+.-]*://)")
_FRAGMENT = re.compile(r"(.+)#(row|image)=(\d+)", re.DOTALL)

_Row = dict[str, Any]
_Paths = dict[str, list[str]]  # paths in an archive, each with its URIs


def read_bytes(uri: str) -> bytes:
    """Return the bytes of a file of any listing. Raises OSError.

    Lists the whole archive for a member: call `open_files` for many.
    """
    try:
        row = _row_of(uri)
    except UserError as error:
        raise OSError(str(error)) from None
    (data,) = open_files(pa.Table.from_pylist([row], LISTING))
    if isinstance(data, OSError):
        raise data
    return data


def locate(uris: Iterable[str]) -> pa.Table:
    """Return one row per URI, in order: LOCATED. Size and modified of a missing file are null.

    An archive is listed once, however many of its members are asked for.
    """
    uris = list(uris)
    members: dict[str, _Row] = {}
    for archive, paths in _group_members(uris).items():
        with suppress(OSError, UserError):  # its members are not found, and say so
            rows = _find_members(archive, paths)
            members |= {uri: row | {"uri": uri, "path": uri} for uri, row in rows.items() if not row["ignored"]}
    facts_of, is_shard = cache(facts_if_there), cache(_is_shard)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        located = pool.map(lambda uri: members.get(uri) or _located_row(uri, facts_of, is_shard), uris)
        return pa.Table.from_pylist(list(located), LOCATED)


def _located_row(uri: str, facts_of: Any, is_shard: Any) -> _Row:
    """facts_of, is_shard: remember their answers, for many rows lie in one file."""
    missing: _Row = dict.fromkeys(LOCATED.names) | {"uri": uri, "path": uri, "ignored": False}
    if _is_member(uri):
        return missing
    try:
        row = _row_of(uri)
        holder = facts_of(row["container"] or uri)
        kind = shard_files.KIND if row["kind"] == "parquet" and is_shard(row["container"]) else row["kind"]
    except (OSError, UserError, ValueError):  # whoever opens it gets the error
        return missing
    if not holder or holder["type"] != "file":
        return missing
    size = row["size"] if row["container"] else holder["size"]
    return row | {"path": uri, "size": size, "modified": holder["modified"], "kind": kind, "ignored": False}


def _row_of(uri: str) -> _Row:
    """Return the row of a listing, as far as opening the file needs it. Raises OSError, UserError."""
    if _is_member(uri):
        for archive, paths in _group_members([uri]).items():
            if rows := _find_members(archive, paths):
                return rows[uri]
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), uri)
    row: _Row = dict.fromkeys(LISTING.names) | {"uri": uri, "size": UNKNOWN_SIZE, "modified": ""}
    fragment = _FRAGMENT.fullmatch(uri)
    kind = suffix_kind(fragment[1]) if fragment else None
    if fragment and kind in ("parquet", "idx") and not _exists(uri):
        place, number = absolute(fragment[1]), int(fragment[3])
        offset, length = _idx.image_place(place, number) if kind == "idx" else (number, None)
        return row | {"container": place, "kind": kind, "offset": offset, "length": length}
    return row


def _is_member(uri: str) -> bool:
    """Return whether a URI leads into an archive."""
    return uri.startswith(("tar://", "zip://")) and _MEMBER.search(uri) is not None


def _group_members(uris: list[str]) -> dict[tuple[str, str], _Paths]:
    """Group URIs of members by protocol and archive."""
    archives: dict[tuple[str, str], _Paths] = defaultdict(lambda: defaultdict(list))
    for uri in filter(_is_member, uris):
        for archive, path in _member_places(uri):
            archives[uri[:3], archive][path].append(uri)
    return archives


def _member_places(uri: str) -> Iterator[tuple[str, str]]:
    """Yield the archive and the path in it, for archives that exist.

    The archive follows the last `::` before a place, unless its own name contains one.
    """
    for mark in reversed(list(_MEMBER.finditer(uri))):
        archive = absolute(uri[mark.end() :])
        if _exists(archive):
            yield archive, member_path(uri[len("tar://") : mark.start()])


def may_open(uri: str, reach: Reach) -> bool:
    """Return whether a table may name a URI: the file, or every archive that its member may lie in."""
    if _is_member(uri):
        return all(reach.takes(absolute(uri[mark.end() :])) for mark in _MEMBER.finditer(uri))
    return reach.takes(absolute(uri))


def _find_members(archive: tuple[str, str], paths: _Paths) -> dict[str, _Row]:
    """Return the rows of the members found, by URI; an ignored row only if no other has its path."""
    protocol, place = archive
    found: dict[str, tuple[tuple[bool, bool], _Row]] = {}
    for batch in (list_tar if protocol == "tar" else list_zip)(place):
        for row in batch.filter(pc.is_in(batch["path"], value_set=pa.array(paths, pa.string()))).to_pylist():
            for uri in paths[row["path"]]:
                fit = (not row["ignored"], row["uri"] == uri)
                if uri not in found or fit > found[uri][0]:
                    found[uri] = fit, row
    return {uri: row for uri, (_, row) in found.items()}


def _exists(place: str) -> bool:
    return facts_if_there(place) is not None


def _is_shard(place: str) -> bool:
    with open_table(place) as table:
        return shard_files.is_shard(table)
