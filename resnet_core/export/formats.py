"""Formats: file formats that a classifier is exported to, and the runtimes of other frameworks that run the files.

format   file      runtimes             needs
onnx     .onnx     onnx, openvino       the extra `onnx`
int8     .onnx     onnx                 the extra `onnx`
litert   .tflite   tensorflow           the extra `tensorflow`
torch    .pt2      torch                nothing
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from resnet_core.errors import UserError
from resnet_core.export import litert_file, onnx_file, torch_file
from resnet_core.export.graph import Run
from resnet_core.model.classifier import Classifier
from resnet_core.shards.format import Images

BATCH = 64


@dataclass(frozen=True)
class Agreement:
    """Probabilities of the classifier and of the exported file for the same N images, and the seconds of each."""

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
        """Return the largest difference of two probabilities of the same class and image; infinity for NaN."""
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
    """Compare the first `most` images, or all if there are fewer.

    advance: called with the number of further images.
    Raises ValueError without images, and for output of another shape.
    """
    labels: list[NDArray[np.int64]] = []
    own: list[NDArray[np.float32]] = []
    exported: list[NDArray[np.float32]] = []
    count, took = 0, [0.0, 0.0]
    for part in images:
        for start in range(0, min(len(part), most - count), BATCH):
            end = min(start + BATCH, most - count)
            pixels = np.ascontiguousarray(part.pixels[start:end])
            marks = [time.perf_counter()]
            for score, into in ((classifier.probabilities, own), (run, exported)):
                into.append(score(pixels))
                marks.append(time.perf_counter())
            took = [took[k] + marks[k + 1] - marks[k] for k in range(2)]
            if own[-1].shape != exported[-1].shape:
                raise ValueError(f"the file's output is {exported[-1].shape}, not {own[-1].shape}")
            labels.append(part.labels[start:end])
            advance(len(pixels))
        count += len(part)
        if count >= most:
            break
    if not labels:
        raise ValueError("there are no images to compare on")
    return Agreement(np.concatenate(labels), np.concatenate(own), np.concatenate(exported), *took)


Format = Literal["onnx", "litert", "torch", "int8"]
Backend = Literal["tensorflow", "onnx", "openvino", "torch"]
FORMATS: tuple[str, ...] = get_args(Format)
BACKENDS: tuple[str, ...] = get_args(Backend)

SUFFIX: dict[Format, str] = {"onnx": ".onnx", "litert": ".tflite", "torch": ".pt2", "int8": ".onnx"}
RUNS: dict[Backend, Format] = {"tensorflow": "litert", "onnx": "onnx", "openvino": "onnx", "torch": "torch"}
# Packages besides PyTorch, and the extra that installs them.
_ONNX = ("onnx", "onnxscript", "onnxruntime")
_NEEDS: dict[str, tuple[tuple[str, ...], str]] = {
    "onnx": (_ONNX, "onnx"),
    "int8": (_ONNX, "onnx"),
    "openvino": ((*_ONNX, "openvino"), "onnx"),
    "litert": (("tensorflow",), "tensorflow"),
    "tensorflow": (("tensorflow",), "tensorflow"),
    "tfrecord": (("tensorflow",), "tensorflow"),
}


def check_installed(option: str, wanted: str) -> None:
    """Raise UserError if a package is missing. option: the user's option, for the message."""
    packages, extra = _NEEDS.get(wanted, ((), ""))
    for package in packages:
        if find_spec(package) is None:
            raise UserError(f"{option} {wanted}: needs {package}. Run `pip install 'grayline[{extra}]'`.")


def write(
    kind: Format, program: ExportedProgram, metadata: str, path: Path, pixels: NDArray[np.uint8] | None = None
) -> None:
    """Write the file. pixels: training images, uint8 [N, S, S], on which int8 measures its scales."""
    match kind:
        case "onnx":
            onnx_file.write(program, metadata, path)
        case "int8":
            assert pixels is not None
            onnx_file.write_int8(program, metadata, path, pixels)
        case "litert":
            litert_file.write(program, metadata, path)
        case "torch":
            torch_file.write(program, metadata, path)


def load(backend: Backend, path: Path) -> Run:
    """Load a file into its framework's own runtime, on the CPU."""
    match backend:
        case "onnx":
            return onnx_file.load(path)
        case "openvino":
            return onnx_file.load_openvino(path)
        case "tensorflow":
            return litert_file.load(path)
        case "torch":
            return torch_file.load(path)


def runtime_of(kind: Format) -> Backend:
    """Return the runtime that checks an export."""
    return "onnx" if kind == "int8" else next(backend for backend, runs in RUNS.items() if runs == kind)


def accuracy(backend: Backend, labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> float:
    """Return the share of images whose most probable class is their label, by the framework's own metric.

    TensorFlow uses `tf.keras.metrics`, PyTorch its own arithmetic, the other runtimes scikit-learn.
    """
    match backend:
        case "tensorflow":
            return litert_file.accuracy(labels, probabilities)
        case "torch":
            right = torch.from_numpy(probabilities).argmax(1) == torch.from_numpy(labels)
            return float(right.double().mean())
        case _:
            from sklearn.metrics import accuracy_score

            return float(accuracy_score(labels, probabilities.argmax(1)))
