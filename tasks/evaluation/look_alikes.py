"""Look-alikes: held-out images, each beside the training image that it looks like, for the version's report."""

from collections.abc import Callable
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from resnet_core.catalog.queries import good_images
from resnet_core.images.preprocessing import Gray
from resnet_core.shards import format as shards
from tasks.evaluation.held_out import LOOK_ALIKE
from tasks.values import Catalog, ShardSet

_COLUMNS = ["image_id", "uri", "label", LOOK_ALIKE, "residual"]
_MOST = 12  # pairs that are shown

Pairs = list[dict[str, Any]]  # rows of _COLUMNS


def closest(catalog: Catalog) -> Pairs:
    """Return the test images that differ least from a training image; none from a catalog of older releases."""
    with catalog.path.open("rb") as file:
        if not set(_COLUMNS) <= set(pq.read_schema(file).names):
            return []
    table = good_images(catalog.path, _COLUMNS, (pc.field("split") == "test") & pc.field(LOOK_ALIKE).is_valid())
    rows: Pairs = table.sort_by([("residual", "ascending"), ("image_id", "ascending")])[:_MOST].to_pylist()
    return rows


def described(
    pairs: Pairs, shard_set: ShardSet, uris: dict[str, str], write: Callable[[str, Gray], str]
) -> list[dict[str, Any]]:
    """Return the pairs' entries in gallery.json. write: of an image's id and pixels, gives the name of its file."""
    if not pairs:
        return []
    test = shards.take_ids(shard_set.files, "test", [pair["image_id"] for pair in pairs])
    train = shards.take_ids(shard_set.files, "train", [pair[LOOK_ALIKE] for pair in pairs])
    return [
        {
            "image_id": pair["image_id"],
            "uri": pair["uri"],
            "label": pair["label"],
            "residual": round(pair["residual"], 5),
            "image": write(pair["image_id"], own),
            "train": {
                "image_id": pair[LOOK_ALIKE],
                "uri": uris.get(pair[LOOK_ALIKE], ""),
                "image": write(pair[LOOK_ALIKE], other),
            },
        }
        for pair, own, other in zip(pairs, test, train, strict=True)
    ]
