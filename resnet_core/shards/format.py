"""Shards: Parquet files of training images, readable by anything that reads Parquet.

A row is one image: `image_id`, `label`, `split`, `weight`, `soft_label` (or null), and its gray values,
which are there twice:

- `levels`, H*W bytes in one value: for our own readers, which never read `pixels`;
- `pixels`, Arrow's canonical `fixed_shape_tensor` of uint8 [H, W]: for pandas, DuckDB, Polars.

Parquet has no bytes as elements of lists: each becomes an int32, and comes back at some 60,000 images of
64 px a second, in any encoding. Values of a fixed length lie in the file as they are. That costs the disk
twice an image's size. Both columns are made of the same buffer and so cannot differ.

The file's schema metadata holds, under `grayline`, the class names and the preprocessing that made the
pixels. The same table makes the same bytes, unless it is encrypted.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from upath import UPath

from resnet_core.errors import UserError
from resnet_core.images.preprocessing import Preprocessing
from resnet_core.shards.encryption import WHERE, Keys, decryption_properties, encryption_properties
from resnet_core.shards.soft_labels import SoftLabels, joined, read_column
from resnet_core.storage.files import is_local

Split = Literal["train", "validation", "test"]

# Small enough that shuffled row groups mix well, large enough that a read is one long run of bytes.
ROW_GROUP = 1024
METADATA_KEY = b"grayline"
FACTS = ["label", "split", "weight", "soft_label"]
# Bytes of the smallest header that a Parquet data page can have; encryption adds 32 and more to each.
_SHORTEST_HEADER = 17


@dataclass(frozen=True)
class Images:
    """Some images and what is known of them, row by row."""

    image_ids: NDArray[np.object_]  # str [N]
    labels: NDArray[np.int64]  # [N], places in the class names
    weights: NDArray[np.float32]  # [N]
    pixels: NDArray[np.uint8]  # [N, H, W]
    soft: SoftLabels | None = None  # None: no image has one

    def __len__(self) -> int:
        return len(self.labels)


class Rows(NamedTuple):
    """The rows of one split among those of a row group, and what is known of them."""

    places: NDArray[np.int32]  # [N], in the row group
    labels: NDArray[np.int32]  # [N], places in the class names
    weights: NDArray[np.float32]  # [N]
    soft: SoftLabels | None  # None: no image has one


class RowGroup(NamedTuple):
    """Where some images lie, and which of them are wanted."""

    path: UPath
    number: int
    size: int  # rows, of whatever split
    side: int  # of its images, in pixels
    start: int | None  # where in the file their levels begin, one after the other; None where they do not
    rows: Rows
    first: int = 0  # the place of the first of them among those of all files


def schema(size: int, metadata: dict[str, Any]) -> pa.Schema:
    """The columns of a shard of `size` x `size` images."""
    return pa.schema(
        [
            pa.field("image_id", pa.string(), nullable=False),
            pa.field("label", pa.string(), nullable=False),
            pa.field("split", pa.string(), nullable=False),
            pa.field("weight", pa.float32(), nullable=False),
            pa.field("soft_label", pa.string()),
            pa.field("levels", pa.binary(size * size), nullable=False),
            pa.field("pixels", pa.fixed_shape_tensor(pa.uint8(), [size, size]), nullable=False),
        ],
        metadata={METADATA_KEY: json.dumps(metadata, sort_keys=True)},
    )


def metadata(classes: Sequence[str], preprocessing: Preprocessing) -> dict[str, Any]:
    return {"classes": list(classes), "preprocessing": asdict(preprocessing)}


def make_table(
    image_ids: pa.ChunkedArray | pa.Array,
    labels: pa.ChunkedArray | pa.Array,
    splits: pa.ChunkedArray | pa.Array,
    weights: pa.ChunkedArray | pa.Array,
    pixels: NDArray[np.uint8],
    metadata: dict[str, Any],
    soft_labels: pa.ChunkedArray | pa.Array | None = None,
) -> pa.Table:
    """A shard's rows. pixels: uint8 [N, H, H]; they are not copied. soft_labels: texts, null where an image
    has none."""
    pixels = np.ascontiguousarray(pixels)
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(pixels)
    soft_labels = pa.nulls(len(pixels), pa.string()) if soft_labels is None else soft_labels
    columns = [image_ids, labels, splits, weights, soft_labels, packed(pixels), tensors]
    return pa.table(columns, schema=schema(pixels.shape[1], metadata))


def packed(pixels: NDArray[np.uint8]) -> pa.Array:
    """uint8 [N, H, W] -> N values of H*W bytes, without a copy."""
    data = pa.py_buffer(np.ascontiguousarray(pixels))
    return pa.Array.from_buffers(pa.binary(pixels.shape[1] * pixels.shape[2]), len(pixels), [None, data])


def unpacked(column: pa.ChunkedArray, size: int) -> NDArray[np.uint8]:
    """What `packed` made of square images -> uint8 [N, size, size], not to be written to."""
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()  # which copies even one
    length = size * size
    levels = np.frombuffer(array.buffers()[1], dtype=np.uint8, count=len(array) * length, offset=array.offset * length)
    return levels.reshape(len(array), size, size)


def write_table(table: pa.Table, sink: Any, keys: Keys | None) -> None:
    """Write what `make_table` made; in the clear where `keys` is None."""
    # Gray levels next to each other differ by little: of all encodings that everybody reads, this one
    # writes fastest, and takes less than a byte a level.
    dictionary = ["label", "split", "soft_label"]
    _write(table, sink, keys, dictionary=dictionary, encoding={"pixels.list.element": "DELTA_BINARY_PACKED"})


def write_pixels(table: pa.Table, sink: Any, keys: Keys | None) -> None:
    """Write any table whose `pixels` are packed; in the clear where `keys` is None."""
    _write(table, sink, keys, dictionary=[], encoding=None)


def _write(
    table: pa.Table, sink: Any, keys: Keys | None, dictionary: list[str], encoding: dict[str, str] | None
) -> None:
    facts = [name for name in table.column_names if name not in ("levels", "pixels")]
    pq.write_table(
        table.combine_chunks(),  # how a table was put together decides where pages end
        sink,
        row_group_size=ROW_GROUP,
        write_batch_size=ROW_GROUP,  # so that a row group's images are one page
        compression={name: "zstd" if name in facts else "none" for name in table.column_names},
        use_dictionary=dictionary,
        column_encoding=encoding,
        write_statistics=facts,
        encryption_properties=encryption_properties(keys) if keys else None,
    )


def open_file(path: UPath, keys: Keys | None = None) -> pq.ParquetFile:
    """Local files are mapped into memory; others are read through fsspec. Keys open encrypted files, and
    those in the clear as well. Raises UserError for an encrypted file without the key to it."""
    properties = decryption_properties(keys) if keys else None
    try:
        if is_local(path):
            return pq.ParquetFile(path.path, memory_map=True, decryption_properties=properties)
        return pq.ParquetFile(path.fs.open(path.path, "rb"), pre_buffer=True, decryption_properties=properties)
    except UserError as error:
        raise UserError(f"{path}: {error}.") from None
    except OSError:
        if keys is None and _is_encrypted(path):
            raise UserError(f"{path}: is encrypted. Set {WHERE} to the keys it was written with.") from None
        raise


def _is_encrypted(path: UPath) -> bool:
    """Whether its last bytes are those of an encrypted footer (Parquet modular encryption, section 5.3)."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - 4))
        return bool(file.read() == b"PARE")


