"""The rows of shards, read as files are: the pixels are there already."""

from collections.abc import Iterator
from itertools import groupby

import numpy as np
import pyarrow as pa
from upath import UPath

from resnet_core.images.statistics import measure
from resnet_core.reading.image import schema
from resnet_core.shards import format as shards


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
                    yield _as_read(ids.take(pa.array(taken)), pixels[taken], size)


def _as_read(image_ids: pa.Array, pixels: np.ndarray, size: int) -> pa.Table:
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
