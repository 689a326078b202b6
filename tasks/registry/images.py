"""The images that a version was trained on and held against, the shards that its tag names; and whether
other shards hold what it takes."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from upath import UPath

from resnet_core.errors import UserError
from resnet_core.model.classifier import Classifier
from resnet_core.shards import format as shards
from resnet_core.shards.encryption import Keys
from resnet_core.shards.format import Images, Split
from tasks.registry import runs as tracking
from tasks.registry.runs import client
from tasks.registry.versions import SHARDS
from tasks.values import ModelVersion, ShardSet


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


@dataclass(frozen=True)
class VersionImages:
    """`files` hold `train` training and `test` held-out images of these classes."""

    files: tuple[UPath, ...]
    classes: tuple[str, ...]
    train: int
    test: int
    keys: Keys | None

    def split(self, split: Split) -> Iterator[Images]:
        return shards.iterate(self.files, split, self.classes, self.keys)

    def sample(self, most: int) -> NDArray[np.uint8]:
        """Training images, uint8 [N, S, S]: `most` of them or all, evenly spread over the shards, where
        neighbours are often of one class."""
        wanted = np.linspace(0, self.train - 1, min(most, self.train)).round().astype(np.int64)
        found, first = [], 0
        for images in self.split("train"):
            here = wanted[(wanted >= first) & (wanted < first + len(images))] - first
            found.append(images.pixels[here])
            first += len(images)
        return np.concatenate(found)


def images_of(model: ModelVersion, store: UPath, tracking_uri: str, keys: Keys | None) -> VersionImages:
    """Raises UserError where the shards are not in this store."""
    digest = client(tracking_uri).get_model_version(model.name, model.version).tags.get(SHARDS, "")
    folder = store / "shards" / model.name / digest
    path = folder / "_manifest.json"
    if not digest or not path.exists():
        raise UserError(
            f"{model.name} version {model.version}: its images are not in {folder}, and without them an export "
            "cannot be checked. Set GRAYLINE_STORE to the store of the retraining, or retrain."
        )
    manifest = json.loads(path.read_text(encoding="utf-8"))
    files = tuple(folder / name for name in manifest["shards"])
    images = manifest["images"]
    return VersionImages(files, tuple(manifest["classes"]), images["train"], images["test"], keys)


def check_fits(model: ModelVersion, classifier: Classifier, shard_set: ShardSet) -> None:
    """Raises UserError unless the shards hold what the version takes, and what it knows."""
    wrong = ""
    if classifier.preprocessing != shard_set.preprocessing:
        wrong = "takes images of another size, or resized in another way, than the data set file says"
    elif classifier.classes != shard_set.classes:
        wrong = f"knows the classes {', '.join(classifier.classes)}; the data set has {', '.join(shard_set.classes)}"
    if wrong:
        raise UserError(f"--model: {model.name} version {model.version} {wrong}. Retrain, or name another version.")
