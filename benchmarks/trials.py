"""What a change of the recipe does: `python -m benchmarks trials [NAME ...]`, by itself.

The recipe of `data/elpv-best.yaml`, shortened, learns from three quarters of ELPV's training cells and is judged on
the fourth. The held-out cells, which the figures of `quality` are about, are not looked at to choose by. All trials
have the same images; two seeds vary the initial weights and the order. Read differences of a point as noise.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from upath import UPath

from benchmarks.nights import preprocess, write_sample
from benchmarks.quality import CERTAIN, PARTS, certain
from benchmarks.rounds import Measure, Result, Track
from benchmarks.trainings import RESIDENT_BYTES, kept, percents, seconds, train
from resnet_core.device import describe, find_device
from resnet_core.metrics import METRICS, accuracy
from resnet_core.training import Job, kept_aside
from tasks.learning import job_of

SIZE, SCALES = 224, (200, 224, 248)
EPOCHS = 40
SEEDS = 2
KEPT_ASIDE, FOLD = 0.25, 7  # the share of the training cells, and the seed of their choice
TRAINING = "accuracy_in_training"
SHOWN = ("accuracy", "roc_auc", "nll", CERTAIN, TRAINING)


@dataclass(frozen=True)
class Changes:
    """Of the data set file's `model` and `train`."""

    model: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)

    def applied(self, job: Job) -> Job:
        return replace(job, model=replace(job.model, **self.model), config=replace(job.config, **self.train))


TRIALS = {
    "as_it_is": Changes(),
    "lr_0.06": Changes(train={"lr": 0.06}),
    "no_smoothing": Changes(train={"label_smoothing": 0.0}),
    "multiscale": Changes(model={"head": "multiscale"}),
    "multiscale_no_smoothing": Changes(model={"head": "multiscale"}, train={"label_smoothing": 0.0}),
    "all_three": Changes(model={"head": "multiscale"}, train={"lr": 0.06, "label_smoothing": 0.0}),
}


def run(folder: Path, track: Track, parts: tuple[str, ...] = ()) -> Result:
    names = parts or tuple(TRIALS)
    job, digest = prepared(folder)
    assert job.held_out is not None
    sure = certain(folder / "raw", PARTS["elpv"].labels)
    show, measures = percents(track, SEEDS * len(names)), []
    for number, name in enumerate(names):
        found = []
        for seed in range(SEEDS):
            changed = TRIALS[name].applied(replace(job, config=replace(job.config, seed=seed)))
            found.append(tried(f"trial-{name}-{seed}", changed, digest, sure, partial(show, SEEDS * number + seed)))
        for metric in SHOWN:
            measures.append(Measure(f"{name}, {metric}", tuple(each[metric] for each in found)))
        measures.append(Measure(f"{name}, training", tuple(each["seconds"] for each in found), "s"))
    return Result(
        "trials",
        f"ELPV, {job.model.arch} of width {job.model.width} at {SIZE} px, {EPOCHS} epochs of "
        f"{(~job.held_out).sum():,} training images, judged on {job.held_out.sum():,}; on {describe(find_device())}",
        measures=tuple(measures),
    )


def prepared(folder: Path) -> tuple[Job, str]:
    """The training as it is, and the digest of its shards."""
    dataset = write_sample("elpv", folder / "raw", settings=PARTS["elpv"].settings)
    dataset = dataset.model_copy(update={"image": replace(dataset.image, size=SIZE)})
    made = preprocess(dataset, UPath(folder / "store"))
    job = job_of(made, dataset, RESIDENT_BYTES, None)
    return replace(
        job,
        model=replace(job.model, score_scales=SCALES),
        config=replace(job.config, epochs=EPOCHS),
        held_out=np.random.default_rng(FOLD).random(made.train) < KEPT_ASIDE,
    ), made.digest


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
