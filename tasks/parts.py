"""Parts: how many files are cut into pieces of work that each leave one file behind.

The files of all parts stand in one Parquet file, a row group a part: a part is a name and a number,
which go to any thread, process or machine, and a million files are never in memory at once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from resnet_core.sources.listing import LISTING
from resnet_core.storage.digest import digest_of, table_digest
from resnet_core.storage.files import write_whole

MOST_IN_A_PART, MOST_BYTES = 1024, 256 * 2**20
LEAST_IN_A_PART, LEAST_OF_LARGE = 64, 8

# What it takes to open a file, and to notice that it is another one than before.
COLUMNS = ("uri", "size", "modified", "container", "kind", "offset", "length")
SCHEMA = pa.schema([LISTING.field(name) for name in COLUMNS])


@dataclass(frozen=True)
class Part:
    """`count` source files that one task works on: row group `group` of `listing`. `path` is what the
    work leaves; its name is the digest of what goes in."""

    path: UPath
    listing: UPath
    group: int
    count: int

    def files(self) -> pa.Table:
        """uri, size, modified, container, kind, offset, length: a row a file."""
        with self.listing.open("rb") as file:
            return pq.ParquetFile(file, metadata=_footer(self.listing)).read_row_group(self.group)


@lru_cache(maxsize=4)
def _footer(listing: UPath) -> pq.FileMetaData:
    """Of ten thousand parts it takes 50 ms to read; a process does it once. A listing is never written again."""
    with listing.open("rb") as file:
        return pq.read_metadata(file)


def part_size(count: int, size: int = 0, most_parts: int | None = None) -> int:
    """Eight parts or more where there are enough files to keep some cores busy; smaller ones where a file has many
    bytes, `size` on average, so that a part is no long wait; larger ones where there would be over `most_parts`."""
    most = min(MOST_IN_A_PART, max(LEAST_OF_LARGE, MOST_BYTES // max(1, size)))
    usual = min(most, max(LEAST_IN_A_PART, -(-count // 8)))
    return max(usual, -(-count // most_parts)) if most_parts else usual


def make_parts(
    pieces: Callable[[int], Iterator[pa.Table]],
    count: int,
    listing: UPath,
    folder: UPath,
    *context: Any,
    prefix: str = "",
    size: int = 0,
    most_parts: int | None = None,
) -> tuple[Part, ...]:
    """Cut files into parts and write their listing. The cut depends on the files and their order
    alone: the same files make the same parts on any machine.

    pieces: gives the files (the columns of SCHEMA) as tables of that many rows.
    context: what else decides the outcome, and so goes into the names, which begin with `prefix`.
    """
    if not count:
        return ()
    parts = []
    with write_whole(listing) as draft, pq.ParquetWriter(draft, SCHEMA) as writer:
        for group, files in enumerate(pieces(part_size(count, size, most_parts))):
            files = files.select(COLUMNS).cast(SCHEMA)
            writer.write_table(files, row_group_size=len(files))
            name = digest_of(table_digest([files]), *context)
            parts.append(Part(folder / f"{prefix}{name}.parquet", listing, group, len(files)))
    return tuple(parts)
