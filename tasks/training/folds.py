"""The training images of a shard set, in the order in which a training counts them, and their folds."""

import pyarrow as pa
import pyarrow.compute as pc

from resnet_core.catalog import folds
from resnet_core.catalog.queries import good_images
from resnet_core.shards import format as shards
from resnet_core.shards.encryption import Keys
from tasks.values import Catalog, ShardSet

_KNOWN = ["image_id", "uri", "label", "group", "near"]


def training_images(shard_set: ShardSet, catalog: Catalog, parts: int, seed: int, keys: Keys | None) -> pa.Table:
    """Return image_id, uri, label and fold (0 to parts - 1) of each training image.

    Raises UserError if the images cannot be divided into so many folds.
    """
    rows = shards.read_facts(shard_set.files, ["image_id", "label"], ["train"], keys)
    known = _read_catalog(catalog)
    # The same images give the same folds, in any order of their files.
    order = pc.sort_indices(rows, [("image_id", "ascending")])
    images = rows.take(order)
    labels = pc.index_in(images["label"], value_set=pa.array(shard_set.classes, pa.string())).to_numpy()
    unit = folds.units(images["image_id"].combine_chunks(), known)
    fold = pa.array(folds.assign(labels.astype("int64"), unit, parts, seed), pa.int32())
    uris = known["uri"].take(pc.index_in(images["image_id"], value_set=known["image_id"].combine_chunks()))
    images = images.append_column("uri", uris).append_column("fold", fold)
    return images.take(pc.sort_indices(order)).select(["image_id", "uri", "label", "fold"]).combine_chunks()


def _read_catalog(catalog: Catalog) -> pa.Table:
    """Return the catalog's good images of all splits: an image of another split may tie two training images.

    `near` is null unless it is a tie: of images without a group, under one label.
    """
    known = good_images(catalog.path, _KNOWN)
    of = known["label"].take(pc.index_in(known["near"], value_set=known["image_id"].combine_chunks()))
    tied = pc.and_(pc.is_null(known["group"]), pc.fill_null(pc.equal(known["label"], of), True))
    return known.set_column(known.schema.get_field_index("near"), "near", pc.if_else(tied, known["near"], None))
