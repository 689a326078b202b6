"""How often each training image comes in an epoch: once, not at all, or as often as its class needs."""

import numpy as np
from numpy.typing import NDArray

from resnet_core.errors import UserError

Copies = NDArray[np.uint16]


def copies(labels: NDArray[np.int64], seed: int, balanced: bool, include: NDArray[np.bool_] | None) -> Copies | None:
    """uint16 [N], which sums to the images included; None where every image comes once.

    labels: int64 [N]. include: bool [N], the images to train on; None: all.
    balanced: every class has the same expected number, and gets it but for one image, by systematic
    resampling (one random offset for all; Douc, Cappe and Moulines 2005, arXiv:cs/0507025) over a random
    order of its images. Raises UserError where an image had to come more often than can be counted.
    """
    if not balanced:
        return None if include is None else include.astype(np.uint16)
    rng = np.random.default_rng([seed, 1])  # another stream than the one that orders the epoch
    rows = np.arange(len(labels)) if include is None else np.flatnonzero(include)
    found = np.zeros(len(labels), dtype=np.uint16)
    if not len(rows):
        return found
    rows = rng.permutation(rows)
    rows = rows[np.argsort(labels[rows], kind="stable")]
    _, place, counts = np.unique(labels[rows], return_inverse=True, return_counts=True)
    number = np.arange(len(rows)) - (np.cumsum(counts) - counts)[place] + 1  # of the image in its class
    # Not a running sum, whose rounding grows with the images: how many are expected up to each.
    expected = len(rows) * (place + number / counts[place]) / len(counts)
    ends = np.minimum(np.floor(expected + rng.random()).astype(np.int64), len(rows))
    times = np.diff(ends, prepend=0)
    if times.max() > np.iinfo(found.dtype).max:
        raise UserError(
            f"train.sampling: balanced would show one image {times.max():,} times an epoch. "
            "Add images of the rare classes, or write `natural`."
        )
    found[rows] = times
    return found
