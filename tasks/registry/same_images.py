"""Versions on the same images: probabilities in the same order of classes, by images that neither has
learned from."""

from collections.abc import Sequence

import numpy as np
import pyarrow.compute as pc
from upath import UPath

from resnet_core.evaluation.metrics import Probabilities
from resnet_core.model.classifier import Classifier
from resnet_core.shards import format as shards
from resnet_core.shards.encryption import Keys
from tasks.registry import runs as tracking
from tasks.registry.versions import SHARDS
from tasks.values import ModelVersion


def aligned(found: Probabilities, classifier: Classifier, classes: Sequence[str]) -> Probabilities:
    """A classifier's float32 [N, C] with its columns in the order of `classes`; a class that it does not know
    has probability 0."""
    columns = np.zeros((len(found), len(classes)), dtype=np.float32)
    for k, name in enumerate(classes):
        if name in classifier.classes:
            columns[:, k] = found[:, classifier.classes.index(name)]
    return columns


def learned_from(version: ModelVersion, shard_sets: UPath, tracking_uri: str, keys: Keys | None) -> set[str] | None:
    """The ids of the images that a version was trained on or chosen by, from the shards that it records, in
    the data set's folder of shard sets. None where those are gone."""
    tags = tracking.client(tracking_uri).get_model_version(version.name, version.version).tags
    digest = tags.get(SHARDS)
    files = sorted((shard_sets / digest).glob("*.parquet")) if digest and (shard_sets / digest).exists() else []
    found: set[str] = set()
    for path in files:
        table = shards.open_file(path, keys).read(columns=["image_id", "split"])
        found.update(table.filter(pc.not_equal(table["split"], "test"))["image_id"].to_pylist())
    return found if files else None
