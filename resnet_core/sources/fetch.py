"""The bytes of listed files, in order, from any container."""

import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import groupby
from typing import Any

import pyarrow as pa

from resnet_core.errors import UserError
from resnet_core.policy import policy
from resnet_core.sources import _idx, _image_tables, _tar, _zip
from resnet_core.storage.compressed import is_private, unpacked
from resnet_core.storage.locations import read_ranges, read_whole

COLUMNS = ("uri", "size", "modified", "container", "kind", "offset", "length")  # of a listing, to open its files
_UNPACKED = {"raw": _tar.pieces, "tar": _tar.pieces, "idx": _idx.pieces}  # kinds whose containers may be compressed


def open_files(files: pa.Table) -> Iterator[bytes | OSError]:
    """Yield the bytes of each row, in order; an OSError in place of bytes that cannot be read.

    files: the columns COLUMNS of a listing. No byte of a container is fetched twice for neighbouring rows,
    and never more is read than the row says.
    """
    return open_rows(row for batch in files.select(COLUMNS).to_batches(1024) for row in batch.to_pylist())


def open_rows(rows: Iterable[dict[str, Any]]) -> Iterator[bytes | OSError]:
    """Do the same for rows as dictionaries."""
    for (container, kind), some in groupby(rows, key=lambda row: (row["container"], row["kind"])):
        yield from _read(container, kind, list(some))


def prepare(files: pa.Table) -> None:
    """Unpack or rewrite the rows' containers where reading needs it: minutes for a large compressed tar.

    `open_files` does it, too, but inside the time limit of an image.
    """
    pairs = files.select(["container", "kind"]).group_by(["container", "kind"]).aggregate([])
    for pair in pairs.to_pylist():
        with suppress(OSError, UserError):  # opening each of its rows gives the error
            _readable(pair["container"], pair["kind"])


def _readable(container: str, kind: str) -> str:
    if kind in _UNPACKED:
        return unpacked(container, _UNPACKED[kind])
    return _image_tables.regrouped(container) if kind == "parquet" else container


def readable(container: str, kind: str) -> str:
    """Return where another process reads a container: this process's own copy, if copies have no names."""
    if is_private():
        with suppress(OSError, UserError):  # opening each of its rows gives the error
            return _readable(container, kind)
    return container


def _read(container: str | None, kind: str | None, rows: list[dict[str, Any]]) -> Iterator[bytes | OSError]:
    if container is None:
        yield from read_whole([row["uri"] for row in rows], [row["size"] for row in rows])
        return
    try:
        place = unpacked(container, _UNPACKED[kind]) if kind in _UNPACKED else container
    except OSError as error:  # their rows say so
        yield from (error for _ in rows)
        return
    offsets = [row["offset"] for row in rows]
    match kind:
        case "raw":
            yield from _read_raw(place, rows)
        case "tar":
            yield from (_tar.read_sparse(place, offset) for offset in offsets)
        case "zip":
            yield from _read_zip(place, rows)
        case "parquet":
            yield from _image_tables.read_rows(place, offsets)
        case "idx":
            yield from _idx.read_images(place, offsets, [row["length"] for row in rows])
        case _:
            raise ValueError(f"unknown kind of container: {kind!r}")


def _read_raw(place: str, rows: list[dict[str, Any]]) -> Iterator[bytes | OSError]:
    most = policy().image_bytes
    ranges = [(row["offset"], row["offset"] + row["length"]) for row in rows]
    if max(row["length"] for row in rows) > most:
        ranges = [(start, min(end, start + most)) for start, end in ranges]
    for row, data in zip(rows, read_ranges(place, ranges), strict=True):
        short = isinstance(data, bytes) and len(data) < row["length"]
        yield _why_short(place, row, most) if short else data


def _why_short(place: str, row: dict[str, Any], most: int) -> OSError:
    if row["length"] > most:
        return OSError(f"its {row['length']:,} bytes are over the limit of {most:,}")
    if place != row["container"]:
        return OSError("lies beyond what may be unpacked of the archive")
    return OSError("the archive ends within it")


def _read_zip(container: str, rows: list[dict[str, Any]]) -> Iterator[bytes | OSError]:
    most = policy().image_bytes
    too_large = [max(row["size"], row["length"] // 2) > most for row in rows]
    ranges = [
        (row["offset"], row["offset"] + (0 if over else _zip.USUAL_PREFIX + row["length"]))
        for row, over in zip(rows, too_large, strict=True)
    ]
    for row, over, data in zip(rows, too_large, read_ranges(container, ranges), strict=True):
        try:
            if over:
                raise OSError(f"its {row['size']:,} bytes, {row['length']:,} packed, are over the limit of {most:,}")
            yield data if isinstance(data, OSError) else _unzip(container, row, data)
        except OSError as error:  # its row says so
            yield error


def _unzip(container: str, row: dict[str, Any], head: bytes) -> bytes:
    begin, length = _zip.data_begin(head), row["length"]
    packed = head[begin : begin + length]
    if len(packed) < length:  # a longer prefix than usual
        (rest,) = read_ranges(container, [(row["offset"] + begin, row["offset"] + begin + length)])
        if isinstance(rest, OSError):
            raise rest
        packed = rest
    data = _zip.unpack(head, packed, row["size"])
    if f"{zlib.crc32(data):08x}" != row["modified"]:
        raise OSError("its checksum is not the one that the archive says")
    return data
