"""Folds: the training images in disjoint parts, for cross-validation and tuning.

Images of one group and near-duplicates are a unit, which is never divided. scikit-learn's StratifiedGroupKFold
gives folds of about equal size, in total and by class.
"""

import warnings

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from resnet_core.catalog.near_duplicates import clusters
from resnet_core.errors import UserError, plural

_Numbers = NDArray[np.int64]


def units(image_ids: pa.Array, ties: pa.Table) -> _Numbers:
    """Return the unit of every image, int64 [N].

    image_ids: string [N]. ties: catalog rows of all splits, with image_id, `group` and `near`, null for none.
    """
    grouped, alike = ties.filter(pc.is_valid(ties["group"])), ties.filter(pc.is_valid(ties["near"]))
    left = [*grouped["image_id"].chunks, *alike["image_id"].chunks]
    # The prefix keeps a group apart from an image whose id is its name.
    groups = pc.binary_join_element_wise("group", grouped["group"], ":")
    right = [*groups.chunks, *alike["near"].chunks]
    names = pa.chunked_array([image_ids, *left, *right], pa.string()).combine_chunks().dictionary_encode()
    codes = names.indices.to_numpy().astype(np.int64)
    images, count = len(image_ids), sum(map(len, left))
    links = codes[images : images + count], codes[images + count :]
    numbers: _Numbers = clusters(len(names.dictionary), *links)[codes[:images]]
    return numbers


def assign(labels: _Numbers, unit: _Numbers, folds: int, seed: int) -> _Numbers:
    """Return the fold of every image, int64 [N] from 0 to folds - 1.

    labels, unit: int64 [N]. Raises UserError if there are fewer units than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # takes 1 s to import

    count = len(np.unique(unit))
    if folds > count:
        raise UserError(
            f"--folds: {plural(folds, 'fold')} of {count} parts of the training images that share neither a "
            "group nor a "
            "near-duplicate. Ask for fewer."
        )
    # It needs a class with as many images as folds, and warns about smaller classes.
    classes = labels if np.bincount(labels).max() >= folds else np.zeros_like(labels)
    fold = np.empty(len(labels), dtype=np.int64)
    dealer = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        for number, (_, rows) in enumerate(dealer.split(labels, classes, unit)):
            fold[rows] = number
    return fold
