"""The engines of bulk scoring, against plain eager PyTorch: `python -m benchmarks engines [NAME ...]`.

The peer has normalised float tensors ready, contiguous as torch makes them. It runs the weights under
`inference_mode`, every step on all of torch's threads. Ours take uint8 images to calibrated probabilities as a batch
does: as many threads as the peer has, with images of their own. Both use the batch size that the engine would choose,
and the peer also batches of 128. Reading files is not included.
The difference is between the two softmax outputs; for int8, the gate judges it.

The limit: the network's multiplications and additions at the rate at which these cores multiply large matrices. Engines
that convolve as the network is written cannot be faster than that.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.rounds import Comparison, Difference, Result, Track, Turn, interleave, timed
from benchmarks.score import BATCH, CLASSES, MODEL, SIZE, contestants, eager
from resnet_core.export import onnx_file
from resnet_core.export.graph import describe, trace
from resnet_core.inference import engines
from resnet_core.inference.engines import ENGINES, FROM_FILE, Engine, EngineName, usual_batch
from resnet_core.model.classifier import Classifier
from resnet_core.model.resnet import ResNet

ROUNDS = 9
SECONDS = 1.0  # of a turn
CALL = 128  # images that a thread is given at a time
SQUARE = 2048  # rows and columns of the limit's matrices


def run(folder: Path, track: Track, names: Sequence[EngineName] = ENGINES) -> Result:
    pixels, floats, network, ours = contestants(folder)
    batch, workers = usual_batch(ours), torch.get_num_threads()
    opened = {name: opening(name, ours, folder, pixels, workers) for name in names or ENGINES}
    with ThreadPoolExecutor(workers) as threads:
        engines_of = {name: side_by_side(engine, pixels, workers, threads) for name, engine in opened.items()}
        peers = {f"eager, batch {size}": alone(network, floats, size) for size in dict.fromkeys((BATCH, batch))}
        peers["a matrix product's arithmetic (limit)"] = arithmetic(network, floats)
        rates = interleave(ROUNDS, engines_of | peers, track)
    wanted = eager(network, floats).numpy()
    differences = {name: apart(engine, pixels, wanted) for name, engine in opened.items()}
    lines = [
        Comparison(f"engine {name}", peer, rates[name], rates[peer], differences[name])
        for name in opened
        for peer in peers
    ]
    setting = (
        f"{MODEL.arch}, {SIZE} px; the peers on {workers} torch threads, ours on {workers} threads of one each, "
        f"batch {batch}"
    )
    return Result("engines", setting, tuple(lines))


def opening(name: EngineName, ours: Classifier, folder: Path, pixels: NDArray[np.uint8], workers: int) -> Engine:
    batch = usual_batch(ours)
    if name == "torch":
        return engines.open_torch(ours, batch)
    if name == "compile":
        return engines.open_compiled(ours, batch)
    path = folder / ("int8.onnx" if name == "int8" else "model.onnx")
    if name == "int8":
        onnx_file.write_int8(trace(ours), describe(ours, "cells", "1"), path, pixels)
    elif not path.exists():
        engines.write_file(ours, "cells", "1", path)
    assert name in FROM_FILE
    return engines.open_file(name, path, len(CLASSES), workers, batch)


def side_by_side(engine: Engine, pixels: NDArray[np.uint8], workers: int, threads: ThreadPoolExecutor) -> Turn:
    pieces = [pixels[start : start + CALL] for start in range(0, len(pixels), CALL)] * workers
    return timed(lambda: sum(len(found) for found in threads.map(engine.run, pieces)), SECONDS)


def alone(network: ResNet, x: Tensor, batch: int) -> Turn:
    def work() -> int:
        with torch.inference_mode():
            return sum(len(network(piece).softmax(1)) for piece in x.split(batch))

    return timed(work, SECONDS)


def arithmetic(network: ResNet, x: Tensor) -> Turn:
    """Images/s, if they cost what their multiplications cost in a product of large matrices."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(x[:1])
    images = 2 * SQUARE**3 / counter.get_total_flops()
    matrix = torch.randn(SQUARE, SQUARE)

    def work() -> float:
        torch.mm(matrix, matrix)
        return images

    return timed(work, SECONDS)


def apart(engine: Engine, pixels: NDArray[np.uint8], wanted: NDArray[np.float32]) -> Difference:
    gap = np.abs(engine.run(pixels) - wanted)
    return Difference(float(gap.mean()), float(gap.max()), "probability")
