"""What a change of the recipe does: `python -m benchmarks trials [NAME ...]`, by itself.

The recipe of `data/elpv-best.yaml`, shortened, learns from three quarters of ELPV's training cells and is judged on
the fourth. The held-out cells, which the figures of `quality` are about, are not looked at to choose by. All trials
have the seed, the images and the order of the first one; with one seed each, read differences of a point as noise.
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
from benchmarks.trainings import RESIDENT_BYTES, kept, percents, seconds
from resnet_core import shards
from resnet_core.device import describe, find_device
from resnet_core.fit import Epoch
from resnet_core.metrics import METRICS, accuracy
from resnet_core.training import Job
from resnet_core.training import run as train
from tasks.learning import job_of

SIZE, SCALES = 224, (200, 224, 248)
EPOCHS = 40
KEPT_ASIDE, FOLD = 0.25, 7  # the share of the training cells, and the seed of their choice
SHOWN = ("accuracy", "macro_f1", "roc_auc", "nll")


@dataclass(frozen=True)
class Changes:
    """Of the data set file's `model`, `train` and `train.augment`."""

    model: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    augment: Mapping[str, Any] = field(default_factory=dict)

    def applied(self, job: Job) -> Job:
        changed = replace(job.config, augment=replace(job.config.augment, **self.augment), **self.train)
        return replace(job, model=replace(job.model, **self.model), config=changed)


TRIALS = {
    "as_it_is": Changes(),
    "lr_0.06": Changes(train={"lr": 0.06}),
    "lr_0.015": Changes(train={"lr": 0.015}),
    "batch_64": Changes(train={"batch_size": 64}),
    "no_smoothing": Changes(train={"label_smoothing": 0.0}),
    "no_decay": Changes(train={"weight_decay": 0.0}),
    "no_shift": Changes(augment={"shift": 0.0}),
    "multiscale": Changes(model={"head": "multiscale"}),
    "smaller_first": Changes(train={"progressive": 0.35, "epochs": 48}),
}


def run(folder: Path, track: Track, parts: tuple[str, ...] = ()) -> Result:
    names = parts or tuple(TRIALS)
    dataset = write_sample("elpv", folder / "raw", settings=PARTS["elpv"].settings)
    dataset = dataset.model_copy(update={"image": replace(dataset.image, size=SIZE)})
    made = preprocess(dataset, UPath(folder / "store"))
    aside = np.random.default_rng(FOLD).random(made.train) < KEPT_ASIDE
    job = replace(job_of(made, dataset, RESIDENT_BYTES, None), held_out=aside)
    job = replace(job, model=replace(job.model, score_scales=SCALES), config=replace(job.config, epochs=EPOCHS))
    sure, show, measures = certain(folder / "raw", PARTS["elpv"].labels), percents(track, len(names)), []
    for number, name in enumerate(names):
        found = tried(name, TRIALS[name].applied(job), made.digest, sure, partial(show, number))
        shown = {f"{name}, {metric}": found[metric] for metric in (*SHOWN, CERTAIN, "training")}
        measures += [Measure(what, (value,)) for what, value in shown.items()]
        measures.append(Measure(f"{name}, seconds", (found["seconds"],), "s"))
    return Result(
        "trials",
        f"ELPV, {job.model.arch} of width {job.model.width} at {SIZE} px, {EPOCHS} epochs of "
        f"{(~aside).sum():,} training images, judged on {aside.sum():,}; on {describe(find_device())}",
        measures=tuple(measures),
    )


def tried(name: str, job: Job, digest: str, sure: list[str], show: Callable[[float], None]) -> dict[str, Any]:
    """The metrics of one training on the images kept aside; `training` is the accuracy on those that it saw."""
    assert job.held_out is not None
    aside = job.held_out

    def work(checkpoint: UPath) -> dict[str, Any]:
        def on_epoch(epoch: Epoch) -> None:
            show(epoch.epoch / job.config.epochs)

        classifier, epochs = train(replace(job, state=checkpoint), find_device(), on_epoch=on_epoch)
        images = shards.read(job.files, "train", job.classes)
        labels, probabilities = images.labels[aside], classifier.probabilities(images.pixels[aside])
        chosen = np.isin(np.asarray(images.image_ids)[aside], sure)
        return {
            **{metric: value(labels, probabilities) for metric, value in METRICS.items()},
            CERTAIN: accuracy(labels[chosen], probabilities[chosen]),
            "training": epochs[-1].accuracy,
            "seconds": seconds(epochs, int((~aside).sum())),
        }

    show(0)
    found = kept(f"trial-{name}", work, digest, job.model, job.config, KEPT_ASIDE, FOLD)
    show(1)
    return found
