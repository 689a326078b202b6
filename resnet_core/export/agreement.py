"""Whether an exported file says what the classifier says that it was made of."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resnet_core.export.graph import Run
from resnet_core.model.classifier import Classifier
from resnet_core.shards.format import Images

BATCH = 64


@dataclass(frozen=True)
class Agreement:
    """What both say of the same N images, and how long each took, in seconds."""

    labels: NDArray[np.int64]  # [N], places in the class names
    own: NDArray[np.float32]  # [N, C], the classifier's probabilities
    exported: NDArray[np.float32]  # [N, C], the file's
    own_seconds: float
    seconds: float

    @property
    def count(self) -> int:
        return len(self.labels)

    @property
    def difference(self) -> float:
        """The largest of two probabilities of the same class of the same image; not a number is infinity."""
        return float(np.nan_to_num(np.abs(self.own - self.exported), nan=np.inf).max())

    @property
    def own_accuracy(self) -> float:
        return float((self.own.argmax(1) == self.labels).mean())

    @property
    def accuracy(self) -> float:
        return float((self.exported.argmax(1) == self.labels).mean())


def compare(
    classifier: Classifier, run: Run, images: Iterable[Images], most: int, advance: Callable[[int], None]
) -> Agreement:
    """The first `most` images, or all if there are fewer. Raises ValueError where there are none, or the
    file's output has another shape than the classifier's."""
    labels: list[NDArray[np.int64]] = []
    own: list[NDArray[np.float32]] = []
    exported: list[NDArray[np.float32]] = []
    count, took = 0, [0.0, 0.0]
    for some in images:
        for start in range(0, min(len(some), most - count), BATCH):
            end = min(start + BATCH, most - count)
            pixels = np.ascontiguousarray(some.pixels[start:end])
            marks = [time.perf_counter()]
            for score, into in ((classifier.probabilities, own), (run, exported)):
                into.append(score(pixels))
                marks.append(time.perf_counter())
            took = [took[k] + marks[k + 1] - marks[k] for k in range(2)]
            if own[-1].shape != exported[-1].shape:
                raise ValueError(f"the file's output is {exported[-1].shape}, not {own[-1].shape}")
            labels.append(some.labels[start:end])
            advance(len(pixels))
        count += len(some)
        if count >= most:
            break
    if not labels:
        raise ValueError("there are no images to compare on")
    return Agreement(np.concatenate(labels), np.concatenate(own), np.concatenate(exported), took[0], took[1])
