"""Formats that a classifier is exported to, and runtimes of other frameworks that run what was exported."""

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
from resnet_core.export import litert_file as exported_litert
from resnet_core.export import onnx_file as exported_onnx
from resnet_core.export import torch_file as exported_torch
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


Format = Literal["onnx", "litert", "torch", "int8"]
Backend = Literal["tensorflow", "onnx", "openvino", "torch"]
FORMATS: tuple[str, ...] = get_args(Format)
BACKENDS: tuple[str, ...] = get_args(Backend)

SUFFIX: dict[Format, str] = {"onnx": ".onnx", "litert": ".tflite", "torch": ".pt2", "int8": ".onnx"}
RUNS: dict[Backend, Format] = {"tensorflow": "litert", "onnx": "onnx", "openvino": "onnx", "torch": "torch"}
# What has to be installed beside PyTorch, and the extra that brings it.
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
    """option: as the user wrote it, for the text of the UserError that is raised where a package is missing."""
    packages, extra = _NEEDS.get(wanted, ((), ""))
    for package in packages:
        if find_spec(package) is None:
            raise UserError(f"{option} {wanted}: needs {package}. Run `pip install 'grayline[{extra}]'`.")


def write(
    kind: Format, program: ExportedProgram, metadata: str, path: Path, pixels: NDArray[np.uint8] | None = None
) -> None:
    """pixels: training images, uint8 [N, S, S], that the scales of int8 are measured on; others need none."""
    match kind:
        case "onnx":
            exported_onnx.write(program, metadata, path)
        case "int8":
            assert pixels is not None
            exported_onnx.write_int8(program, metadata, path, pixels)
        case "litert":
            exported_litert.write(program, metadata, path)
        case "torch":
            exported_torch.write(program, metadata, path)


def load(backend: Backend, path: Path) -> Run:
    """The file in its framework's own runtime, on the CPU."""
    match backend:
        case "onnx":
            return exported_onnx.load(path)
        case "openvino":
            return exported_onnx.load_openvino(path)
        case "tensorflow":
            return exported_litert.load(path)
        case "torch":
            return exported_torch.load(path)


def runtime_of(kind: Format) -> Backend:
    """The runtime that an export is checked with."""
    return "onnx" if kind == "int8" else next(backend for backend, runs in RUNS.items() if runs == kind)


def accuracy(backend: Backend, labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> float:
    """The share of images whose most probable class is their label, by the framework's own metric:
    `tf.keras.metrics`, torch's own arithmetic, or scikit-learn's for those that have none."""
    match backend:
        case "tensorflow":
            return exported_litert.accuracy(labels, probabilities)
        case "torch":
            right = torch.from_numpy(probabilities).argmax(1) == torch.from_numpy(labels)
            return float(right.double().mean())
        case _:
            from sklearn.metrics import accuracy_score

            return float(accuracy_score(labels, probabilities.argmax(1)))
