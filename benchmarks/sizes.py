"""Images of other sizes than the training's: `python -m benchmarks sizes`, by itself.

Two networks learn from ELPV's cells at 96 pixels. The first has the multi-scale head and draws a size for each batch,
about 96. Its shards have the largest size, because enlarged images are less sharp. The second is a plain ResNet at 96,
with as many epochs as fit into the seconds of the first.

Both classify the held-out cells at half to twice that size, resized from the original 300 pixels as in scoring.
They see the image as it is, and resized to learned sizes (`score_scales`): the mean of three for the first network,
96 for the plain one. The result is the mean accuracy over the sizes.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from benchmarks.nights import place, preprocess, write_sample
from benchmarks.rounds import Comparison, Measure, Result, Track
from benchmarks.trainings import RESIDENT_BYTES, held_out, kept, percents, seconds, train
from resnet_core.device import describe, find_device
from resnet_core.evaluation.metrics import accuracy
from resnet_core.images.decode import decode_square
from resnet_core.model.classifier import Classifier
from resnet_core.training import job as training
from resnet_core.training.distributed import World
from resnet_core.training.job import Job
from tasks.dataset import Dataset
from tasks.training.run import job_of
from tasks.values import ShardSet

SIZE, WIDTH = 96, 32
SIZES = (48, 72, 96, 144, 192)  # 0.5 to 2 times 96 pixels
SCALES = (48, 72, 96, 96, 96, 96, 144, 192)  # one of them a batch, 96 in half of them; the shards hold the largest
SCORED_AT = {"multiscale": (72, 96, 144), "plain": (SIZE,)}  # the second way of scoring, by the network's head
EPOCHS = 48  # of the multi-scale network
SEEDS = 2
PILOT = 2  # epochs that tell how long one of the plain network takes
MOST_PIXELS = 10**9
AS_IT_COMES, BROUGHT = "as it comes", "brought to sizes it learned at"  # ways of scoring; in an outcome, accuracies

Show = Callable[[float], None]


class HeldOut(NamedTuple):
    """The held-out images: labels [N], and pixels [N, S, S] for each size S."""

    image_ids: list[str]
    labels: NDArray[np.int64]
    pixels: dict[int, NDArray[np.uint8]]


def run(folder: Path, track: Track, epochs: int = EPOCHS, seeds: int = SEEDS) -> Result:
    sample = write_sample("elpv", folder / "raw")
    plain, made = prepared(sample, SIZE, folder)
    multi, larger = prepared(sample, max(SCALES), folder)
    plain = replace(plain, model=replace(plain.model, head="plain"), config=replace(plain.config, progressive=0.0))
    multi = replace(
        multi,
        model=replace(multi.model, head="multiscale"),
        config=replace(multi.config, scales=SCALES, progressive=0.0, epochs=epochs),
    )
    test = in_both(made, larger, folder / "raw")
    show, found = percents(track, 2 * seeds), []
    for seed in range(seeds):
        first = trained(multi, larger.digest, test, seed, partial(show, 2 * seed), plain)
        fitting = max(1, round(first["seconds"] / first["seconds_of_a_plain_epoch"]))
        fair = replace(plain, config=replace(plain.config, epochs=fitting))
        found.append((first, trained(fair, made.digest, test, seed, partial(show, 2 * seed + 1))))
    return Result(
        "sizes",
        f"ELPV, {plain.model.arch} of width {plain.model.width} trained at {SIZE} px on {made.train:,} images, "
        f"{len(test.labels):,} held out, sizes {', '.join(map(str, SCALES))} drawn in {epochs} epochs against {SIZE} "
        f"in {', '.join(str(len(second['epochs'])) for _, second in found)}, on {describe(find_device())}",
        tuple(compare(way, found) for way in (AS_IT_COMES, BROUGHT)),
        (*measures("multi-scale", [first for first, _ in found]), *measures("plain", [second for _, second in found])),
    )


def prepared(sample: Dataset, size: int, folder: Path) -> tuple[Job, ShardSet]:
    """The cells in shards of this size, and a training on them by the recipe of the data set's file."""
    dataset = sample.model_copy(
        update={
            "image": replace(sample.image, size=size),
            "model": replace(sample.model, width=WIDTH, score_flips="none"),
        }
    )
    made = preprocess(dataset, UPath(folder / f"store{size}"))
    return job_of(made, dataset, place(made.folder, RESIDENT_BYTES)), made


