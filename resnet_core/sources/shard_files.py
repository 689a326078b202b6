"""Shards as a source: images that a night has read already, whose pixels are taken as they lie there.

A row of a shard is a file of its own to whoever lists it: `/data/x.parquet#row=17`. What is known of it is
its hash and its pixels; the size of the image that it was made of is not.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from resnet_core.errors import UserError
from resnet_core.images.preprocessing import Preprocessing
from resnet_core.shards import format as shards
from resnet_core.shards.format import METADATA_KEY
from resnet_core.sources import folders
from resnet_core.sources._image_tables import open_table
from resnet_core.sources.listing import BATCH, batches, is_ignored
from resnet_core.storage.locations import facts

KIND = "shards"


def is_shard(file: pq.ParquetFile) -> bool:
    return "levels" in file.schema_arrow.names and METADATA_KEY in (file.schema_arrow.metadata or {})


@contextmanager
def _open_shard(place: str) -> Iterator[pq.ParquetFile]:
    """Raises UserError for another Parquet file."""
    with open_table(place) as table:
        if not is_shard(table):
            raise UserError(f"{place} is no shard, and others beside it are. Keep them apart.")
        yield table


def list_shard(place: str, path: str) -> Iterator[pa.RecordBatch]:
    """A row an image: LISTING. path: of the file, relative to the source."""
    modified = facts(place)["modified"]
    with _open_shard(place) as table:
        size, start = shards.image_size(table) ** 2, 0
        for batch in table.iter_batches(BATCH, columns=["label", "split"]):
            labels, splits = batch["label"].to_pylist(), batch["split"].to_pylist()
            yield from batches(
                (f"{place}#row={row}", f"{path}#row={row}", size, modified, label, split, place, KIND, row, size, False)
                for row, (label, split) in enumerate(zip(labels, splits, strict=True), start)
            )
            start += len(labels)


def check_preprocessing(source: str, preprocessing: Preprocessing) -> None:
    """Raises UserError unless the pixels were made as the version wants them."""
    for place in _shard_places(source):
        with _open_shard(place) as table:
            made = Preprocessing(**json.loads(table.schema_arrow.metadata[METADATA_KEY])["preprocessing"])
        if made != preprocessing:
            raise UserError(
                f"--source: {place} holds pixels that were made in another way ({_describe(made)}) than the version "
                f"wants them ({_describe(preprocessing)}). Give the images themselves."
            )


def _shard_places(source: str) -> Iterator[str]:
    """The shards of a folder, or the one that the source is."""
    if facts(source)["type"] == "file":
        yield source
        return
    for uri, path, size, _ in folders.walk(source):
        if size is not None and not is_ignored(path):
            yield uri


def _describe(made: Preprocessing) -> str:
    return f"{made.size} px, {made.resize}, background {made.background}, {made.decode}"
