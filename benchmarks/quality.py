"""The accuracy on the sample data sets: `python -m benchmarks quality [PART ...]`, by itself.

The flow's own stages run up to the shards, so split and near-duplicates are those of a user's night. Then the data set
file's recipe is trained once per seed, and evaluated on the held-out images. The split is the
same for all seeds. The initial weights, the order of the images and their augmentation vary. So the spread is that of
the training, not of the choice of test images: on ELPV's 657, accuracy has a standard error of 1.5 points besides.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from upath import UPath

from benchmarks.nights import place, preprocess, write_sample
from benchmarks.rounds import Measure, Result, Track
from benchmarks.trainings import RESIDENT_BYTES, held_out, kept, percents, seconds, train
from resnet_core.device import describe, find_device
from resnet_core.evaluation.metrics import METRICS, accuracy
from resnet_core.model.classifier import Classifier
from tasks.dataset import Dataset
from tasks.training.run import job_of
from tasks.values import ShardSet


@dataclass(frozen=True)
class Trial:
    """Which sample with which labels, by which data set file, how many seeds, and what is measured of each.
    `changes`: of the file's `train`. `certain`: the labels have a `probability`; the accuracy over the images where it
    is 0 or 1 is measured too."""

    sample: str
    settings: str
    labels: str
    seeds: int
    metrics: tuple[str, ...]
    changes: Mapping[str, float] = field(default_factory=dict)
    certain: bool = False


# As `recipe: best`, but for the size of the images; half of the classes' shares is taken out, for macro-F1.
FOUR_CLASSES = {"epochs": 120, "progressive": 0.5, "logit_adjustment": 0.5}
PARTS = {
    "elpv": Trial("elpv", "elpv-best", "labels.csv", 5, ("accuracy", "macro_f1", "roc_auc"), certain=True),
    "elpv4": Trial("elpv", "elpv", "labels4.csv", 3, ("macro_f1", "accuracy"), FOUR_CLASSES),
    "digits": Trial("digits", "digits", "labels.csv", 5, ("accuracy",)),
}
CERTAIN = "accuracy_certain"


def run(folder: Path, track: Track, parts: tuple[str, ...] = (), **changes: Any) -> Result:
    """`changes`: of TrainConfig, to try things out on."""
    names = parts or tuple(PARTS)
    show, before = percents(track, sum(PARTS[name].seeds for name in names)), 0
    settings, measures = [], []
    for name in names:
        trial, source = PARTS[name], folder / name
        dataset = write_sample(trial.sample, source, trial.labels, trial.settings)
        dataset = dataset.model_copy(update={"train": replace(dataset.train, **{**trial.changes, **changes})})
        made = preprocess(dataset, UPath(folder / f"{name}-store"))
        sure = certain(source, trial.labels) if trial.certain else []
        outcomes = []
        for seed in range(trial.seeds):
            outcomes.append(one_seed(name, made, dataset, seed, sure, partial(show, before)))
            before += 1
        measures += gathered(name, trial, outcomes)
        settings.append(
            f"{name}: recipe {dataset.recipe}, {made.train:,} training images, {made.test:,} held out, "
            f"{len(made.classes)} classes"
        )
    return Result("quality", f"{'; '.join(settings)}; on {describe(find_device())}", measures=tuple(measures))


def one_seed(
    name: str, made: ShardSet, dataset: Dataset, seed: int, sure: list[str], show: Callable[[float], None]
) -> dict[str, Any]:
    """The seconds, the epochs and every metric of one training."""
    job = job_of(
        made,
        dataset.model_copy(update={"train": replace(dataset.train, seed=seed)}),
        place(made.folder, RESIDENT_BYTES),
    )

    def work(checkpoint: UPath) -> dict[str, Any]:
        classifier, epochs = train(job, checkpoint, show)
        return {
            "seconds": seconds(epochs, made.train),
            **scored(classifier, made, sure),
            "epochs": [asdict(epoch) for epoch in epochs],
        }

    show(0)
    outcome = kept(f"{name}-{seed}", work, made.digest, job.model, job.config, sure)
    show(1)
    return outcome


def scored(classifier: Classifier, made: ShardSet, sure: list[str]) -> dict[str, float]:
    """Every metric on the held-out images; `sure` are the ids of those (among others) whose label is certain."""
    test = held_out(made)
    probabilities = classifier.probabilities(test.pixels)
    found = {name: metric(test.labels, probabilities) for name, metric in METRICS.items()}
    chosen = np.isin(test.image_ids, sure)
    return found | ({CERTAIN: accuracy(test.labels[chosen], probabilities[chosen])} if sure else {})


def certain(source: Path, labels: str) -> list[str]:
    """The ids of the images of which the experts said 0 or 1."""
    table = pd.read_csv(source / labels)
    paths = table["path"][table["probability"].isin([0, 1])]
    return sorted(hashlib.sha256((source / path).read_bytes()).hexdigest() for path in paths)


def gathered(name: str, trial: Trial, outcomes: list[dict[str, Any]]) -> list[Measure]:
    """Return a line per metric, with a value per seed."""
    wanted = [*trial.metrics, *([CERTAIN] if trial.certain else [])]
    lines = [Measure(f"{name}, {metric}", tuple(found[metric] for found in outcomes)) for metric in wanted]
    return [*lines, Measure(f"{name}, training", tuple(found["seconds"] for found in outcomes), "s")]
