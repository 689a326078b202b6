"""Gallery: choose the held-out images that a person should look at."""

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
    """A held-out image, by its row among the predictions."""

    kind: Kind
    row: int


def choose(
    image_ids: list[str], labels: NDArray[np.int64], predicted: NDArray[np.int64], confidence: NDArray[np.float32]
) -> list[Chosen]:
    """Choose the most confident errors, the least confident other images, and samples of up to CLASSES classes.

    No image is chosen twice, and a class with a right answer has a sample. labels, predicted: int64 [N], places in
    the class names. A sample has the lowest ids: digests of bytes are as good as random, and equal every night.
    """
    by_confidence = np.lexsort((np.array(image_ids), confidence))
    errors = [int(row) for row in by_confidence[::-1] if labels[row] != predicted[row]][:ERRORS]
    taken = set(errors)
    order = np.argsort(np.array(image_ids))
    shown = np.unique(labels)[:CLASSES]
    kept = {next((int(row) for row in order if labels[row] == label and row not in taken), -1) for label in shown}
    uncertain = [int(row) for row in by_confidence if row not in taken | kept][:UNCERTAIN]
    taken |= set(uncertain)
    chosen = [Chosen("confident error", row) for row in errors]
    chosen += [Chosen("most uncertain", row) for row in uncertain]
    for label in shown:
        rows = [int(row) for row in order if labels[row] == label and row not in taken][:SAMPLES]
        chosen += [Chosen("sample", row) for row in rows]
    return chosen