def trained(job: Job, digest: str, test: HeldOut, seed: int, show: Show, pilot: Job | None = None) -> dict[str, Any]:
    """Accuracy at each size, and the seconds of training; of an epoch of `pilot`, too, from the same minutes."""
    job = replace(job, config=replace(job.config, seed=seed))
    scored_at = SCORED_AT[job.model.head]

    def work(checkpoint: UPath) -> dict[str, Any]:
        classifier, epochs = train(job, checkpoint, show)
        brought = replace(classifier, config=replace(classifier.config, score_scales=scored_at))
        return {
            "seconds": seconds(epochs, job.train),
            "seconds_of_a_plain_epoch": epoch_seconds(pilot) if pilot else None,
            AS_IT_COMES: accuracies(classifier, test),
            BROUGHT: accuracies(brought, test),
            "epochs": [epoch.accuracy for epoch in epochs],
        }

    show(0)
    decides = digest, sorted(test.image_ids), job.model, job.config, SIZES, scored_at
    outcome = kept(f"sizes-{job.model.head}-{seed}", work, *decides)
    show(1)
    return outcome


def epoch_seconds(job: Job) -> float:
    _, epochs = training.run(replace(job, config=replace(job.config, epochs=PILOT)), World(find_device()))
    return min(job.train / epoch.images_per_second for epoch in epochs)


def in_both(made: ShardSet, larger: ShardSet, raw: Path) -> HeldOut:
    """Return the images held out of both. Near-duplicates are found on the pixels, so they differ by size."""
    held, others = held_out(made), set(held_out(larger).image_ids)
    rows = [row for row, image in enumerate(held.image_ids) if image in others]
    data = {hashlib.sha256(file).hexdigest(): file for file in map(Path.read_bytes, (raw / "images").iterdir())}
    files = [data[held.image_ids[row]] for row in rows]
    pixels = {
        size: np.stack(
            [decode_square(file, replace(made.preprocessing, size=size), MOST_PIXELS).pixels for file in files]
        )
        for size in SIZES
    }
    return HeldOut([held.image_ids[row] for row in rows], held.labels[rows], pixels)


def accuracies(classifier: Classifier, test: HeldOut) -> dict[str, float]:
    """By the size in pixels, as JSON names it."""
    return {str(size): accuracy(test.labels, classifier.probabilities(at)) for size, at in test.pixels.items()}


def average(outcome: dict[str, Any], way: str) -> float:
    return float(mean(outcome[way].values()))


def compare(way: str, found: list[tuple[dict[str, Any], dict[str, Any]]]) -> Comparison:
    return Comparison(
        f"mean accuracy over the sizes, {way}, multi-scale",
        "plain ResNet, equal training time",
        tuple(average(first, way) for first, _ in found),
        tuple(average(second, way) for _, second in found),
        unit="",
    )


def measures(name: str, outcomes: list[dict[str, Any]]) -> list[Measure]:
    found = []
    for way in (AS_IT_COMES, BROUGHT):
        for size in SIZES:
            found.append(Measure(f"{name}, {way}, {size} px", tuple(outcome[way][str(size)] for outcome in outcomes)))
        found.append(Measure(f"{name}, {way}, mean", tuple(average(outcome, way) for outcome in outcomes)))
    return [*found, Measure(f"{name}, training", tuple(outcome["seconds"] for outcome in outcomes), "s")]
