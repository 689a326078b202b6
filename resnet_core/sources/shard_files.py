"""Shards as a source: images that a night has read already, whose pixels are taken as they lie there.

A row of a shard is a file of its own to whoever lists it: `/data/x.parquet#row=17`. What is known of it is
its hash and its pixels; the size of the image that it was made of is not.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from resnet_core.errors import UserError
from resnet_core.images.preprocessing import Preprocessing
from resnet_core.images.statistics import measure
from resnet_core.reading.image import schema
from resnet_core.shards import format as shards
from resnet_core.shards.format import METADATA_KEY
from resnet_core.sources import folders
from resnet_core.sources._image_tables import open_table
from resnet_core.sources.listing import BATCH, batches
from resnet_core.storage.locations import facts
from resnet_core.storage.names import is_ignored

KIND = "shards"


def is_shard(file: pq.ParquetFile) -> bool:
    return "levels" in file.schema_arrow.names and METADATA_KEY in (file.schema_arrow.metadata or {})


@contextmanager
def open_shard(place: str) -> Iterator[pq.ParquetFile]:
    """Raises UserError for another Parquet file."""
    with open_table(place) as table:
        if not is_shard(table):
            raise UserError(f"{place} is no shard, and others beside it are. Keep them apart.")
        yield table


def list_shard(place: str, path: str) -> Iterator[pa.RecordBatch]:
    """A row an image: LISTING. path: of the file, relative to the source."""
    modified = facts(place)["modified"]
    with open_shard(place) as table:
        size, start = shards.image_size(table) ** 2, 0
        for batch in table.iter_batches(BATCH, columns=["label", "split"]):
            labels, splits = batch["label"].to_pylist(), batch["split"].to_pylist()
            yield from batches(
                (f"{place}#row={row}", f"{path}#row={row}", size, modified, label, split, place, KIND, row, size, False)
                for row, (label, split) in enumerate(zip(labels, splits, strict=True), start)
            )
            start += len(labels)


def check(source: str, preprocessing: Preprocessing) -> None:
    """Raises UserError unless the pixels were made as the version wants them."""
    for place in places(source):
        with open_shard(place) as table:
            made = Preprocessing(**json.loads(table.schema_arrow.metadata[METADATA_KEY])["preprocessing"])
        if made != preprocessing:
            raise UserError(
                f"--source: {place} holds pixels that were made in another way ({described(made)}) than the version "
                f"wants them ({described(preprocessing)}). Give the images themselves."
            )


def places(source: str) -> Iterator[str]:
    """The shards of a folder, or the one that the source is."""
    if facts(source)["type"] == "file":
        yield source
        return
    for uri, path, size, _ in folders.walk(source):
        if size is not None and not is_ignored(path):
            yield uri


def described(made: Preprocessing) -> str:
    return f"{made.size} px, {made.resize}, background {made.background}, {made.decode}"


def iterate_rows(files: pa.Table, size: int, most: int) -> Iterator[pa.Table]:
    """Rows of a listing of shards, those of one shard going up -> one row each, in the same order, in the columns of
    `resnet_core.reading.image.schema`; `most` at a time."""
    columns = (files[name].to_pylist() for name in ("container", "offset"))
    for container, some in groupby(zip(*columns, strict=True), key=lambda row: row[0]):
        rows = np.array([row for _, row in some])
        file = shards.open_file(UPath(container))
        start = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            here = rows[(rows >= start) & (rows < start + count)] - start
            start += count
            if len(here):
                table = file.read_row_group(group, columns=["image_id", "levels"])
                pixels = shards.unpacked(table["levels"], size)
                ids = table["image_id"].combine_chunks()
                for first in range(0, len(here), most):
                    taken = here[first : first + most]
                    yield as_read(ids.take(pa.array(taken)), pixels[taken], size)


def as_read(image_ids: pa.Array, pixels: np.ndarray, size: int) -> pa.Table:
    """The columns of `read.schema`: of an image in a shard neither the original's sides nor a reason are known."""
    wanted = schema(size)
    brightness, contrast, sharpness = (pa.array(values, pa.float32()) for values in measure(pixels))
    known = {
        "image_id": image_ids,
        "brightness": brightness,
        "contrast": contrast,
        "sharpness": sharpness,
        "pixels": shards.packed(pixels),
    }
    arrays = [known.get(field.name, pa.nulls(len(pixels), field.type)) for field in wanted]
    return pa.Table.from_arrays(arrays, schema=wanted)
