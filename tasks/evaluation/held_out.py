"""The held-out images: a classifier's predictions, and the catalog's facts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from resnet_core.catalog.build import SLICED
from resnet_core.catalog.queries import good_images
from resnet_core.evaluation.bootstrap import Groups
from resnet_core.evaluation.metrics import Labels, Probabilities
from resnet_core.evaluation.novelty import FEWEST, MOST, find_novelty, places
from resnet_core.model.classifier import Classifier
from resnet_core.model.novelty import Distances
from resnet_core.shards import format as shards
from resnet_core.shards.encryption import Keys
from resnet_core.shards.format import Split
from resnet_core.sources.manifest import attribute_of
from tasks.values import Catalog, ShardSet

LOOK_ALIKE = "look_alike"  # column of the catalog: the training image that a held-out image looks like


class Scored(NamedTuple):
    """The images of a split by a classifier; `distances` are those of its novelty, None without."""

    image_ids: list[str]
    labels: Labels  # [N]
    probabilities: Probabilities  # [N, C]
    distances: Distances | None  # [N]


def score_split(
    trained: Classifier, shard_set: ShardSet, split: Split, keys: Keys | None, advance: Callable[[int], None]
) -> Scored:
    """Score a split's images, reading a row group at a time."""
    image_ids: list[str] = []
    labels, probabilities = [np.empty(0, np.int64)], [np.empty((0, len(shard_set.classes)), np.float32)]
    distances = [np.empty(0, np.float32)]
    for images in shards.iterate(shard_set.files, split, shard_set.classes, keys):
        image_ids += images.image_ids.tolist()
        labels.append(images.labels)
        found, far = trained.answer(images.pixels)
        probabilities.append(found)
        distances += [] if far is None else [far]
        advance(len(images))
    far = None if trained.novelty is None else np.concatenate(distances)
    return Scored(image_ids, np.concatenate(labels), np.concatenate(probabilities), far)


def novelty_work(shard_set: ShardSet, level: float | None) -> int:
    """Return how many training images `learn_novelty` looks at, for a progress bar."""
    return 0 if level is None else min(shard_set.train, MOST)


def learn_novelty(
    trained: Classifier, shard_set: ShardSet, level: float | None, keys: Keys | None, advance: Callable[[int], None]
) -> Classifier:
    """Return the classifier with what tells unknown images from its training images; level: null for none.

    Classes of a few confidential images have no mean: it would nearly be one of their embeddings.
    """
    if level is None or not shard_set.test + shard_set.validation:
        return trained
    names = shards.read_facts(shard_set.files, ["label"], ["train"], keys)["label"]
    labels = pc.index_in(names, value_set=pa.array(shard_set.classes, pa.string())).to_numpy()
    seen = places(labels := labels.astype(np.int64))

    features = []
    for images in shards.iterate(shard_set.files, "train", shard_set.classes, keys, seen):
        features.append(trained.features(images.pixels))
        advance(len(images))
    last = trained.network.at(trained.preprocessing.size).fc.in_features
    found = find_novelty(np.concatenate(features), labels[seen], last, level, FEWEST if keys else 1)
    return replace(trained, novelty=found and found.to(trained.device))


def facts(catalog: Catalog | None) -> pa.Table:
    """Return image_id, uri, the columns of SLICED and attributes of the catalog's good test images.

    And `look_alike`, if the catalog has it: older ones do not.
    """
    columns = ["image_id", "uri", *SLICED, "attributes"]
    if catalog is None:
        return pa.table({name: pa.array([], pa.string()) for name in columns})
    with catalog.path.open("rb") as file:
        columns += [LOOK_ALIKE] * (LOOK_ALIKE in pq.read_schema(file).names)
    return good_images(catalog.path, columns, pc.field("split") == "test")


def in_order(table: pa.Table, image_ids: Sequence[str]) -> pa.Table:
    """Return the rows of these images in this order; null for a missing one."""
    places = pc.index_in(pa.array(image_ids, pa.string()), value_set=table["image_id"].combine_chunks())
    return table.take(places)


def columns_of(table: pa.Table, names: Sequence[str]) -> Iterator[tuple[str, list[object]]]:
    """Yield columns of the catalog, or attributes."""
    for name in names:
        if name in SLICED:
            yield name, table[name].to_pylist()
        else:
            yield name, list(attribute_of(table["attributes"].to_pylist(), name))


def look_alikes_of(table: pa.Table) -> NDArray[np.bool_] | None:
    """Return which images look like a training image of their label, bool [N]; None if the catalog does not know."""
    if LOOK_ALIKE not in table.column_names:
        return None
    found: NDArray[np.bool_] = pc.is_valid(table[LOOK_ALIKE]).to_numpy()
    return found


def groups_of(table: pa.Table) -> Groups | None:
    """Return the number of each image's group, an image without a group being its own; None without groups."""
    names = table["group"].to_pylist()
    if not any(names):
        return None
    keys = [("group", name) if name else ("image", str(k)) for k, name in enumerate(names)]
    codes, _ = pd.factorize(pd.Series(keys))
    return codes.astype(np.int64)
