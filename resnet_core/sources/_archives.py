"""Tar and zip archives as sources: a row a member, wherever the archive lies."""

import re
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from resnet_core.sources import _tar, _zip
from resnet_core.sources.listing import LISTING, batches, is_ignored, top_folder
from resnet_core.storage.compressed import open_unpacked
from resnet_core.storage.locations import facts, is_url, open_stream, printable

# While an archive is read: also the path of the member whose bytes a hard link means.
_SPILLED = pa.schema([*LISTING, ("target", pa.string())])
_SpilledRow = tuple[Any, ...]  # a row of LISTING, and the target


def list_tar(archive: str) -> Iterator[pa.RecordBatch]:
    """A row a file, in the archive's order; hard links are rows, symbolic links ignored ones. Where
    all members bear the same time, it says nothing, and the archive's own is added to it."""
    times: set[str] = set()
    with open_unpacked(archive) as file:
        yield from _settled(_tar_rows(_tar.read_headers(file, archive), archive, times), lambda: _mark(archive, times))


def list_zip(archive: str) -> Iterator[pa.RecordBatch]:
    """A row a file, in the order of the archive's directory."""
    with open_stream(archive) as file:
        yield from _settled(_zip_rows(_zip.read_directory(file, archive), archive), lambda: "")


def holds_files(archive: str, kind: Literal["tar", "zip"]) -> bool:
    """Whether there is any file in it; reads no further than the first."""
    if kind == "tar":
        with open_unpacked(archive) as file:
            return next(_tar.read_headers(file, archive), None) is not None
    with open_stream(archive) as file:
        return next(_zip.read_directory(file, archive), None) is not None


def _member_uri(protocol: str, name: str, archive: str) -> str:
    """As fsspec writes the file `name` in an archive."""
    return f"{protocol}://{name}::{archive if is_url(archive) else 'file://' + archive}"


def _tar_rows(members: Iterable[_tar.Member], archive: str, times: set[str]) -> Iterator[_SpilledRow]:
    place = printable(archive)
    for member in members:
        if len(times) < 2:
            times.add(member.modified)
        path = member_path(member.name)
        link = member.type != b"0"
        target = member_path(member.link) if member.type == _tar.HARD_LINK and member.link else None
        yield (
            printable(_member_uri("tar", member.name, place)), path, member.size, f"{member.modified}-{member.offset}",
            top_folder(path), None, place, "tar" if member.sparse else "raw", member.offset, member.length,
            (link and target is None) or is_ignored(path), target,
        )  # fmt: skip


def _zip_rows(members: Iterable[_zip.Member], archive: str) -> Iterator[_SpilledRow]:
    place = printable(archive)
    for member in members:
        path = member_path(member.name)
        yield (
            printable(_member_uri("zip", member.name, place)), path, member.size, f"{member.crc:08x}",
            top_folder(path), None, place, "zip", member.offset, member.length,
            member.symbolic_link or is_ignored(path), None,
        )  # fmt: skip


def member_path(name: str) -> str:
    """A member's name as a path below the archive; a name only, nothing is ever written to it."""
    return printable(re.sub(r"^/+|(?<![^/])\./+", "", name)) if name[:1] in "./" or "/./" in name else printable(name)


def _mark(archive: str, times: set[str]) -> str:
    return "-" + facts(archive)["modified"] if len(times) < 2 else ""


def _settled(rows: Iterable[_SpilledRow], mark: Callable[[], str]) -> Iterator[pa.RecordBatch]:
    """The rows with what only the whole archive tells: of members of the same name the last counts, as
    when it is unpacked, and the others are ignored; hard links get the bytes that they mean. Meanwhile
    the rows lie in a file. mark: called at the end, goes behind every `modified`."""
    names = array("q")
    targets: set[str] = set()
    with tempfile.TemporaryFile(prefix="grayline-") as spill:
        with pa.ipc.new_stream(spill, _SPILLED, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
            for batch in batches(_noted(rows, names, targets), _SPILLED):
                writer.write_batch(batch)
        ending = mark()
        hashes, counts = np.unique(np.frombuffer(names, dtype=np.int64), return_counts=True)
        twice = set(hashes[counts > 1].tolist())
        spill.seek(0)
        last = _last_of(pa.ipc.open_stream(spill), twice) if twice else {}
        spill.seek(0)
        known: dict[str, dict[str, Any]] = {}
        seen = 0
        for batch in pa.ipc.open_stream(spill):
            count = len(batch)
            if last or targets:
                batch = _corrected(batch, seen, last, targets, known)
            seen += count
            yield _marked(batch.select(LISTING.names), ending).cast(LISTING)


def _noted(rows: Iterable[_SpilledRow], names: "array[int]", targets: set[str]) -> Iterator[_SpilledRow]:
    for row in rows:
        _, path, *_, ignored, target = row
        # One that is ignored anyway takes nobody's place.
        names.append(hash(path) if not ignored else hash((path, len(names))))
        if target is not None:
            targets.add(target)
        yield row


def _last_of(stream: pa.RecordBatchReader, hashes: set[int]) -> dict[str, int]:
    """For names with these hashes: the last row of each."""
    last: dict[str, int] = {}
    seen = 0
    for batch in stream:
        for row, (path, ignored) in enumerate(
            zip(batch["path"].to_pylist(), batch["ignored"].to_pylist(), strict=True)
        ):
            if not ignored and hash(path) in hashes:
                last[path] = seen + row
        seen += len(batch)
    return last


def _corrected(
    batch: pa.RecordBatch, seen: int, last: dict[str, int], targets: set[str], known: dict[str, dict[str, Any]]
) -> pa.RecordBatch:
    """seen: rows before the batch. known: where the bytes lie that hard links mean, as far as seen."""
    rows = batch.to_pylist()
    for number, row in enumerate(rows, seen):
        if row["target"] is not None:
            row.update(known.get(row["target"], {"ignored": True}))
        if row["path"] in targets and not (row["target"] is None and row["kind"] is None):
            known[row["path"]] = {name: row[name] for name in ("size", "modified", "kind", "offset", "length")}
        if last.get(row["path"], number) != number:
            row["ignored"] = True
    return pa.RecordBatch.from_pylist(rows, _SPILLED)


def _marked(batch: pa.RecordBatch, ending: str) -> pa.RecordBatch:
    if not ending:
        return batch
    place = batch.schema.get_field_index("modified")
    marked = pc.binary_join_element_wise(batch["modified"], ending, "")
    return batch.set_column(place, LISTING.field("modified"), marked)
