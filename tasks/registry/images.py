"""Images that a version was trained and tested on: the shards that its tag names."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resnet_core.errors import UserError
from resnet_core.model.classifier import Classifier
from resnet_core.shards.encryption import Keys
from resnet_core.shards.format import Images, Split, iterate, read_facts, take
from tasks.registry.runs import client
from tasks.registry.versions import SHARDS
from tasks.values import ModelVersion, ShardSet
from tasks.workspace import Workspace


def learned_from(version: ModelVersion, here: Workspace) -> set[str] | None:
    """Return the ids of the images that a version was trained on or chosen by; None if its shards are gone."""
    shard_set = _shards_of(version, here)
    if shard_set is None:
        return None
    facts = read_facts(shard_set.files, ["image_id"], ["train", "validation"], here.keys)
    return set(facts["image_id"].to_pylist())


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
