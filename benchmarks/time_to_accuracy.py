"""Seconds of training to an accuracy: `python -m benchmarks time_to_accuracy [PART]`, by itself.

Ours is `data/elpv.yaml`, from the shards of a night. The peers are torchvision's and timm's recipes over image files
of the same split, the originals of 300 pixels. All use the same input size on the same cores. They are evaluated on
the same images after every epoch. The networks are those of the recipes: the peers' ResNet-18 has a first stage of 64
channels, ours the `width` of the file. Neither evaluation nor the time before the first step is counted; for ours
that is a night's ingest. The first epoch that reaches the target counts. A peer that has not reached it in twice our
seconds is stopped: its time is at least that, and so is the ratio. The goal is twice.

A schedule that is cut off in its middle says little about its end. So the peers run twice. `documented` has all the
epochs that the authors recommend. `shortened` has a schedule of the same shape, with as many epochs as reach the limit.
"""

import hashlib
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from upath import UPath

from benchmarks.nights import place, preprocess, write_sample
from benchmarks.peers import recipe, timm_recipe, torchvision_recipe
from benchmarks.peers.recipe import Trained
from benchmarks.rounds import Comparison, Measure, Result, Track
from benchmarks.trainings import RESIDENT_BYTES, kept, percents
from resnet_core.device import describe, find_device
from resnet_core.shards import format as shards
from resnet_core.shards.format import Split
from resnet_core.storage.digest import source_digest
from resnet_core.training.job import Job
from resnet_core.training.job import run as train
from resnet_core.training.loop import Epoch
from tasks.training.run import job_of
from tasks.values import ShardSet

TARGET = 0.82
SEEDS = 3  # of ours; the median is what the peers are held against
TIMES = 2  # so many times our seconds a peer has
PEERS = {"torchvision": torchvision_recipe, "timm": timm_recipe}
PARTS = ("documented", "shortened")

Show = Callable[[float], None]


class ReachedError(Exception):
    """Ends our training."""


def run(
    folder: Path, track: Track, parts: tuple[str, ...] = (), target: float = TARGET, seeds: int = SEEDS, **changes: Any
) -> Result:
    """`changes`: of TrainConfig, to try things out on."""
    parts, device = parts or PARTS, find_device()
    dataset = write_sample("elpv", folder / "raw")
    made = preprocess(dataset, UPath(folder / "store"))
    write_folders(made, folder / "raw", folder / "data")
    job = job_of(made, dataset, place(made.folder, RESIDENT_BYTES))
    job = replace(job, files=(validated(made, folder),), validation=made.test, config=replace(job.config, **changes))
    show = percents(track, seeds + len(parts) * len(PEERS))

    races = [our_race(made, job, seed, target, device, partial(show, seed)) for seed in range(seeds)]
    seconds = tuple(race["seconds"] if race["reached"] else math.inf for race in races)
    peers: list[tuple[str, dict[str, Any]]] = []
    if median(seconds) < math.inf:
        for part in parts:
            for name in PEERS:
                step = partial(show, seeds + len(peers))
                race = peer_race(name, part, folder / "data", made, target, TIMES * median(seconds), device, step)
                peers.append((f"{name}, {part}", race))
    setting = (
        f"ELPV, {made.train:,} training images, {made.test:,} held out, {made.preprocessing.size} px, on "
        f"{describe(device)}; {'; '.join(told(name, race) for name, race in [*named(races), *peers])}"
    )
    reached = tuple(value for value in seconds if value < math.inf)
    ours = (Measure(f"to accuracy {target}, recipe {dataset.recipe}", reached, "s"),) if reached else ()
    return Result("time_to_accuracy", setting, tuple(compare(median(seconds), *peer) for peer in peers), ours)


def our_race(made: ShardSet, job: Job, seed: int, target: float, device: torch.device, show: Show) -> dict[str, Any]:
    job = replace(job, config=replace(job.config, seed=seed))

    def work(checkpoint: UPath) -> dict[str, Any]:
        done: list[Trained] = []

        def on_epoch(epoch: Epoch) -> None:
            assert epoch.validation_accuracy is not None
            done.append(Trained(job.train / epoch.images_per_second, epoch.validation_accuracy))
            show(epoch.epoch / job.config.epochs)
            if epoch.validation_accuracy >= target:
                raise ReachedError

        with suppress(ReachedError):
            train(job, device, on_epoch=on_epoch)
        return summed_up(done, target)

    race = kept(f"race-ours-{seed}", work, made.digest, job.model, job.config, target)
    show(1)
    return race


def peer_race(
    name: str, part: str, data: Path, made: ShardSet, target: float, limit: float, device: torch.device, show: Show
) -> dict[str, Any]:
    module, side = PEERS[name], made.preprocessing.size

    def work(checkpoint: UPath) -> dict[str, Any]:
        torch.manual_seed(0)
        epochs = module.EPOCHS
        if part == "shortened":
            epochs = math.ceil(limit / next(module.train(data, side, epochs, device)).seconds)
        done: list[Trained] = []
        for epoch in module.train(data, side, epochs, device):
            done.append(epoch)
            spent = sum(one.seconds for one in done)
            show(min(1.0, spent / limit))
            if epoch.accuracy >= target or spent >= limit:
                break
        return summed_up(done, target)

    race = kept(f"race-{name}-{part}", work, made.digest, target, limit, source_digest(recipe, module))
    show(1)
    return race


def summed_up(epochs: list[Trained], target: float) -> dict[str, Any]:
    accuracies = [epoch.accuracy for epoch in epochs]
    return {
        "reached": max(accuracies) >= target,
        "seconds": sum(epoch.seconds for epoch in epochs),
        "accuracies": accuracies,
    }


def named(races: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    return [(f"ours, seed {seed}", race) for seed, race in enumerate(races)]


def told(name: str, race: dict[str, Any]) -> str:
    end = "reached it" if race["reached"] else f"came to {max(race['accuracies']):.3f}, and not farther,"
    return f"{name}: {end} in {len(race['accuracies'])} epochs of {race['seconds']:.0f} s together"


def compare(seconds: float, name: str, race: dict[str, Any]) -> Comparison:
    """Trainings an hour: the ratio is the peer's seconds to ours."""
    bound = "" if race["reached"] else ", at most (stopped)"
    return Comparison(
        f"trainings to the target, ratio{' at least' if bound else ''}",
        f"{name}{bound}",
        (3600 / seconds,),
        (3600 / race["seconds"],),
        unit="an hour",
    )


def validated(made: ShardSet, folder: Path) -> UPath:
    """The shards in one file, the test images as validation images: those are looked at after each epoch."""
    table = pa.concat_tables(pq.read_table(str(path)) for path in made.files)
    place = table.schema.get_field_index("split")
    split = pc.if_else(pc.equal(table["split"], "test"), "validation", table["split"])
    path = UPath(folder / "validated.parquet")
    shards.write_table(table.set_column(place, table.schema.field(place), split), str(path), None)
    return path


def write_folders(made: ShardSet, raw: Path, to: Path) -> None:
    """`train/<label>/` and `val/<label>/`, links to the original files of the images in the shards."""
    files = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in (raw / "images").iterdir()}
    splits: dict[Split, str] = {"train": "train", "test": "val"}
    for split, name in splits.items():
        images = shards.read(made.files, split, made.classes)
        for image, label in zip(images.image_ids, images.labels, strict=True):
            link = to / name / made.classes[label] / files[image].name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(files[image].resolve())
