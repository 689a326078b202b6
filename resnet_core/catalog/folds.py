"""Folds: the training images in parts that share nothing, for cross-validation and for tuning.

Images of one group, and images that look the same, are a unit: a unit is never divided. Units are dealt
out so that the folds have about as many images as each other, and of each class too
(scikit-learn's StratifiedGroupKFold: the units that would tip the balance most go first).
"""

import warnings

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from resnet_core.catalog.near_duplicates import clusters
from resnet_core.errors import UserError

_Numbers = NDArray[np.int64]


def units(image_ids: pa.Array, ties: pa.Table) -> _Numbers:
    """int64 [N]: a number for each image, the same for those that belong together, directly or through
    others.

    image_ids: string [N]. ties: a row an image of whatever split, with its `group` and `near`, the
    image_id of one that looks the same; each null where there is none.
    """
    grouped, alike = ties.filter(pc.is_valid(ties["group"])), ties.filter(pc.is_valid(ties["near"]))
    left = [*grouped["image_id"].chunks, *alike["image_id"].chunks]
    # A group may have any name, an image's too.
    groups = pc.binary_join_element_wise("group", grouped["group"], ":")
    right = [*groups.chunks, *alike["near"].chunks]
    names = pa.chunked_array([image_ids, *left, *right], pa.string()).combine_chunks().dictionary_encode()
    codes = names.indices.to_numpy().astype(np.int64)
    images, count = len(image_ids), sum(map(len, left))
    links = codes[images : images + count], codes[images + count :]
    found: _Numbers = clusters(len(names.dictionary), *links)[codes[:images]]
    return found


def assign(labels: _Numbers, unit: _Numbers, folds: int, seed: int) -> _Numbers:
    """int64 [N]: the fold of each image, 0 to folds - 1.

    labels, unit: int64 [N]. Raises UserError where there are fewer units than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # takes 1 s to import

    there = len(np.unique(unit))
    if folds > there:
        raise UserError(
            f"--folds: {folds} folds of {there} parts of the training images that share neither a group nor a "
            "near-duplicate. Ask for fewer."
        )
    # It wants as many images of some class as folds, and warns of the other classes.
    classes = labels if np.bincount(labels).max() >= folds else np.zeros_like(labels)
    found = np.empty(len(labels), dtype=np.int64)
    dealer = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        for number, (_, rows) in enumerate(dealer.split(labels, classes, unit)):
            found[rows] = number
    return found
