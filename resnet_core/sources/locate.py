"""Files of which the URI is all that is known: a row for each, as the listing of its source has it."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from resnet_core.errors import UserError
from resnet_core.sources import shard_files as shard_source
from resnet_core.sources._archives import list_tar, list_zip
from resnet_core.sources._image_tables import open_table
from resnet_core.sources.listing import LISTING
from resnet_core.sources.source import is_member, member_places, row_of
from resnet_core.storage.locations import facts

AT_ONCE = 32  # requests for the facts of files in an object store
FOUND = pa.schema([field.with_nullable(field.nullable or field.name in ("size", "modified")) for field in LISTING])

Row = dict[str, Any]


def locate(uris: Iterable[str]) -> pa.Table:
    """A row a URI, in order: FOUND. Of a file that is not there, size and modified are null. An archive is
    listed once, however many of its members are wanted."""
    uris = list(uris)
    found = dict(_members([uri for uri in uris if is_member(uri)]))
    look, is_shard = cache(facts), cache(_is_shard)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        rows = pool.map(lambda uri: found.get(uri) or _row(uri, look, is_shard), uris)
        return pa.Table.from_pylist(list(rows), FOUND)


def _row(uri: str, look: Any, is_shard: Any) -> Row:
    """look, is_shard: remember what they have said, for many rows lie in one file."""
    nothing: Row = dict.fromkeys(FOUND.names) | {"uri": uri, "path": uri, "ignored": False}
    if is_member(uri):
        return nothing
    try:
        row = row_of(uri)
        holder = look(row["container"] or uri)
        kind = shard_source.KIND if row["kind"] == "parquet" and is_shard(row["container"]) else row["kind"]
    except (OSError, UserError, ValueError):
        return nothing
    if holder["type"] != "file":
        return nothing
    size = row["size"] if row["container"] else holder["size"]
    return row | {"path": uri, "size": size, "modified": holder["modified"], "kind": kind, "ignored": False}


def _is_shard(place: str) -> bool:
    with open_table(place) as table:
        return shard_source.is_shard(table)


def _members(uris: list[str]) -> Iterator[tuple[str, Row]]:
    """The rows of members of archives; those that are not found are left out."""
    wanted: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for uri in uris:
        for protocol, archive, path in member_places(uri):
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
