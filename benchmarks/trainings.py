"""Trainings that take minutes: their progress, and results that are kept.

A result lies in a folder named by everything that decides it: data, settings, code. An interrupted command finds its
finished trainings and resumes the others from their last epoch's checkpoint.
The name does not cover the load of the machine: `rm -r benchmarks/results/trainings` measures again.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from benchmarks.rounds import Track
from resnet_core.device import find_device
from resnet_core.evaluation import metrics
from resnet_core.model import classifier
from resnet_core.model.classifier import Classifier
from resnet_core.shards import format as shards
from resnet_core.storage.digest import digest_of, source_digest
from resnet_core.storage.files import write_text
from resnet_core.training import job as training
from resnet_core.training.distributed import World
from resnet_core.training.loop import Epoch
from tasks.training.run import LEARNING
from tasks.values import ShardSet

KEPT = Path(__file__).parent / "results" / "trainings"
RESIDENT_BYTES = 2 * 1024**3

Show = Callable[[int, float], None]


class Test(NamedTuple):
    """The held-out images."""

    image_ids: list[str]
    labels: NDArray[np.int64]  # [N]
    pixels: NDArray[np.uint8]  # [N, H, W]


def held_out(shard_set: ShardSet) -> Test:
    images = shards.read(shard_set.files, "test", shard_set.classes)
    return Test(images.image_ids.tolist(), images.labels, images.pixels)


def kept(name: str, work: Callable[[UPath], dict[str, Any]], *decides: Any) -> dict[str, Any]:
    """Return the result of `work`, kept from an earlier run or new. It is given a path for a checkpoint."""
    folder = UPath(KEPT / f"{name}-{digest_of(*decides, source_digest(*LEARNING, classifier, metrics))}")
    outcome, checkpoint = folder / "outcome.json", folder / "state.safetensors"
    if not outcome.exists():
        write_text(outcome, json.dumps(work(checkpoint), indent=2) + "\n")
        checkpoint.unlink(missing_ok=True)
    return dict(json.loads(outcome.read_text(encoding="utf-8")))


def train(job: training.Job, checkpoint: UPath, show: Callable[[float], None]) -> tuple[Classifier, list[Epoch]]:
    """Go on from the checkpoint, if it is there. show: told the share of the epochs that is done, after each."""

    def on_epoch(epoch: Epoch) -> None:
        show(epoch.epoch / job.config.epochs)

    return training.run(replace(job, state=checkpoint), World(find_device()), on_epoch=on_epoch)


def seconds(epochs: Sequence[Epoch], images: int) -> float:
    """Return the seconds of the epochs, without validation and checkpoints between them."""
    return sum(images / epoch.images_per_second for epoch in epochs)


def percents(track: Track, trainings: int) -> Show:
    """A bar over that many trainings. Call it with the number of a training and its share that is done."""
    ticks = iter(track(range(100 * trainings)))
    shown = 0

    def show(number: int, share: float) -> None:
        nonlocal shown
        while shown < round(100 * (number + share)):
            next(ticks, None)
            shown += 1
        if shown == 100 * trainings:
            next(ticks, None)  # its last step is counted when the next one is asked for

    return show
