"""Torch files: a traced network as a .pt2 file of PyTorch, written and read without pickles."""

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

# Members that an archive of torch.export may have: raw tensors, JSON, and the marks of its own format.
_HARMLESS = re.compile(
    r"(data/weights/weight_\d+|data/constants/tensor_\d+|data/(weights|constants)/\w+_config\.json"
    r"|models/\w+\.json|extra/\w+\.json|archive_format|archive_version|byteorder|\.data/(version|serialization_id))"
)


def write(program: ExportedProgram, metadata: str, path: Path) -> None:
    """Write the file; the metadata is the archive's `extra/grayline.json`."""
    program = copy.copy(program)
    program.example_inputs = None  # they would be a pickle
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={f"{METADATA}.json": metadata})


def read_metadata(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith(f"/extra/{METADATA}.json"))
        return archive.read(name).decode("utf-8")


def check_no_pickle(path: Path) -> None:
    """Raise UserError if torch.export.load would find something to unpickle or to run in the archive."""
    with zipfile.ZipFile(path) as archive:
        for item in archive.infolist():
            name = item.filename.partition("/")[2]
            empty = name.startswith("data/sample_inputs/") and item.file_size == 0
            pickled = name.endswith("_config.json") and any(
                entry["use_pickle"] for entry in json.loads(archive.read(item))["config"].values()
            )
            if pickled or not (empty or _HARMLESS.fullmatch(name)):
                raise UserError(f"{path}: not loaded, {item.filename} may be a pickle. Export the model again.")


def load(path: Path) -> Run:
    """Load the file. Raises UserError as `check_no_pickle` does."""
    check_no_pickle(path)
    with path.open("rb") as file:
        network = torch.export.load(file).module()

    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            probabilities: NDArray[np.float32] = network(torch.from_numpy(np.ascontiguousarray(images))).numpy()
            return probabilities

    return run
