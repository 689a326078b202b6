"""The reference of a version: the data that it learned from, kept to find drift."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from resnet_core.catalog.queries import GOOD
from resnet_core.drift.drift import Thresholds
from resnet_core.drift.reference import MOST, Reference
from resnet_core.drift.summary import Summary, summarise
from resnet_core.drift.unknown import Ranks
from resnet_core.evaluation.input_sizes import evenly
from resnet_core.model import features as embedding
from resnet_core.model.classifier import Classifier
from resnet_core.shards import format as shards
from resnet_core.shards.encryption import Keys
from tasks.values import Catalog, Night, ShardSet, have

if TYPE_CHECKING:  # SciPy's optimizers take their time to import, and a batch has no use for them
    from resnet_core.evaluation.assess import Assessment
    from resnet_core.evaluation.calibrate import Outputs


_LOOKS = ["brightness", "contrast", "sharpness"]


def make_reference(
    classifier: Classifier, found: Assessment, night: Night, thresholds: Thresholds, keys: Keys | None
) -> Reference:
    """Describe the data that a version learned from and its answers for the held-out images.

    found: the version's answers for the held-out images. thresholds: of the drift from the reference. Nothing is kept
    of confidential images that an image could be guessed from: no embeddings.
    """
    shard_set, ranks = have(night.shard_set), classifier.novelty
    summary = of_judged(found.outputs, shard_set.classes, found.needs_review) + _of_training(night.catalog)
    vectors = None if keys is not None or not shard_set.test else embeddings(classifier, shard_set)
    return Reference(summary, thresholds, vectors, None if ranks is None else Ranks(len(ranks.held_out), ranks.depth))


def of_judged(judged: Outputs, classes: tuple[str, ...], review: NDArray[np.bool_] | None = None) -> Summary:
    """Profile labels, reviews and confidences as scoring would give them; a class that is never decided on has 0."""
    places = np.arange(len(judged.decided))
    table: dict[str, pa.Array] = {
        "label": pa.array(classes, pa.string()).take(pa.array(judged.decided)),
        "confidence": pa.array(judged.probabilities[places, judged.decided], pa.float32()),
    }
    if review is not None:
        table["needs_review"] = pa.array(review)
    return Summary(classes=dict.fromkeys(classes, 0)) + summarise(pa.table(table))


def _of_training(catalog: Catalog) -> Summary:
    """Profile brightness, contrast and sharpness of the training images, reading a row group of the catalog at a
    time.
    """
    found = Summary()
    learned = GOOD & (pc.field("split") == "train")
    with catalog.path.open("rb") as file:
        for batch in pq.ParquetFile(file).iter_batches(columns=["split", "status", "present", *_LOOKS]):
            found += summarise(pa.Table.from_batches([batch]).filter(learned).select(_LOOKS))
    return found


def embeddings(classifier: Classifier, shard_set: ShardSet) -> NDArray[np.float32]:
    """Return float32 [N, D] of at most MOST held-out images, evenly spread."""
    chosen = shards.iterate(shard_set.files, "test", shard_set.classes, places=evenly(shard_set.test, MOST))
    return np.concatenate([embedding.embed(classifier, images.pixels) for images in chosen])
