"""Formats that a classifier is exported to, and runtimes of other frameworks that run what was exported."""

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

Format = Literal["onnx", "litert", "torch", "int8"]
Backend = Literal["tensorflow", "onnx", "openvino", "torch"]
FORMATS: tuple[str, ...] = get_args(Format)
BACKENDS: tuple[str, ...] = get_args(Backend)

SUFFIX: dict[Format, str] = {"onnx": ".onnx", "litert": ".tflite", "torch": ".pt2", "int8": ".onnx"}
RUNS: dict[Backend, Format] = {"tensorflow": "litert", "onnx": "onnx", "openvino": "onnx", "torch": "torch"}
# What has to be installed beside PyTorch, and the extra that brings it.
ONNX = ("onnx", "onnxscript", "onnxruntime")
NEEDS: dict[str, tuple[tuple[str, ...], str]] = {
    "onnx": (ONNX, "onnx"),
    "int8": (ONNX, "onnx"),
    "openvino": ((*ONNX, "openvino"), "onnx"),
    "litert": (("tensorflow",), "tensorflow"),
    "tensorflow": (("tensorflow",), "tensorflow"),
    "tfrecord": (("tensorflow",), "tensorflow"),
}


def check_installed(option: str, wanted: str) -> None:
    """option: as the user wrote it, for the text of the UserError that is raised where a package is missing."""
    packages, extra = NEEDS.get(wanted, ((), ""))
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
