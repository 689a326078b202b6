"""Shards: Parquet files of training images, readable by anything that reads Parquet.

A row is an image.

column      type                      content
image_id    string                    SHA-256 of the image file, in hex
label       string                    a class name
split       string                    train, validation, test
weight      float                     weight in the loss
soft_label  string or null            shares of several classes (`soft_labels`)
levels      binary, H * W bytes       gray levels; this project's readers read only these
pixels      fixed_shape_tensor uint8  the same [H, W], for pandas, DuckDB, Polars

Both columns are made of one buffer. Parquet stores list elements as int32: `pixels` are read at some 60,000 images
of 64 px a second, `levels` as fast as the file. Storing both takes twice the images' size.

The schema's metadata `grayline` is JSON with the class names and the preprocessing. Equal tables become equal
bytes, unless they are encrypted.
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
from resnet_core.storage.files import DamagedFileError, is_local, whole

Split = Literal["train", "validation", "test"]

ROW_GROUP = 1024  # few enough that shuffled row groups mix well, enough that a read is one long run of bytes
METADATA_KEY = b"grayline"
FACTS = ["label", "split", "weight", "soft_label"]
_TOGETHER = 256  # images, at least, of small row groups: each night with news leaves a shard


@dataclass(frozen=True)
class Images:
    """Images with their labels and weights, row by row."""

    image_ids: NDArray[np.object_]  # str [N]
    labels: NDArray[np.int64]  # [N], places in the class names
    weights: NDArray[np.float32]  # [N]
    pixels: NDArray[np.uint8]  # [N, H, W]
    soft: SoftLabels | None = None  # None: no image has one

    def __len__(self) -> int:
        return len(self.labels)


class Rows(NamedTuple):
    """Images of one split in a row group, without pixels."""

    places: NDArray[np.int32]  # [N], in the row group
    labels: NDArray[np.int32]  # [N], places in the class names
    weights: NDArray[np.float32]  # [N]
    soft: SoftLabels | None  # None: no image has one


def _schema(size: int, metadata: dict[str, Any]) -> pa.Schema:
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
    """Return a shard's table. pixels: uint8 [N, H, H], not copied. soft_labels: texts, null where there is none."""
    pixels = np.ascontiguousarray(pixels)
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(pixels)
    soft_labels = pa.nulls(len(pixels), pa.string()) if soft_labels is None else soft_labels
    columns = [image_ids, labels, splits, weights, soft_labels, packed(pixels), tensors]
    return pa.table(columns, schema=_schema(pixels.shape[1], metadata))


def packed(pixels: NDArray[np.uint8]) -> pa.Array:
    """Return uint8 [N, H, W] as N values of H * W bytes, without a copy."""
    data = pa.py_buffer(np.ascontiguousarray(pixels))
    return pa.Array.from_buffers(pa.binary(pixels.shape[1] * pixels.shape[2]), len(pixels), [None, data])


def unpacked(column: pa.ChunkedArray, size: int) -> NDArray[np.uint8]:
    """Return the square images of `packed`, uint8 [N, size, size], read-only."""
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()  # copies even a single chunk
    length = size * size
    levels = np.frombuffer(array.buffers()[1], dtype=np.uint8, count=len(array) * length, offset=array.offset * length)
    return levels.reshape(len(array), size, size)


def write_table(table: pa.Table, sink: Any, keys: Keys | None) -> None:
    """Write the table of `make_table`, encrypted if there are keys."""
    # Neighbouring gray levels differ little. This is the fastest encoding that all readers know, at less than a byte
    # a level.
    dictionary = ["label", "split", "soft_label"]
    _write(table, sink, keys, dictionary=dictionary, encoding={"pixels.list.element": "DELTA_BINARY_PACKED"})


def write_pixels(table: pa.Table, sink: Any, keys: Keys | None) -> None:
    """Write a table whose `pixels` are packed, encrypted if there are keys."""
    _write(table, sink, keys, dictionary=[], encoding=None)


def _write(
    table: pa.Table, sink: Any, keys: Keys | None, dictionary: list[str], encoding: dict[str, str] | None
) -> None:
    facts = [name for name in table.column_names if name not in ("levels", "pixels")]
    pq.write_table(
        table.combine_chunks(),  # chunks would decide where pages end
        sink,
        row_group_size=ROW_GROUP,
        write_batch_size=ROW_GROUP,  # so that a row group's images are one page
        compression={name: "zstd" if name in facts else "none" for name in table.column_names},
        use_dictionary=dictionary,
        column_encoding=encoding,
        write_statistics=facts,
        encryption_properties=encryption_properties(keys) if keys else None,
        write_page_checksum=True,
    )


