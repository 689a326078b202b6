"""Checkpoint of a training: a safetensors file, replaced as a whole after each epoch.

model.*                         the weights
average.*                       the averaged weights
best.*                          the averaged weights of the best epoch, if they are kept
optimizer.<parameter>.<name>    the optimizer's state
metadata "grayline"             JSON: the epochs done, settings of optimizer, schedule and gradient scaler
metadata "crc32"                of all tensors, in the order of their names: a file may be torn within

A checkpoint that cannot be read whole is not there: the training begins again, with a line that says so.
"""

import json
import logging
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from upath import UPath

from resnet_core.storage.files import as_local, write_whole
from resnet_core.training._learner import Learner

log = logging.getLogger("grayline")


def tensors_of(learner: Learner) -> dict[str, Tensor]:
    """Return every tensor of the state by its name."""
    tensors = {f"model.{name}": value for name, value in learner.model.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in learner.average.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in (learner.best or {}).items()}
    for parameter, values in learner.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{parameter}.{name}": value for name, value in values.items()}
    return tensors


def save(path: UPath, learner: Learner, epochs: list[Any]) -> None:
    """Write the state after the last of `epochs`."""
    contiguous = {name: value.contiguous() for name, value in tensors_of(learner).items()}
    text = json.dumps({"epochs": epochs, **learner.settings()})
    with write_whole(path) as file:
        save_file(contiguous, file, metadata={"grayline": text, "crc32": _crc32(contiguous)})


def _crc32(tensors: Mapping[str, Tensor]) -> str:
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].cpu().reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"


def load(path: UPath, learner: Learner) -> list[Any]:
    """Restore a saved state and return its epochs; without a file that can be read whole, an empty list."""
    if not path.exists():
        return []
    try:
        with as_local(path) as file, safe_open(file, framework="pt") as saved:
            facts = saved.metadata()
            settings = json.loads(facts["grayline"])
            tensors = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118
        if facts.get("crc32", crc := _crc32(tensors)) != crc:  # earlier releases wrote none
            raise ValueError("other bytes than were written")
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        log.warning("train       the checkpoint %s is damaged (%s): the training begins again", path, error)
        return []
    learner.model.load_state_dict(_under(tensors, "model"))
    learner.average.load_state_dict(_under(tensors, "average"))
    learner.best = _under(tensors, "best") or None
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _under(tensors, "optimizer").items():
        parameter, _, key = name.partition(".")
        state.setdefault(int(parameter), {})[key] = value
    learner.optimizer.load_state_dict({"state": state, "param_groups": settings["optimizer"]})
    learner.schedule.load_state_dict(settings["schedule"])
    learner.scaler.load_state_dict(settings["scaler"])
    learner.steps, learner.pieces = settings["steps"], settings["pieces"]
    return settings["epochs"]


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix + "."): t for name, t in tensors.items() if name.startswith(prefix + ".")}
