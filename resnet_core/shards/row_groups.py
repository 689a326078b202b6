"""Row groups: the units that a training reads in random order when its images do not fit in memory.

`row_groups` reads what must be known of all images at once. `read_levels` reads the pixels of one group; if they
are one run of bytes in the file, it does so without Parquet's decoder.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from upath import UPath

from resnet_core.shards.encryption import Keys
from resnet_core.shards.format import FACTS, Rows, Split, image_size, open_file, places_of, rows_at, unpacked
from resnet_core.storage.files import is_local

_SHORTEST_HEADER = 17  # bytes of the smallest header of a Parquet data page; encryption adds 32 or more


class RowGroup(NamedTuple):
    """A row group of a file, and its images of one split."""

    path: UPath
    number: int
    size: int  # rows of all splits
    side: int  # of its images, in pixels
    start: int | None  # offset of all levels in the file, in bytes; None if they are not one run of bytes
    rows: Rows
    first: int = 0  # number of its first image among those of all files


def row_groups(path: UPath, split: Split, classes: Sequence[str], keys: Keys | None = None) -> list[RowGroup]:
    """Return a file's row groups, with 12 bytes and the soft label of every image of the split."""
    file = open_file(path, keys)
    side, groups = image_size(file), []
    for number in range(file.num_row_groups):
        table = file.read_row_group(number, columns=FACTS)
        start, rows = _start_of_levels(file, number), rows_at(table, places_of(table, split), classes)
        groups.append(RowGroup(path, number, len(table), side, start, rows))
    return groups


def _start_of_levels(file: pq.ParquetFile, number: int) -> int | None:
    """Return the offset of the levels of a row group, or None.

    A page without compression, encryption and nulls is a header and then only the values.
    """
    place = next(k for k in range(file.metadata.num_columns) if file.schema.column(k).path == "levels")
    chunk, column = file.metadata.row_group(number).column(place), file.schema.column(place)
    header = chunk.total_compressed_size - chunk.num_values * column.length
    if chunk.compression != "UNCOMPRESSED" or chunk.has_dictionary_page or column.max_definition_level:
        return None
    return chunk.data_page_offset + header if 0 < header < 2 * _SHORTEST_HEADER else None


def read_levels(group: RowGroup, out: NDArray[np.uint8], keys: Keys | None = None) -> None:
    """Read all images of a row group, of every split, into `out`, uint8 [N, H, H]."""
    path = group.path
    if group.start is None:
        table = open_file(path, keys).read_row_group(group.number, columns=["levels"], use_threads=False)
        out[:] = unpacked(table["levels"], out.shape[1])
    elif is_local(path):
        with open(path.path, "rb") as file:
            file.seek(group.start)
            if file.readinto(out.data) < out.nbytes:
                raise EOFError(f"{path}: ends too early")
    else:
        data = path.fs.cat_file(path.path, group.start, group.start + out.nbytes)
        out[:] = np.frombuffer(data, dtype=np.uint8).reshape(out.shape)


def image_ids(group: RowGroup, places: NDArray[np.int32], keys: Keys | None = None) -> NDArray[np.object_]:
    """Return the ids, str [N], of the images in some rows of a row group."""
    table = open_file(group.path, keys).read_row_group(group.number, columns=["image_id"])
    ids: NDArray[np.object_] = table["image_id"].take(places).to_numpy()
    return ids