class _File(pq.ParquetFile):  # type: ignore[misc]
    """A Parquet file whose errors name it."""

    place: UPath

    def read(self, *what: Any, **how: Any) -> pa.Table:
        with whole(self.place):
            return super().read(*what, **how)

    def read_row_group(self, *what: Any, **how: Any) -> pa.Table:
        with whole(self.place):
            return super().read_row_group(*what, **how)


def open_file(path: UPath, keys: Keys | None = None) -> pq.ParquetFile:
    """Open a Parquet file, encrypted or not; a local one is mapped into memory.

    Raises UserError for an encrypted file if its key is missing, DamagedFileError for other bytes than were written.
    """
    how: dict[str, Any] = {"page_checksum_verification": True}
    if keys:
        how["decryption_properties"] = decryption_properties(keys)
    try:
        with whole(path):
            if is_local(path):
                file = _File(path.path, memory_map=True, **how)
            else:
                file = _File(path.fs.open(path.path, "rb"), pre_buffer=True, **how)
    except UserError as error:
        raise UserError(f"{path}: {error}.") from None
    except DamagedFileError:
        if keys is None and _is_encrypted(path):
            raise UserError(f"{path}: is encrypted. Set {WHERE} to the keys that it was written with.") from None
        raise
    file.place = path
    return file


def check(path: UPath, rows: int, keys: Keys | None = None) -> None:
    """Raise DamagedFileError unless a shard has so many rows, and each column that is learned from its checksum.

    Only the footer is read where the store is not a disk of this machine.
    """
    file = open_file(path, keys)
    if file.metadata.num_rows != rows:
        raise DamagedFileError(path, f"{file.metadata.num_rows:,} rows, not {rows:,}")
    for number in range(file.num_row_groups if is_local(path) else 0):
        file.read_row_group(number, columns=["image_id", *FACTS, "levels"])


def _is_encrypted(path: UPath) -> bool:
    """Return whether the file has an encrypted footer (Parquet modular encryption, section 5.3)."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - 4))
        return bool(file.read() == b"PARE")


def places_of(table: pa.Table, split: Split) -> NDArray[np.int32]:
    """Return the rows of a split in a table with `split`."""
    return np.flatnonzero(pc.equal(table["split"], split).to_numpy()).astype(np.int32)


def rows_at(table: pa.Table, places: NDArray[np.int32], classes: Sequence[str]) -> Rows:
    """Return labels, weights and soft labels of some rows of a table with FACTS.

    Raises ValueError for a label, hard or soft, that is not one of the classes.
    """
    labels = pc.index_in(table["label"], value_set=pa.array(classes, pa.string()))
    if labels.null_count:
        raise ValueError(f"a label is not one of {', '.join(classes)}")
    has_soft = "soft_label" in table.column_names  # shards written by other tools may lack it
    soft = read_column(table["soft_label"].take(places), classes) if has_soft else None
    return Rows(places, labels.to_numpy()[places], table["weight"].to_numpy()[places], soft)


def image_size(file: pq.ParquetFile) -> int:
    """Return the side of a shard's images, in pixels."""
    return math.isqrt(file.schema_arrow.field("levels").type.byte_width)


def _row_groups_at(
    files: Sequence[UPath], split: Split, keys: Keys | None, places: NDArray[np.int64] | None
) -> Iterator[tuple[pq.ParquetFile, int, NDArray[np.int32]]]:
    """Yield file, row group and rows of the images of one split; row groups without any are skipped.

    places: int64 [M], ascending numbers among the images of the split; None: all.
    """
    start = 0
    for path in files:
        file = open_file(path, keys)
        for number in range(file.num_row_groups):
            rows = places_of(file.read_row_group(number, columns=["split"]), split)
            if places is not None:
                first, last = np.searchsorted(places, (start, start + len(rows)))
                start, rows = start + len(rows), rows[places[first:last] - start]
            if len(rows):
                yield file, number, rows


def iterate(
    files: Sequence[UPath],
    split: Split,
    classes: Sequence[str],
    keys: Keys | None = None,
    places: NDArray[np.int64] | None = None,
) -> Iterator[Images]:
    """Yield the images of one split in the order of the files: row groups, small ones together.

    places: int64 [M], ascending numbers among the images of the split; None: all.
    """
    some: list[Images] = []
    for images in _row_group_images(files, split, classes, keys, places):
        some.append(images)
        if sum(map(len, some)) >= _TOGETHER:
            yield _as_one(some)
            some = []
    if some:
        yield _as_one(some)


