"""Which held-out images a person should look at, and how a picture of one is made."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["confident error", "most uncertain", "sample"]

ERRORS = 12
UNCERTAIN = 12
SAMPLES = 4  # a class
CLASSES = 12


@dataclass(frozen=True)
class Chosen:
    """A held-out image by its row among the predictions."""

    kind: Kind
    row: int


def choose(
    image_ids: list[str], labels: NDArray[np.int64], predicted: NDArray[np.int64], confidence: NDArray[np.float32]
) -> list[Chosen]:
    """The most confident errors, the least confident of the rest, and some of each of up to CLASSES
    classes; no image twice.

    labels, predicted: int64 [N], places in the class names. A sample is of those whose ids, digests of
    their bytes, are lowest: as good as drawn, and the same ones every night.
    """
    by_confidence = np.lexsort((np.array(image_ids), confidence))
    errors = [int(row) for row in by_confidence[::-1] if labels[row] != predicted[row]][:ERRORS]
    taken = set(errors)
    uncertain = [int(row) for row in by_confidence if row not in taken][:UNCERTAIN]
    taken |= set(uncertain)
    found = [Chosen("confident error", row) for row in errors]
    found += [Chosen("most uncertain", row) for row in uncertain]
    order = np.argsort(np.array(image_ids))
    for label in np.unique(labels)[:CLASSES]:
        rows = [int(row) for row in order if labels[row] == label and row not in taken][:SAMPLES]
        found += [Chosen("sample", row) for row in rows]
    return found
