"""Everything a training run needs to go on where it was killed, in one safetensors file.

Tensors: `model.*`, `average.*` (the averaged weights), `optimizer.<parameter>.<name>`. The header's
metadata holds the rest as readable JSON: the epochs done, the optimizer's and the schedule's
settings. No pickle. The file is replaced as a whole, after each epoch.
"""

import json
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from upath import UPath

from resnet_core.files import as_local, write_whole


def save(
    path: UPath,
    model: nn.Module,
    average: nn.Module,
    optimizer: Optimizer,
    schedule: LRScheduler,
    epochs: list[Any],
) -> None:
    """Write the state after the last of `epochs`."""
    state = optimizer.state_dict()
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    for parameter, values in state["state"].items():
        tensors |= {f"optimizer.{parameter}.{name}": value for name, value in values.items()}
    settings = {"epochs": epochs, "optimizer": state["param_groups"], "schedule": schedule.state_dict()}
    contiguous = {name: value.contiguous() for name, value in tensors.items()}
    with write_whole(path) as file:
        save_file(contiguous, file, metadata={"grayline": json.dumps(settings)})


def load(path: UPath, model: nn.Module, average: nn.Module, optimizer: Optimizer, schedule: LRScheduler) -> list[Any]:
    """Put a saved state back and return its epochs; none when there is no such file."""
    if not path.exists():
        return []
    with as_local(path) as file, safe_open(file, framework="pt") as saved:
        settings = json.loads(saved.metadata()["grayline"])
        tensors = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118
    model.load_state_dict(_under(tensors, "model"))
    average.load_state_dict(_under(tensors, "average"))
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _under(tensors, "optimizer").items():
        parameter, _, key = name.partition(".")
        state.setdefault(int(parameter), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": settings["optimizer"]})
    schedule.load_state_dict(settings["schedule"])
    return settings["epochs"]


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix + "."): t for name, t in tensors.items() if name.startswith(prefix + ".")}
