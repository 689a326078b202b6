"""Engines: ways to compute `Classifier.probabilities`; a batch takes the fastest.

    torch     the folded network (see `folded`); on a GPU, copies run beside the computation (see `_cuda`)
    compile   torch.compile, which writes and compiles C++ for this network
    onnx      ONNX Runtime
    openvino  OpenVINO
    int8      ONNX Runtime with 8-bit weights and activations; its probabilities differ

On a CPU, an engine computes each call on one thread. As many threads as there are cores call it: none waits for
another, and the images of a core stay in its cache.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from shutil import which
from threading import local
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from resnet_core.errors import UserError, nearest
from resnet_core.export import onnx_file
from resnet_core.export.formats import check_installed
from resnet_core.export.graph import Outputs, ScoringGraph, describe, trace
from resnet_core.export.graph import Run as Run
from resnet_core.export.quiet import quiet
from resnet_core.inference import _cuda
from resnet_core.inference._calls import Answer, alone, in_pieces, one_by_one
from resnet_core.inference.folded import fold
from resnet_core.model.classifier import Classifier
from resnet_core.model.novelty import Novelty

EngineName = Literal["torch", "compile", "onnx", "openvino", "int8"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
FROM_FILE: tuple[EngineName, ...] = ("onnx", "openvino", "int8")
_COMPILERS = ("g++", "clang++", "c++")


@dataclass(frozen=True)
class Engine:
    """`run`: preprocessed uint8 [N, S, S] -> calibrated float32 [N, C], `batch_size` images at a time.

    Several threads may call it at once. refused: the engine that this machine may not use, and why.
    answer: the same with the distances by which a version tells unknown images; None: this engine has none.
    """

    name: EngineName
    run: Run
    batch_size: int
    refused: tuple[str, str] | None = None
    answer: Answer | None = None


def check_engine(option: str, wanted: str, device: torch.device) -> EngineName:
    """Return the engine's name. Raises UserError if it is unknown, not installed, or not for the device."""
    name = next((engine for engine in ENGINES if engine == wanted), None)
    if name is None:
        raise UserError(
            f"{option}: unknown engine {wanted!r}.{nearest(wanted, list(ENGINES))} Known: auto, {', '.join(ENGINES)}."
        )
    if name == "torch":
        return name
    if device.type != "cpu":
        raise UserError(f"{option} {name}: computes on the CPU, but the device is {device}. Set GRAYLINE_DEVICE=cpu.")
    check_installed(option, name)
    if name == "compile" and not compiler():
        raise UserError(f"{option} compile: needs a C++ compiler. Install g++, or choose another engine.")
    return name


def can_run(name: EngineName, device: torch.device) -> bool:
    try:
        check_engine("", name, device)
    except UserError:
        return False
    return True


def compiler() -> str | None:
    return next(filter(None, map(which, _COMPILERS)), None)


def usual_batch(classifier: Classifier) -> int:
    """Return the usual batch size; on a GPU, the size from which to search for one that fits."""
    return _cuda.LARGEST if classifier.device.type == "cuda" else classifier.usual_batch()


def open_torch(classifier: Classifier, batch_size: int, plain: bool = False) -> Engine:
    """Open PyTorch. plain: the network as it is, not folded."""
    device = classifier.device
    own = classifier if plain else folded(classifier, onednn=batch_size)
    if device.type == "cuda":
        return _engine("torch", *_cuda.open_engine(own, batch_size))
    take_turns = alone if device.type == "cpu" else one_by_one
    return _engine("torch", take_turns(lambda pixels: own.answer(pixels, batch_size)), batch_size)


def _engine(name: EngineName, answer: Answer, batch_size: int) -> Engine:
    return Engine(name, lambda pixels: answer(pixels)[0], batch_size, answer=answer)


def open_compiled(classifier: Classifier, batch_size: int) -> Engine:
    """Compile the network, which takes a minute, without torch's cache of compiled code: it is a pickle."""
    graph = ScoringGraph(folded(classifier), features=True).eval()
    settings: dict[str, Any] = {"freezing": True, "fx_graph_cache": False}
    made = torch.compile(graph, dynamic=False, options=settings)
    size = classifier.preprocessing.size

    def outputs(pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        with torch.inference_mode():
            return [output.numpy().copy() for output in made(torch.from_numpy(pixels))]

    outputs_alone = alone(outputs)
    with quiet():
        outputs_alone(np.zeros((batch_size, size, size), dtype=np.uint8))
    answer = in_pieces(outputs_alone, batch_size, len(classifier.classes), classifier.novelty, whole=True)
    return _engine("compile", answer, batch_size)


def open_file(
    name: EngineName, path: Path, classes: int, workers: int, batch_size: int, novelty: Novelty | None = None
) -> Engine:
    """Open a file of `write_file`, or for int8 an exported file. name: one of FROM_FILE.

    workers: number of threads that will call the engine at once.
    """
    outputs = _openvino_outputs(path, workers) if name == "openvino" else onnx_file.load_outputs(path, threads=1)
    held_out = onnx_file.held_out(path) if name == "int8" else None
    return _engine(name, in_pieces(outputs, batch_size, classes, novelty, held_out=held_out), batch_size)


def _openvino_outputs(path: Path, workers: int) -> Outputs:
    """Give every thread its own request."""
    request, own = onnx_file.openvino_requests(path, workers), local()

    def outputs(pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        if not hasattr(own, "outputs"):
            own.outputs = request()
        found: list[NDArray[np.float32]] = own.outputs(pixels)
        return found

    return outputs


def write_file(classifier: Classifier, name: str, version: str, path: Path) -> None:
    """Write the ONNX file for `onnx` and `openvino`, of the folded network: they would not fold as much."""
    program = trace(folded(classifier), features=classifier.novelty is not None)
    onnx_file.write(program, describe(classifier, name, version), path)


def folded(classifier: Classifier, onednn: int | None = None) -> Classifier:
    """Return the classifier with a folded network, on its device."""
    return replace(classifier, network=fold(classifier.network, classifier.sides, onednn))
