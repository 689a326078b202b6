"""A traced network as a .pt2 file of PyTorch, and such a file run; neither writes nor reads a pickle."""

import copy
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from resnet_core.errors import UserError
from resnet_core.export.graph import METADATA, Run

# What an archive of torch.export may hold: raw tensors, JSON, and the marks of its own format.
_HARMLESS = re.compile(
    r"(data/weights/weight_\d+|data/constants/tensor_\d+|data/(weights|constants)/\w+_config\.json"
    r"|models/\w+\.json|extra/\w+\.json|archive_format|archive_version|byteorder|\.data/(version|serialization_id))"
)


def write(program: ExportedProgram, metadata: str, path: Path) -> None:
    """The metadata is the archive's `extra/grayline.json`."""
    program = copy.copy(program)
    program.example_inputs = None  # the one thing of it that would be a pickle
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={f"{METADATA}.json": metadata})


def read_metadata(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith(f"/extra/{METADATA}.json"))
        return archive.read(name).decode("utf-8")


def check_no_pickle(path: Path) -> None:
    """Raises UserError for an archive in which torch.export.load would find something to unpickle or to run."""
    with zipfile.ZipFile(path) as archive:
        for item in archive.infolist():
            name = item.filename.partition("/")[2]
            empty = name.startswith("data/sample_inputs/") and item.file_size == 0
            pickled = name.endswith("_config.json") and any(
                entry["use_pickle"] for entry in json.loads(archive.read(item))["config"].values()
            )
            if pickled or not (empty or _HARMLESS.fullmatch(name)):
                raise UserError(f"{path}: {item.filename} may be a pickle, and is not loaded. Export the model again.")


def load(path: Path) -> Run:
    """Raises UserError as `check_no_pickle` does."""
    check_no_pickle(path)
    with path.open("rb") as file:
        network = torch.export.load(file).module()

    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            found: NDArray[np.float32] = network(torch.from_numpy(np.ascontiguousarray(images))).numpy()
            return found

    return run
