"""Engines: ways to compute what `Classifier.probabilities` computes, of which a batch takes the fastest.

    torch     the network folded (see `folded`), on a GPU with copies that run beside it (see `engine_cuda`)
    compile   torch.compile, which writes and compiles C++ for this network
    onnx      ONNX Runtime
    openvino  OpenVINO
    int8      ONNX Runtime with weights and activations of a byte; not the same probabilities

On a CPU an engine computes each call on one thread, and is called from as many threads as there are cores:
nothing waits for a thread that is behind, and each core's images stay in its cache.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from shutil import which
from threading import Lock, local
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from resnet_core.device import one_thread
from resnet_core.errors import UserError, nearest
from resnet_core.export import onnx_file as exported_onnx
from resnet_core.export.formats import check_installed
from resnet_core.export.graph import Run as Run
from resnet_core.export.graph import ScoringGraph, describe, trace
from resnet_core.export.quiet import quiet
from resnet_core.inference import _cuda as engine_cuda
from resnet_core.inference.folded import fold
from resnet_core.model.classifier import Classifier

EngineName = Literal["torch", "compile", "onnx", "openvino", "int8"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
FROM_FILE: tuple[EngineName, ...] = ("onnx", "openvino", "int8")
_COMPILERS = ("g++", "clang++", "c++")


@dataclass(frozen=True)
class Engine:
    """`run`: preprocessed uint8 [N, S, S], of any N, -> calibrated float32 [N, C], `batch_size` images at a time.
    It may be called from several threads at once."""

    name: EngineName
    run: Run
    batch_size: int


def check_engine(option: str, wanted: str, device: torch.device) -> EngineName:
    """Raises UserError, about the option, for what is no engine, is not installed, or is not for the device."""
    known = next((name for name in ENGINES if name == wanted), None)
    if known is None:
        raise UserError(
            f"{option}: no engine {wanted!r}.{nearest(wanted, list(ENGINES))} Choose from: auto, {', '.join(ENGINES)}."
        )
    if known == "torch":
        return known
    if device.type != "cpu":
        raise UserError(f"{option} {known}: computes on the CPU, and the device is {device}. Set GRAYLINE_DEVICE=cpu.")
    check_installed(option, known)
    if known == "compile" and not compiler():
        raise UserError(f"{option} compile: needs a C++ compiler. Install g++, or choose another engine.")
    return known


def can_run(name: EngineName, device: torch.device) -> bool:
    try:
        check_engine("", name, device)
    except UserError:
        return False
    return True


def compiler() -> str | None:
    return next((found for name in _COMPILERS if (found := which(name))), None)


def usual_batch(classifier: Classifier) -> int:
    """On a GPU, where to start to look for what its memory has room for."""
    return engine_cuda.LARGEST if classifier.device.type == "cuda" else classifier.usual_batch()


def open_torch(classifier: Classifier, batch_size: int, plain: bool = False) -> Engine:
    """plain: the network as it is, not folded."""
    device = classifier.device
    own = classifier if plain else folded(classifier, onednn=batch_size)
    if device.type == "cuda":
        return Engine("torch", *engine_cuda.open_engine(own, batch_size))
    if device.type == "cpu":
        return Engine("torch", alone(lambda pixels: own.probabilities(pixels, batch_size)), batch_size)
    return Engine("torch", _one_by_one(lambda pixels: own.probabilities(pixels, batch_size)), batch_size)


def open_compiled(classifier: Classifier, batch_size: int) -> Engine:
    """It is compiled here, which takes a minute. torch's own cache of compiled code is not used: it is a pickle."""
    graph = ScoringGraph(folded(classifier)).eval()
    settings: dict[str, Any] = {"freezing": True, "fx_graph_cache": False}
    made = torch.compile(graph, dynamic=False, options=settings)
    size = classifier.preprocessing.size

    def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return made(torch.from_numpy(pixels)).numpy().copy()

    run_alone = alone(run)
    with quiet():
        run_alone(np.zeros((batch_size, size, size), dtype=np.uint8))
    return Engine("compile", _in_pieces(run_alone, batch_size, len(classifier.classes), whole=True), batch_size)


def open_file(name: EngineName, path: Path, classes: int, workers: int, batch_size: int) -> Engine:
    """name: one of FROM_FILE. path: what `write_file`, or for int8 an export, has written. workers: threads that
    will call it at once."""
    run = _openvino_run(path, workers) if name == "openvino" else exported_onnx.load(path, threads=1)
    return Engine(name, _in_pieces(run, batch_size, classes), batch_size)


def _openvino_run(path: Path, workers: int) -> Run:
    """Each thread has a request of its own."""
    request, own = exported_onnx.openvino_requests(path, workers), local()

    def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        if not hasattr(own, "run"):
            own.run = request()
        return own.run(pixels)

    return run


def write_file(classifier: Classifier, name: str, version: str, path: Path) -> None:
    """The ONNX file that `onnx` and `openvino` run: of the folded network, which they would not make as small."""
    exported_onnx.write(trace(folded(classifier)), describe(classifier, name, version), path)


def folded(classifier: Classifier, onednn: int | None = None) -> Classifier:
    """On the classifier's device."""
    return replace(classifier, network=fold(classifier.network, classifier.sides, onednn))


def alone(run: Run) -> Run:
    """Each call on the one thread that makes it."""

    def one(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with one_thread():
            return run(pixels)

    return one


def _one_by_one(run: Run) -> Run:
    """One call at a time."""
    lock = Lock()

    def one(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with lock:
            return run(pixels)

    return one


def _in_pieces(run: Run, batch_size: int, classes: int, whole: bool = False) -> Run:
    """Batches of that many images. whole: of just that many, the last one filled up with black images."""

    def every(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        found = [np.empty((0, classes), dtype=np.float32)]
        for start in range(0, len(pixels), batch_size):
            piece = np.ascontiguousarray(pixels[start : start + batch_size])
            missing = batch_size - len(piece)
            if whole and missing:
                padded = np.concatenate([piece, np.zeros((missing, *piece.shape[1:]), dtype=np.uint8)])
                found.append(run(padded)[: len(piece)])
            else:
                found.append(run(piece))
        return np.concatenate(found)

    return every
