"""Parts: many files cut into pieces of work, each of which leaves one file.

The files of all parts are in one Parquet file, a row group a part. A part is therefore a name and a number: it is
sent to any thread, process or machine, and millions of files are never in memory together.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from upath import UPath

from resnet_core.credentials import Access, access_to, remember
from resnet_core.sources.listing import LISTING
from resnet_core.storage.digest import digest_of, table_digest
from resnet_core.storage.files import write_whole

MOST_IN_A_PART, MOST_BYTES = 1024, 256 * 2**20
LEAST_IN_A_PART, LEAST_OF_LARGE = 64, 8

# Enough to open a file and to notice that it has changed.
COLUMNS = ("uri", "size", "modified", "container", "kind", "offset", "length")
SCHEMA = pa.schema([LISTING.field(name) for name in COLUMNS])


@dataclass(frozen=True)
class Part:
    """`count` files for one task: row group `group` of `listing`. The task writes `path`, named by a digest.

    access: what opens the files in another process; the listing has no secrets.
    """

    path: UPath
    listing: UPath
    group: int
    count: int
    access: Access = field(default=(), repr=False)

    def files(self) -> pa.Table:
        """Return uri, size, modified, container, kind, offset, length: a row a file."""
        remember(self.access)
        with self.listing.open("rb") as file:
            return pq.ParquetFile(file, metadata=_footer(self.listing)).read_row_group(self.group)


@lru_cache(maxsize=4)
def _footer(listing: UPath) -> pq.FileMetaData:
    """Read a listing's footer once a process: 50 ms for ten thousand parts. Listings are not written again."""
    with listing.open("rb") as file:
        return pq.read_metadata(file)


def part_size(count: int, size: int = 0, most_parts: int | None = None) -> int:
    """Return the number of files of a part, for `count` files of `size` bytes on average.

    Many files make at least eight parts, so that several cores are busy. Large files make smaller parts, so that a
    part ends soon. Parts grow if there would be more than `most_parts`.
    """
    most = min(MOST_IN_A_PART, max(LEAST_OF_LARGE, MOST_BYTES // max(1, size)))
    usual = min(most, max(LEAST_IN_A_PART, -(-count // 8)))
    return max(usual, -(-count // most_parts)) if most_parts else usual


def make_parts(pieces: Iterable[pa.Table], listing: UPath, folder: UPath, key: str = "") -> tuple[Part, ...]:
    """Write the listing of `pieces`, tables with the columns of SCHEMA, and return a part for each.

    A part's name follows from its files and `key`, with which it begins: the same files make the same parts anywhere.
    """
    tables = iter(pieces)
    first = next(tables, None)
    if first is None:
        return ()
    context, prefix = ((key,), f"{key}-") if key else ((), "")
    parts: list[Part] = []
    with write_whole(listing) as draft, pq.ParquetWriter(draft, SCHEMA) as writer:
        for files in chain([first], tables):
            rows = files.select(COLUMNS).cast(SCHEMA)
            writer.write_table(rows, row_group_size=len(rows))
            name = digest_of(table_digest([rows]), *context)
            places = pc.unique(pc.coalesce(rows["container"], rows["uri"])).to_pylist()
            path = folder / f"{prefix}{name}.parquet"
            parts.append(Part(path, listing, len(parts), len(rows), access_to(places)))
    return tuple(parts)
