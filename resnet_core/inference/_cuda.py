"""CUDA engine: images are copied to the GPU while it computes, in batches as large as its memory allows."""

from collections.abc import Callable
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray

from resnet_core.device import full_precision
from resnet_core.model.classifier import Classifier
from resnet_core.model.novelty import Distances

LARGEST = 1024  # images of a batch; more do not make a GPU faster

_Found = tuple[NDArray[np.float32], Distances | None]  # probabilities [N, C], and distances [N] if it has novelty


def open_engine(classifier: Classifier, batch_size: int = LARGEST) -> tuple[Callable[[NDArray[np.uint8]], _Found], int]:
    """Return calibrated answers as a function, and the batch size that fits into the memory, at most the given one.

    Calls of several threads take turns, because the GPU has one copy of the network. Raises torch.OutOfMemoryError if
    not even a single image fits.
    """
    lock, size = Lock(), classifier.preprocessing.size
    batch = fitting(lambda n: _streamed(classifier, np.zeros((n, size, size), np.uint8), n), batch_size)

    def answer(pixels: NDArray[np.uint8]) -> _Found:
        nonlocal batch
        if len(pixels) == 0:
            return classifier.answer(pixels)
        with lock:
            results: list[_Found] = []
            # Other programs may have taken memory since the engine was opened.
            batch = fitting(lambda n: results.append(_streamed(classifier, pixels, n)), batch)
        shares, distances = results[0]
        return classifier.calibration.calibrated(shares), distances

    return answer, batch


def fitting(work: Callable[[int], object], batch: int) -> int:
    """Do the work in batches of `batch` images, halved while the memory is full; return the final batch size."""
    while True:
        try:
            work(batch)
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            batch //= 2
        else:
            return batch
        # Outside the except block, because the traceback keeps the tensors.
        torch.cuda.empty_cache()


def _streamed(classifier: Classifier, pixels: NDArray[np.uint8], batch: int) -> _Found:
    """uint8 [N, S, S] -> float32 [N, C], not calibrated, and distances.

    Two page-locked buffers take turns: the CPU fills and copies one, on a separate stream, while the GPU computes on
    the other.
    """
    device, novelty = classifier.device, classifier.novelty
    own, copying = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    batch = min(batch, len(pixels))
    buffers = [torch.empty((batch, *pixels.shape[1:]), dtype=torch.uint8, pin_memory=True) for _ in range(2)]
    copied = [torch.cuda.Event(), torch.cuda.Event()]
    shares, distances = [], []
    with torch.inference_mode(), full_precision(device):
        for number, start in enumerate(range(0, len(pixels), batch)):
            piece = pixels[start : start + batch]
            buffer, done = buffers[number % 2][: len(piece)], copied[number % 2]
            done.synchronize()  # wait until the buffer's last content is on the GPU
            np.copyto(buffer.numpy(), piece)
            with torch.cuda.stream(copying):
                images = buffer.to(device, non_blocking=True)
                done.record(copying)
            own.wait_event(done)
            images.record_stream(own)  # keeps its memory from the next copy
            found = classifier.outputs(images, features=novelty is not None)
            shares.append(found[0])
            if novelty is not None:
                distances.append(novelty.distances(found[1]))
        return torch.cat(shares).cpu().numpy(), torch.cat(distances).cpu().numpy() if novelty else None
