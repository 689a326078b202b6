"""The held-out images: what a classifier says of them, and what the catalog knows of them."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from resnet_core.catalog.build import SLICED
from resnet_core.evaluation.bootstrap import Groups
from resnet_core.evaluation.metrics import Labels, Probabilities
from resnet_core.model.classifier import Classifier
from resnet_core.shards import format as shards
from resnet_core.shards.encryption import Keys
from resnet_core.shards.format import Split
from resnet_core.sources.manifest import attribute_of
from tasks.values import Catalog, ShardSet


def score_split(
    trained: Classifier, shard_set: ShardSet, split: Split, keys: Keys | None, advance: Callable[[int], None]
) -> tuple[list[str], Labels, Probabilities]:
    """Ids, labels [N] and probabilities [N, C] of a split's images, a row group at a time."""
    image_ids: list[str] = []
    labels, probabilities = [np.empty(0, np.int64)], [np.empty((0, len(shard_set.classes)), np.float32)]
    for images in shards.iterate(shard_set.files, split, shard_set.classes, keys):
        image_ids += images.image_ids.tolist()
        labels.append(images.labels)
        probabilities.append(trained.probabilities(images.pixels))
        advance(len(images))
    return image_ids, np.concatenate(labels), np.concatenate(probabilities)


def facts(catalog: Catalog | None) -> pa.Table:
    """image_id, uri, the columns of SLICED and attributes of the catalog's good test images."""
    columns = ["image_id", "uri", *SLICED, "attributes"]
    if catalog is None:
        return pa.table({name: pa.array([], pa.string()) for name in columns})
    good = (pc.field("split") == "test") & (pc.field("status") == "ok") & pc.field("present")
    with catalog.path.open("rb") as file:
        return pq.read_table(file, columns=columns, filters=good)


def in_order(table: pa.Table, image_ids: Sequence[str]) -> pa.Table:
    """The rows of these images; null where there is none."""
    places = pc.index_in(pa.array(image_ids, pa.string()), value_set=table["image_id"].combine_chunks())
    return table.take(places)


def columns_of(table: pa.Table, names: Sequence[str]) -> Iterator[tuple[str, list[object]]]:
    """Columns of the catalog, or attributes."""
    for name in names:
        if name in SLICED:
            yield name, table[name].to_pylist()
        else:
            yield name, list(attribute_of(table["attributes"].to_pylist(), name))


def groups_of(table: pa.Table) -> Groups | None:
    """The number of each image's group, an image without one being its own; None where there are no groups."""
    names = table["group"].to_pylist()
    if not any(names):
        return None
    keys = [("group", name) if name else ("image", str(k)) for k, name in enumerate(names)]
    codes, _ = pd.factorize(pd.Series(keys))
    return codes.astype(np.int64)
