"""Scoring on a GPU: images are copied to it while it computes, in batches as large as its memory allows."""

from collections.abc import Callable
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray

from resnet_core.device import full_precision
from resnet_core.model.classifier import Classifier

LARGEST = 1024  # images of a batch; more do not make a GPU faster

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def open_engine(classifier: Classifier, batch_size: int = LARGEST) -> tuple[Run, int]:
    """Calibrated probabilities as `Classifier.probabilities`, and the batch size that the memory has room for, at
    most the given one. Calls of several threads take turns: the network is there once. Raises
    torch.OutOfMemoryError where there is no room for a single image."""
    lock, size = Lock(), classifier.preprocessing.size
    batch = fitting(lambda n: _streamed(classifier, np.zeros((n, size, size), np.uint8), n), batch_size)

    def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        nonlocal batch
        if len(pixels) == 0:
            return np.empty((0, len(classifier.classes)), dtype=np.float32)
        with lock:
            found: list[NDArray[np.float32]] = []
            # Others use the GPU too: what fitted when it was opened may not any more.
            batch = fitting(lambda n: found.append(_streamed(classifier, pixels, n)), batch)
        return classifier.calibration.calibrated(found[0])

    return run, batch


def fitting(work: Callable[[int], object], batch: int) -> int:
    """Do the work in batches of that many images, or in half as many where the memory is full, and so on.
    Returns how many it was done with."""
    while True:
        try:
            work(batch)
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            batch //= 2
        else:
            return batch
        # Not in the except block, where the traceback holds on to the tensors.
        torch.cuda.empty_cache()


def _streamed(classifier: Classifier, pixels: NDArray[np.uint8], batch: int) -> NDArray[np.float32]:
    """uint8 [N, S, S] -> float32 [N, C], not calibrated. Two page-locked buffers take turns: one is filled
    and copied on a stream of its own while the GPU computes on what the other has brought."""
    device = classifier.device
    own, copying = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    batch = min(batch, len(pixels))
    buffers = [torch.empty((batch, *pixels.shape[1:]), dtype=torch.uint8, pin_memory=True) for _ in range(2)]
    copied = [torch.cuda.Event(), torch.cuda.Event()]
    found = []
    with torch.inference_mode(), full_precision(device):
        for number, start in enumerate(range(0, len(pixels), batch)):
            piece = pixels[start : start + batch]
            buffer, done = buffers[number % 2][: len(piece)], copied[number % 2]
            done.synchronize()  # until the buffer's last content is on the GPU
            np.copyto(buffer.numpy(), piece)
            with torch.cuda.stream(copying):
                images = buffer.to(device, non_blocking=True)
                done.record(copying)
            own.wait_event(done)
            images.record_stream(own)  # or its memory would be given to the next copy while it is read
            found.append(classifier.shares(images))
        return torch.cat(found).cpu().numpy()
