"""What tests ask of a source. It is its rows, and the bytes of its files by both ways that lead to them."""

import zlib
from typing import Any

import pyarrow as pa

from resnet_core.sources.fetch import open_files
from resnet_core.sources.listing import LISTING
from resnet_core.sources.locate import read_bytes
from resnet_core.sources.source import list_source


def listed(source: object) -> pa.Table:
    table = pa.Table.from_batches(list_source(str(source)), LISTING)
    table.validate(full=True)
    return table.sort_by([(name, "ascending") for name in ("container", "offset", "path")])


def rows(source: object) -> list[dict[str, Any]]:
    return listed(source).to_pylist()


def paths(source: object) -> list[str]:
    return sorted(row["path"] for row in rows(source) if not row["ignored"])


def ignored(source: object) -> list[str]:
    return sorted(row["path"] for row in rows(source) if row["ignored"])


def contents(source: object) -> dict[str, bytes | str]:
    """The bytes of every file that is not ignored, or the text of the error. They come through its row, and for some
    also through its URI alone: both must be the same.
    """
    table = listed(source)
    table = table.filter([not skip for skip in table["ignored"].to_pylist()])
    found: dict[str, bytes | str] = {}
    files = zip(table["path"].to_pylist(), table["uri"].to_pylist(), open_files(table), strict=True)
    for number, (path, uri, data) in enumerate(files):
        found[path] = str(data) if isinstance(data, OSError) else data
        if isinstance(data, bytes) and (number < 5 or zlib.crc32(uri.encode()) % 20 == 0):
            assert read_bytes(uri) == data
    return found
