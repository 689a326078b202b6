"""Images that a version was trained and tested on. Its tag names their shards, and it keeps their ids."""

import json
from collections.abc import Container, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from upath import UPath

from resnet_core.errors import UserError
from resnet_core.model.classifier import Classifier
from resnet_core.shards.encryption import Keys
from resnet_core.shards.format import Images, Split, iterate, read_facts, take
from resnet_core.storage.files import write_whole
from tasks.registry.integrity import verified_folder
from tasks.registry.runs import client
from tasks.registry.versions import ARTIFACTS, SHARDS
from tasks.settings import Settings
from tasks.store import LEARNED, LINEAGE
from tasks.values import ModelVersion, ShardSet
from tasks.workspace import Workspace

_DIGITS = 16  # of an image's id that a version keeps: 64 bits tell all images apart


@dataclass(frozen=True)
class Learned(Container[str]):
    """Images that a version was trained on or chosen by, and so were the versions that its training began with."""

    ids: frozenset[str]  # their first _DIGITS

    @classmethod
    def of(cls, shard_set: ShardSet, keys: Keys | None) -> "Learned":
        facts = read_facts(shard_set.files, ["image_id"], ["train", "validation"], keys)
        return cls(frozenset(image_id[:_DIGITS] for image_id in facts["image_id"].to_pylist()))

    def __contains__(self, image_id: object) -> bool:
        return isinstance(image_id, str) and image_id[:_DIGITS] in self.ids

    def __or__(self, other: "Learned") -> "Learned":
        return Learned(self.ids | other.ids)

    def save(self, path: UPath) -> None:
        with write_whole(path) as draft:
            pq.write_table(pa.table({"image_id": sorted(self.ids)}), draft, compression="zstd")

    def count_tested(self, shard_set: ShardSet, keys: Keys | None) -> int:
        """Return how many test images of the shards are among them."""
        facts = read_facts(shard_set.files, ["image_id"], ["test"], keys)
        return sum(image_id in self for image_id in facts["image_id"].to_pylist())


def learned_from(version: ModelVersion, here: Workspace) -> Learned | None:
    """Return the images that a version has learned from; None if it is not known any more.

    Versions of earlier releases keep no ids: their shards tell, unless their training began with another version.
    """
    with verified_folder(here.tracking_uri, version, Settings().verify_key) as files:
        folder = files / ARTIFACTS
        if (folder / LEARNED).exists():
            return Learned(frozenset(pq.read_table(folder / LEARNED)["image_id"].to_pylist()))
        lineage = folder / LINEAGE
        if lineage.exists() and json.loads(lineage.read_text(encoding="utf-8")).get("start"):
            return None
    shard_set = _shards_of(version, here)
    return Learned.of(shard_set, here.keys) if shard_set else None


def _shards_of(version: ModelVersion, here: Workspace) -> ShardSet | None:
    """Return the shards that the version's tag names, if the store still has them."""
    tags = client(here.tracking_uri).get_model_version(version.name, version.version).tags
    dataset, digest = tags.get("grayline.dataset", version.name), tags.get(SHARDS)  # a model may be renamed
    return ShardSet.open(here.store.shards(dataset) / digest) if digest else None


@dataclass(frozen=True)
class VersionImages:
    """The images of a shard set, with the keys that read them."""

    shard_set: ShardSet
    keys: Keys | None

    def split(self, split: Split) -> Iterator[Images]:
        return iterate(self.shard_set.files, split, self.shard_set.classes, self.keys)

    def sample(self, most: int) -> NDArray[np.uint8]:
        """Return up to `most` training images, uint8 [N, S, S], at even distances: neighbours often share a class."""
        count = self.shard_set.train
        places = np.linspace(0, count - 1, min(most, count)).round().astype(np.int64)
        return take(self.shard_set.files, "train", places, self.keys)


def images_of(version: ModelVersion, here: Workspace) -> VersionImages:
    """Raises UserError if the version's shards are not in this store."""
    shard_set = _shards_of(version, here)
    if shard_set is None:
        raise UserError(
            f"{version}: its images are not in {here.store.shards(version.name)}, and without them an export cannot "
            "be checked. Set GRAYLINE_STORE to the store of the retraining, or retrain."
        )
    return VersionImages(shard_set, here.keys)


def check_fits(model: ModelVersion, classifier: Classifier, shard_set: ShardSet) -> None:
    """Raises UserError unless preprocessing and classes of the shards are those of the version."""
    wrong = ""
    if not classifier.preprocessing.same_pixels(shard_set.preprocessing):
        wrong = "takes images of another size, or resized or scaled in another way, than the data set file says"
    elif classifier.classes != shard_set.classes:
        wrong = f"knows the classes {', '.join(classifier.classes)}; the data set has {', '.join(shard_set.classes)}"
    if wrong:
        raise UserError(f"--model: {model} {wrong}. Retrain, or name another version.")
