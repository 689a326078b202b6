"""Workspace: where a flow works, made once from the machine's settings and the data set; and whether it has room."""

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from upath import UPath

from resnet_core.errors import JobError, OverstayedError
from resnet_core.images.limits import Limits
from resnet_core.shards.encryption import Keys
from resnet_core.storage.files import is_local
from resnet_core.storage.turns import check_turns
from tasks.dataset import Dataset
from tasks.settings import Settings, check_store, keys_for, known_keys
from tasks.store import Store

if TYPE_CHECKING:
    from resnet_core.model.resnet import ModelConfig

_PIXELS = 3  # copies of the pixels of a new image: one in the cache, two in the shards
_WEIGHTS = 8  # copies of the weights: a checkpoint has up to four, the training one, MLflow one, its uploads two
_ROW = 1024  # bytes of a row of scores


@dataclass(frozen=True)
class Workspace:
    """The store, MLflow's address, and the machine's part in the work.

    device: auto, cpu, cuda, cuda:1 or mps. limits: the most that an image may cost. runner: threads, processes or
    ray. resident_bytes: training pixels up to this size stay in the device's memory. keys: encryption keys; None
    where nothing is encrypted. began: seconds of `_clock`. hours: how long a night may take.
    """

    store: Store
    tracking_uri: str
    device: str
    limits: Limits
    runner: str
    resident_bytes: int
    keys: Keys | None = None
    began: float = 0.0
    hours: float | None = None

    def of(self, dataset: Dataset) -> "Workspace":
        """Return the workspace with the keys of a data set. Raises UserError if it is encrypted and no key is set."""
        return replace(self, keys=keys_for(dataset.encrypt, Settings()))

    def check_time(self, done: str) -> None:
        """End the night here if its hours are over, or if another machine has taken its turn. done: up to now.

        Raises OverstayedError or OccupiedError. Called at checkpoints alone, so that nothing is lost.
        """
        check_turns()
        if self.hours is not None and _clock() - self.began > self.hours * 3600:
            raise OverstayedError(
                f"the night has taken longer than GRAYLINE_NIGHT_HOURS={self.hours:g}: ended after {done}. The next "
                "night goes on from there; give it more hours, or a smaller `train.epochs`."
            )

    def with_known_keys(self) -> "Workspace":
        """Return the workspace with all keys that are set, for data sets that may be encrypted."""
        return replace(self, keys=known_keys(Settings()))


def workspace(dataset: Dataset | None = None, *, made: bool = True) -> Workspace:
    """Make the workspace, and its store if it is new. Raises UserError if the store cannot be written.

    made: whether there has to be a store; a look at a source needs none.
    """
    settings = Settings()
    here = Workspace(
        store=Store(settings.root),
        tracking_uri=settings.tracking_uri,
        device=settings.device,
        limits=settings.limits,
        runner=settings.runner,
        resident_bytes=settings.resident_bytes,
        began=_clock(),
        hours=settings.night_hours,
    )
    if dataset:
        here = here.of(dataset)
    if made:
        check_store(settings.root)
    return here


def _clock() -> float:
    """Return seconds that no one sets, and that count while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def ask_for(place: UPath, needed: int, work: str) -> None:
    """Raise JobError unless the disk of `place` has so many bytes free, and `GRAYLINE_FREE_BYTES` more.

    Object stores are not asked.
    """
    least = Settings().free_bytes
    if not least or not is_local(place):
        return
    folder = next(parent for parent in (Path(place.path), *Path(place.path).parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < needed + least:
        raise JobError(
            f"{work}: not enough space on the disk of {place}: {_mb(free)} free, about {_mb(needed + least)} needed. "
            "Make room (`grayline prune` lists what nothing needs), or set GRAYLINE_STORE to a larger disk."
        )


def of_night(files: int, size: int, model: "ModelConfig") -> int:
    """Return the bytes for so many new files; a night without any needs next to none."""
    if not files:
        return 0
    import torch

    from resnet_core.model import resnet

    with torch.device("meta"):
        weights = sum(tensor.numel() for tensor in resnet.build(model, size=size, classes=2).parameters())
    return _PIXELS * files * size**2 + _WEIGHTS * 4 * weights


def of_batch(files: int) -> int:
    return _ROW * files


def _mb(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