def _as_one(parts: Sequence[Images]) -> Images:
    """Return the images of all parts. Those of pixels may be missing, in each of them."""
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *map(len, parts)]).tolist()
    soft = joined([(start, part.soft) for start, part in zip(starts, parts, strict=False)])
    columns = zip(*((part.image_ids, part.labels, part.weights, part.pixels) for part in parts), strict=True)
    ids, labels, weights, pixels = map(np.concatenate, columns)
    return Images(ids, labels, weights, pixels, soft)


def _row_group_images(
    files: Sequence[UPath], split: Split, classes: Sequence[str], keys: Keys | None, places: NDArray[np.int64] | None
) -> Iterator[Images]:
    for file, number, rows in _row_groups_at(files, split, keys, places):
        table = file.read_row_group(number, columns=["image_id", *FACTS, "levels"])
        _, labels, weights, soft = rows_at(table, rows, classes)
        image_ids = table["image_id"].to_numpy()[rows].astype(object)
        pixels = unpacked(table["levels"], image_size(file))[rows]
        yield Images(image_ids, labels.astype(np.int64), weights, pixels, soft)


def take(
    files: Sequence[UPath], split: Split, places: NDArray[np.int64], keys: Keys | None = None
) -> NDArray[np.uint8]:
    """Return pixels, uint8 [M, S, S], of the images at `places`, ascending numbers among those of the split."""
    size, count = image_size(open_file(files[0], keys)), 0
    pixels = np.empty((len(places), size, size), np.uint8)
    for file, number, rows in _row_groups_at(files, split, keys, places):
        levels = file.read_row_group(number, columns=["levels"])["levels"]
        pixels[count : count + len(rows)] = unpacked(levels, size)[rows]
        count += len(rows)
    return pixels[:count]


def take_ids(
    files: Sequence[UPath], split: Split, image_ids: Sequence[str], keys: Keys | None = None
) -> NDArray[np.uint8]:
    """Return pixels, uint8 [M, S, S], of images of one split, in the order of their ids. Raises KeyError."""
    ids = read_facts(files, ["image_id"], [split], keys)["image_id"]
    places = pc.index_in(pa.array(image_ids, pa.string()), value_set=ids.combine_chunks())
    if places.null_count:
        raise KeyError(image_ids[np.flatnonzero(places.is_null())[0]])
    ascending, order = np.unique(places.to_numpy(), return_inverse=True)
    return take(files, split, ascending, keys)[order]


def read_facts(
    files: Sequence[UPath], columns: Sequence[str], splits: Sequence[Split], keys: Keys | None = None
) -> pa.Table:
    """Return columns, other than pixels, of all images of some splits, in the order of the files."""
    table = pa.concat_tables([open_file(path, keys).read(columns=[*columns, "split"]) for path in files])
    return table.filter(pc.is_in(table["split"], value_set=pa.array(splits))).select(list(columns))


def read(files: Sequence[UPath], split: Split, classes: Sequence[str], keys: Keys | None = None) -> Images:
    """Return all images of one split, in the order of the files."""
    size = image_size(open_file(files[0], keys))
    most = sum(open_file(path, keys).metadata.num_rows for path in files)
    pixels = np.empty((most, size, size), dtype=np.uint8)  # unused rows take no memory
    parts, count = [], 0
    for images in iterate(files, split, classes, keys):
        pixels[count : count + len(images)] = images.pixels
        count += len(images)
        parts.append(replace(images, pixels=pixels[:0]))  # frees the copy
    if not parts:
        return Images(np.empty(0, object), np.empty(0, np.int64), np.empty(0, np.float32), pixels[:0])
    return replace(_as_one(parts), pixels=pixels[:count])


def pixel_moments(files: Sequence[UPath], classes: Sequence[str], keys: Keys | None = None) -> tuple[float, float]:
    """Return mean and standard deviation of the training pixels, in gray levels / 255."""
    count = total = squares = 0
    for images in iterate(files, "train", classes, keys):
        count += images.pixels.size
        total += int(images.pixels.sum(dtype=np.uint64))
        squares += int(np.square(images.pixels, dtype=np.uint16).sum(dtype=np.uint64))
    variance = squares / count - (total / count) ** 2
    return total / count / 255, max(variance**0.5, 1) / 255
