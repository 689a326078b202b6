"""Shards as a source: images that a night has read already, whose pixels are taken as they lie there.

A row of a shard is listed as a file of its own, `/data/x.parquet#row=17`. Its hash and its pixels are known;
the size of the original image is not.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from resnet_core.errors import UserError
from resnet_core.images.decision import in_words
from resnet_core.images.preprocessing import Preprocessing
from resnet_core.policy import parse_json
from resnet_core.shards.format import METADATA_KEY, image_size
from resnet_core.sources import folders
from resnet_core.sources._image_tables import open_table
from resnet_core.sources.listing import BATCH, numbered_rows
from resnet_core.storage.ignored import is_ignored
from resnet_core.storage.locations import facts

KIND = "shards"


def is_shard(file: pq.ParquetFile) -> bool:
    """Return whether a Parquet file is a shard."""
    return "levels" in file.schema_arrow.names and METADATA_KEY in (file.schema_arrow.metadata or {})


def list_shard(place: str, path: str) -> Iterator[pa.RecordBatch]:
    """Yield one row per image. `path`: of the file, relative to the source."""
    modified = facts(place)["modified"]
    with _open_shard(place) as table:
        size, start = image_size(table) ** 2, 0
        for batch in table.iter_batches(BATCH, columns=["label", "split"]):
            numbers = range(start, start + len(batch))
            columns = {name: batch[name].to_pylist() for name in ("label", "split")}
            columns |= {"size": size, "modified": modified, "kind": KIND, "offset": list(numbers), "length": size}
            yield numbered_rows(place, path, numbers, columns)
            start += len(batch)


def check_preprocessing(source: str, preprocessing: Preprocessing) -> None:
    """Raise UserError unless the pixels were made with the version's preprocessing."""
    for place in _shard_places(source):
        with _open_shard(place) as table:
            try:
                made = Preprocessing.of(parse_json(table.schema_arrow.metadata[METADATA_KEY])["preprocessing"])
            except (ValueError, TypeError, KeyError):
                raise UserError(f"--source: {place} does not say how its pixels were made. Give the images.") from None
        if not made.same_pixels(preprocessing):
            raise UserError(
                f"--source: {place} holds pixels made with {_describe(made)}; the version needs "
                f"{_describe(preprocessing)}. Give the images themselves."
            )


@contextmanager
def _open_shard(place: str) -> Iterator[pq.ParquetFile]:
    """Open a shard. Raises UserError for another Parquet file."""
    with open_table(place) as table:
        if not is_shard(table):
            raise UserError(f"{place}: not a shard, but files beside it are. Keep shards in a folder of their own.")
        yield table


def _shard_places(source: str) -> Iterator[str]:
    """Yield the shards of a folder, or the file that the source is."""
    if facts(source)["type"] == "file":
        yield source
        return
    for uri, path, size, _ in folders.walk(source):
        if size is not None and not is_ignored(path):
            yield uri


def _describe(preprocessing: Preprocessing) -> str:
    made = preprocessing
    levels = "".join(f", {words}" for words in in_words(made.rule))
    return f"{made.size} px, {made.resize}, background {made.background}, {made.decode}{levels}"
