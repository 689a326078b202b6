"""Read the rows of shards as if they were image files; they hold pixels already."""

from collections.abc import Iterator
from itertools import groupby

import numpy as np
import pyarrow as pa

from resnet_core.images.statistics import measure
from resnet_core.reading.image import schema
from resnet_core.shards import format as shards
from resnet_core.storage.files import to_path


def iterate_rows(files: pa.Table, size: int, most: int) -> Iterator[pa.Table]:
    """Yield tables of `resnet_core.reading.image.schema` of at most `most` rows, in the order of a listing of shards.

    The listing's rows of one shard must be in ascending order.
    """
    columns = (files[name].to_pylist() for name in ("container", "offset"))
    for container, pairs in groupby(zip(*columns, strict=True), key=lambda pair: pair[0]):
        rows = np.array([row for _, row in pairs])
        file = shards.open_file(to_path(container))
        start = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            places = rows[(rows >= start) & (rows < start + count)] - start
            start += count
            if len(places):
                table = file.read_row_group(group, columns=["image_id", "levels"])
                pixels = shards.unpacked(table["levels"], size)
                ids = table["image_id"].combine_chunks()
                for first in range(0, len(places), most):
                    taken = places[first : first + most]
                    yield _as_read(ids.take(pa.array(taken)), pixels[taken], size)


def _as_read(image_ids: pa.Array, pixels: np.ndarray, size: int) -> pa.Table:
    """Make a table of `schema`; a shard does not hold the original's size, nor the perceptual hash."""
    brightness, contrast, sharpness = (pa.array(values, pa.float32()) for values in measure(pixels))
    columns = {
        "image_id": image_ids,
        "brightness": brightness,
        "contrast": contrast,
        "sharpness": sharpness,
        "pixels": shards.packed(pixels),
    }
    fields = schema(size)
    arrays = [columns.get(field.name, pa.nulls(len(pixels), field.type)) for field in fields]
    return pa.Table.from_arrays(arrays, schema=fields)
