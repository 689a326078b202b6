"""Shards: Parquet files of training images, readable by anything that reads Parquet.

A row is one image: `image_id`, `label`, `split`, `weight`, and `pixels` as Arrow's canonical
`fixed_shape_tensor` of uint8 [H, W]. The file's schema metadata holds, under `grayline`, the class
names and the preprocessing that made the pixels.

Parquet has no bytes of its own as list elements: it would store each gray level in four. A dictionary
of the 256 levels brings them back to one.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from upath import UPath

from resnet_core.preprocessing import Preprocessing

Split = Literal["train", "validation", "test"]

# Small enough that shuffled row groups mix well, large enough that a read is one long run of bytes.
ROW_GROUP = 1024
METADATA_KEY = b"grayline"


@dataclass(frozen=True)
class Images:
    """Some images and what is known of them, row by row."""

    image_ids: NDArray[np.object_]  # str [N]
    labels: NDArray[np.int64]  # [N], places in the class names
    weights: NDArray[np.float32]  # [N]
    pixels: NDArray[np.uint8]  # [N, H, W]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: NDArray[Any] | slice) -> "Images":
        return Images(self.image_ids[rows], self.labels[rows], self.weights[rows], self.pixels[rows])


class RowGroup(NamedTuple):
    path: UPath
    group: int


def concatenate(parts: Sequence[Images]) -> Images:
    return Images(
        np.concatenate([part.image_ids for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.weights for part in parts]),
        np.concatenate([part.pixels for part in parts]),
    )


def schema(size: int, metadata: dict[str, Any]) -> pa.Schema:
    """The columns of a shard of `size` x `size` images."""
    return pa.schema(
        [
            pa.field("image_id", pa.string(), nullable=False),
            pa.field("label", pa.string(), nullable=False),
            pa.field("split", pa.string(), nullable=False),
            pa.field("weight", pa.float32(), nullable=False),
            pa.field("pixels", pa.fixed_shape_tensor(pa.uint8(), [size, size]), nullable=False),
        ],
        metadata={METADATA_KEY: json.dumps(metadata, sort_keys=True)},
    )


def metadata(classes: Sequence[str], preprocessing: Preprocessing) -> dict[str, Any]:
    return {"classes": list(classes), "preprocessing": asdict(preprocessing)}


def tensor_array(pixels: NDArray[np.uint8]) -> pa.FixedShapeTensorArray:
    """uint8 [N, H, W] -> an Arrow array of N tensors, without a copy."""
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(pixels))


def packed(pixels: NDArray[np.uint8]) -> pa.Array:
    """uint8 [N, H, W] -> N values of H*W bytes, for files of our own: thirty times faster to read."""
    data = pa.py_buffer(np.ascontiguousarray(pixels))
    return pa.Array.from_buffers(pa.binary(pixels.shape[1] * pixels.shape[2]), len(pixels), [None, data])


def unpacked(column: pa.ChunkedArray, size: int) -> NDArray[np.uint8]:
    """What `packed` made -> uint8 [N, size, size]."""
    array = column.combine_chunks()
    levels = np.frombuffer(
        array.buffers()[1], dtype=np.uint8, count=len(array) * size * size, offset=array.offset * size * size
    )
    return levels.reshape(len(array), size, size)


def write_table(table: pa.Table, sink: Any) -> None:
    """Write a table that has pixels, as a shard is written."""
    pq.write_table(
        table,
        sink,
        row_group_size=ROW_GROUP,
        compression={name: "none" if name == "pixels" else "zstd" for name in table.column_names},
        use_dictionary=["label", "split", "pixels.list.element"],
        write_statistics=["image_id", "label", "split"],
    )


def open_file(path: UPath) -> pq.ParquetFile:
    """Local files are mapped into memory; others are read through fsspec."""
    if path.protocol in ("", "file"):
        return pq.ParquetFile(path.path, memory_map=True)
    return pq.ParquetFile(path.fs.open(path.path, "rb"))


def pixels_of(column: pa.ChunkedArray) -> NDArray[np.uint8]:
    """A column of tensors -> uint8 [N, H, W]."""
    if column.num_chunks == 1:
        return column.chunk(0).to_numpy_ndarray()
    return np.concatenate([chunk.to_numpy_ndarray() for chunk in column.chunks])


def row_groups(files: Sequence[UPath]) -> list[RowGroup]:
    return [RowGroup(path, group) for path in files for group in range(open_file(path).num_row_groups)]


def read_row_group(place: RowGroup, split: Split, classes: Sequence[str]) -> Images:
    """The images of one split in one row group."""
    table = open_file(place.path).read_row_group(place.group)
    return _images(table, split, classes)


def read(files: Sequence[UPath], split: Split, classes: Sequence[str]) -> Images:
    """Every image of one split, in the order of the files."""
    return concatenate([_images(open_file(path).read(), split, classes) for path in files])


def iterate(files: Sequence[UPath], split: Split, classes: Sequence[str]) -> Iterator[Images]:
    """The images of one split, a row group at a time."""
    for place in row_groups(files):
        images = read_row_group(place, split, classes)
        if len(images):
            yield images


def _images(table: pa.Table, split: Split, classes: Sequence[str]) -> Images:
    rows = np.flatnonzero(table["split"].to_numpy() == split)
    place = {name: index for index, name in enumerate(classes)}
    labels = table["label"].to_numpy()[rows]
    return Images(
        table["image_id"].to_numpy()[rows].astype(object),
        np.array([place[label] for label in labels], dtype=np.int64),
        table["weight"].to_numpy()[rows].astype(np.float32),
        pixels_of(table["pixels"])[rows],
    )


def pixel_moments(files: Sequence[UPath], classes: Sequence[str]) -> tuple[float, float]:
    """Mean and standard deviation of the training pixels, in gray levels divided by 255."""
    counts = np.zeros(256, dtype=np.int64)
    for images in iterate(files, "train", classes):
        counts += np.bincount(images.pixels.ravel(), minlength=256)
    levels = np.arange(256) / 255
    mean = float((counts * levels).sum() / counts.sum())
    variance = float((counts * (levels - mean) ** 2).sum() / counts.sum())
    return mean, max(variance**0.5, 1 / 255)


def count_labels(files: Sequence[UPath], split: Split, classes: Sequence[str]) -> NDArray[np.int64]:
    """int64 [C]: the images of each class in one split."""
    place = {name: index for index, name in enumerate(classes)}
    counts = np.zeros(len(classes), dtype=np.int64)
    for path in files:
        table = open_file(path).read(columns=["label", "split"])
        for label, part in zip(table["label"].to_pylist(), table["split"].to_pylist(), strict=True):
            counts[place[label]] += part == split
    return counts
