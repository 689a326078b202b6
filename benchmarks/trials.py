"""Changes of the recipe: `python -m benchmarks trials [NAME ...]`, by itself.

The recipe of `data/elpv-best.yaml`, shortened, learns from three quarters of ELPV's training cells and is evaluated on
the fourth. The held-out cells of `quality` are not used for choosing. All trials have the same images; two seeds vary
the initial weights and the order. Read differences of a point as noise.

The recipe is shortened in two ways. Few epochs at 224 px show which change learns sooner. Names that begin with `long`
run all epochs at 128 px, where the network overfits, to compare remedies.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from upath import UPath

from benchmarks.nights import place, preprocess, write_sample
from benchmarks.quality import CERTAIN, PARTS, certain
from benchmarks.rounds import Measure, Result, Track
from benchmarks.trainings import RESIDENT_BYTES, kept, percents, seconds, train
from resnet_core.device import describe, find_device
from resnet_core.evaluation.metrics import METRICS, accuracy
from resnet_core.training.job import Job, kept_aside
from tasks.dataset import Dataset
from tasks.training.run import job_of

SEEDS = 2
KEPT_ASIDE, FOLD = 0.25, 7  # the share of the training cells, and the seed of their choice
TRAINING = "accuracy_in_training"
SHOWN = ("accuracy", "roc_auc", "nll", CERTAIN, TRAINING)


@dataclass(frozen=True)
class Shortened:
    """The side in pixels, those that a score averages over, and the epochs."""

    size: int
    scales: tuple[int, ...]
    epochs: int


SHORT, LONG = Shortened(224, (200, 224, 248), 40), Shortened(128, (112, 128, 144), 120)
MOVED = {"zoom": 0.15, "rotate": 10.0, "brightness": 0.05, "contrast": 0.2}


@dataclass(frozen=True)
class Changes:
    """Changes of the data set file's `model`, `train` and `train.augment`, and the shortened recipe."""

    model: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    augment: Mapping[str, Any] = field(default_factory=dict)
    shortened: Shortened = SHORT

    def applied(self, job: Job) -> Job:
        augment = replace(job.config.augment, **self.augment)
        config = replace(job.config, **{"augment": augment, "epochs": self.shortened.epochs, **self.train})
        scored = {"score_scales": self.shortened.scales, **self.model}
        return replace(job, model=replace(job.model, **scored), config=config)


TRIALS = {
    "as_it_is": Changes(),
    "lr_0.06": Changes(train={"lr": 0.06}),
    "no_smoothing": Changes(train={"label_smoothing": 0.0}),
    "multiscale": Changes(model={"head": "multiscale"}),
    "multiscale_no_smoothing": Changes(model={"head": "multiscale"}, train={"label_smoothing": 0.0}),
    "all_three": Changes(model={"head": "multiscale"}, train={"lr": 0.06, "label_smoothing": 0.0}),
    "long": Changes(shortened=LONG),
    "long_moved": Changes(augment=MOVED, shortened=LONG),
    "long_decay": Changes(train={"weight_decay": 0.1}, shortened=LONG),
    "long_multiscale": Changes(model={"head": "multiscale"}, shortened=LONG),
    "long_multiscale_moved": Changes(model={"head": "multiscale"}, augment=MOVED, shortened=LONG),
}


def run(folder: Path, track: Track, parts: tuple[str, ...] = ()) -> Result:
    names = parts or tuple(TRIALS)
    dataset = write_sample("elpv", folder / "raw", settings=PARTS["elpv"].settings)
    sure = certain(folder / "raw", PARTS["elpv"].labels)
    show, measures = percents(track, SEEDS * len(names)), []
    for number, name in enumerate(names):
        job, digest = prepared(dataset, TRIALS[name].shortened.size, folder)
        found = []
        for seed in range(SEEDS):
            changed = TRIALS[name].applied(replace(job, config=replace(job.config, seed=seed)))
            found.append(tried(f"trial-{name}-{seed}", changed, digest, sure, partial(show, SEEDS * number + seed)))
        for metric in SHOWN:
            measures.append(Measure(f"{name}, {metric}", tuple(each[metric] for each in found)))
        measures.append(Measure(f"{name}, training", tuple(each["seconds"] for each in found), "s"))
    ways = dict.fromkeys(TRIALS[name].shortened for name in names)
    return Result(
        "trials",
        f"ELPV, {dataset.model.arch} of width {dataset.model.width}, "
        f"{', '.join(f'{way.epochs} epochs at {way.size} px' for way in ways)}, learned from {1 - KEPT_ASIDE:.0%} of "
        f"the training images, judged on the others; on {describe(find_device())}",
        measures=tuple(measures),
    )


def prepared(dataset: Dataset, size: int, folder: Path) -> tuple[Job, str]:
    """The training on cells of this size, some of them kept aside, and the digest of its shards."""
    dataset = dataset.model_copy(update={"image": replace(dataset.image, size=size)})
    made = preprocess(dataset, UPath(folder / f"store{size}"))
    aside = np.random.default_rng(FOLD).random(made.train) < KEPT_ASIDE
    return replace(job_of(made, dataset, place(made.folder, RESIDENT_BYTES)), held_out=aside), made.digest


def tried(name: str, job: Job, digest: str, sure: list[str], show: Callable[[float], None]) -> dict[str, Any]:
    """The metrics of one training on the images kept aside; TRAINING is over those that it saw."""

    def work(checkpoint: UPath) -> dict[str, Any]:
        classifier, epochs = train(job, checkpoint, show)
        seen = list(kept_aside(job))
        labels = np.concatenate([images.labels for images in seen])
        probabilities = np.concatenate([classifier.probabilities(images.pixels) for images in seen])
        chosen = np.isin(np.concatenate([images.image_ids for images in seen]), sure)
        return {
            **{metric: value(labels, probabilities) for metric, value in METRICS.items()},
            CERTAIN: accuracy(labels[chosen], probabilities[chosen]),
            TRAINING: epochs[-1].accuracy,
            "seconds": seconds(epochs, job.train - len(labels)),
        }

    show(0)
    found = kept(name, work, digest, job.model, job.config, KEPT_ASIDE, FOLD)
    show(1)
    return found