def row_groups(path: UPath, split: Split, classes: Sequence[str], keys: Keys | None = None) -> list[RowGroup]:
    """What a stream of one split has to know of a file: 12 bytes an image, and what its soft label says.
    `read_levels` does the rest."""
    file = open_file(path, keys)
    side, found = image_size(file), []
    for number in range(file.num_row_groups):
        table = file.read_row_group(number, columns=FACTS)
        start, rows = _start_of_levels(file, number), rows_of(table, split, classes)
        found.append(RowGroup(path, number, len(table), side, start, rows))
    return found


def _start_of_levels(file: pq.ParquetFile, number: int) -> int | None:
    """Where the levels of a row group begin, if they are one page that was neither compressed nor
    encrypted: a header, and then nothing but the values, for the column has no nulls."""
    place = next(k for k in range(file.metadata.num_columns) if file.schema.column(k).path == "levels")
    chunk, column = file.metadata.row_group(number).column(place), file.schema.column(place)
    header = chunk.total_compressed_size - chunk.num_values * column.length
    if chunk.compression != "UNCOMPRESSED" or chunk.has_dictionary_page or column.max_definition_level:
        return None
    return chunk.data_page_offset + header if 0 < header < 2 * _SHORTEST_HEADER else None


def read_levels(group: RowGroup, out: NDArray[np.uint8], keys: Keys | None = None) -> None:
    """Read all images of a row group, whatever their split, into `out`, uint8 [N, H, H]."""
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
    """The ids, str [N], of the images at some places of a row group."""
    table = open_file(group.path, keys).read_row_group(group.number, columns=["image_id"])
    found: NDArray[np.object_] = table["image_id"].take(places).to_numpy()
    return found


