"""Calls of an engine: on one thread, in turn, or in batches of one size."""

from collections.abc import Callable
from threading import Lock
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from resnet_core.device import one_thread
from resnet_core.export.graph import Outputs
from resnet_core.model.novelty import Distances, Novelty

# Calibrated probabilities [N, C], and distances [N] if the version tells unknown images by them.
Answer = Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], Distances | None]]
_Result = TypeVar("_Result")


def alone(run: Callable[[NDArray[np.uint8]], _Result]) -> Callable[[NDArray[np.uint8]], _Result]:
    """Compute each call on the thread that makes it, and on no other."""

    def run_alone(pixels: NDArray[np.uint8]) -> _Result:
        with one_thread():
            return run(pixels)

    return run_alone


def one_by_one(run: Callable[[NDArray[np.uint8]], _Result]) -> Callable[[NDArray[np.uint8]], _Result]:
    """Let calls of several threads take turns."""
    lock = Lock()

    def run_locked(pixels: NDArray[np.uint8]) -> _Result:
        with lock:
            return run(pixels)

    return run_locked


def in_pieces(
    outputs: Outputs,
    batch_size: int,
    classes: int,
    novelty: Novelty | None,
    whole: bool = False,
    held_out: Distances | None = None,
) -> Answer:
    """Split calls into batches. whole: fill the last batch up with black images.

    There are distances if the file has features: an int8 file of an earlier release has none. held_out: distances that
    the file measures of the held-out images, if its arithmetic is not that of the version.
    """

    def answer(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], Distances | None]:
        shares = [np.empty((0, classes), dtype=np.float32)]
        distances = [np.empty(0, dtype=np.float32)]
        for start in range(0, len(pixels), batch_size):
            piece = np.ascontiguousarray(pixels[start : start + batch_size])
            count, missing = len(piece), batch_size - len(piece)
            if whole and missing:
                piece = np.concatenate([piece, np.zeros((missing, *piece.shape[1:]), dtype=np.uint8)])
            found = outputs(piece)
            shares.append(found[0][:count])
            if novelty is not None and len(found) > 1:
                with one_thread(), torch.inference_mode():
                    distances.append(novelty.distances(torch.from_numpy(found[1][:count])).numpy())
        if novelty is None or len(distances) < len(shares):
            return np.concatenate(shares), None
        far = np.concatenate(distances)
        return np.concatenate(shares), far if held_out is None else novelty.translated(far, held_out)

    return answer