def rows_of(table: pa.Table, split: Split, classes: Sequence[str]) -> Rows:
    """Raises ValueError for a label, hard or soft, that is not among the classes."""
    places = np.flatnonzero(pc.equal(table["split"], split).to_numpy()).astype(np.int32)
    labels = pc.index_in(table["label"], value_set=pa.array(classes, pa.string()))
    if labels.null_count:
        raise ValueError(f"a label is not one of {', '.join(classes)}")
    has_soft = "soft_label" in table.column_names  # a shard of another make need not
    soft = read_column(table["soft_label"].take(places), classes) if has_soft else None
    return Rows(places, labels.to_numpy()[places], table["weight"].to_numpy()[places], soft)


def image_size(file: pq.ParquetFile) -> int:
    """The side of a shard's images, in pixels."""
    return math.isqrt(file.schema_arrow.field("levels").type.byte_width)


def iterate(files: Sequence[UPath], split: Split, classes: Sequence[str], keys: Keys | None = None) -> Iterator[Images]:
    """The images of one split, a row group at a time, in the order of the files."""
    for path in files:
        file = open_file(path, keys)
        size = image_size(file)
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["image_id", *FACTS, "levels"])
            places, labels, weights, soft = rows_of(table, split, classes)
            if len(places):
                image_ids = table["image_id"].to_numpy()[places].astype(object)
                levels = unpacked(table["levels"], size)[places]
                yield Images(image_ids, labels.astype(np.int64), weights, levels, soft)


def read(files: Sequence[UPath], split: Split, classes: Sequence[str], keys: Keys | None = None) -> Images:
    """Every image of one split, in the order of the files."""
    size = image_size(open_file(files[0], keys))
    most = sum(open_file(path, keys).metadata.num_rows for path in files)
    pixels = np.empty((most, size, size), dtype=np.uint8)  # what is not written to takes no memory
    parts, soft, count = [], [], 0
    for images in iterate(files, split, classes, keys):
        pixels[count : count + len(images)] = images.pixels
        soft.append((count, images.soft))
        count += len(images)
        parts.append(replace(images, pixels=pixels[:0]))  # whose own would be as much again
    if not parts:
        return Images(np.empty(0, object), np.empty(0, np.int64), np.empty(0, np.float32), pixels[:0])
    return Images(
        np.concatenate([part.image_ids for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.weights for part in parts]),
        pixels[:count],
        joined(soft),
    )


def pixel_moments(files: Sequence[UPath], classes: Sequence[str], keys: Keys | None = None) -> tuple[float, float]:
    """Mean and standard deviation of the training pixels, in gray levels divided by 255."""
    count = total = squares = 0
    for images in iterate(files, "train", classes, keys):
        count += images.pixels.size
        total += int(images.pixels.sum(dtype=np.uint64))
        squares += int(np.square(images.pixels, dtype=np.uint16).sum(dtype=np.uint64))
    variance = squares / count - (total / count) ** 2
    return total / count / 255, max(variance**0.5, 1) / 255
