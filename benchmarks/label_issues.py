"""Wrong labels on purpose, and the share that is found: `python -m benchmarks label_issues [PART ...]`, by itself.

A twentieth of the training labels is flipped. The flow's own stages make shards of these labels, train the folds and
predict. A flipped label among the issues counts as found. Every other issue counts as a false alarm, even if the label
was wrong before. Soft labels are not flipped, because they state their doubt themselves.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from upath import UPath

from benchmarks.nights import catalog_and_shards, place, write_sample
from benchmarks.rounds import Measure, Result, Track
from benchmarks.trainings import RESIDENT_BYTES, kept, percents, train
from resnet_core.device import describe, find_device
from resnet_core.evaluation.label_issues import find, margins
from resnet_core.shards import format as shards
from resnet_core.training import job as training
from tasks.dataset import Dataset
from tasks.training.folds import training_images
from tasks.training.run import job_of
from tasks.values import Catalog, ShardSet

FLIPPED = 0.05
WANTED_RECALL = 0.8
SEED = 7


@dataclass(frozen=True)
class Trial:
    """So many folds, each trained once a seed; `changes` of the data set file's TrainConfig."""

    folds: int
    seeds: int
    changes: dict[str, Any]


PARTS = {
    "digits": Trial(5, 1, {}),
    # Half the epochs of its data set file: a network that goes on learns the wrong labels by heart.
    "elpv": Trial(5, 1, {"epochs": 30}),
}


@dataclass(frozen=True)
class Predicted:
    """Training images, each predicted by classifiers that have not seen it."""

    image_ids: list[str]
    labels: NDArray[np.int64]  # [N], with what was flipped
    targets: NDArray[np.float32]  # [N, C], with soft labels
    probabilities: NDArray[np.float32]  # [seeds, N, C]
    flipped: NDArray[np.bool_]  # [N]


def run(folder: Path, track: Track, parts: tuple[str, ...] = ()) -> Result:
    names = parts or tuple(PARTS)
    show, before = percents(track, sum(PARTS[name].folds * PARTS[name].seeds for name in names)), 0
    settings, measures = [], []
    for name in names:
        trial = PARTS[name]
        dataset, flipped = plant(name, folder)
        dataset = dataset.model_copy(update={"train": replace(dataset.train, **trial.changes)})
        catalog, made = catalog_and_shards(dataset, UPath(folder / f"{name}-flipped"))
        found = predict(name, catalog, made, dataset, flipped, lambda share, before=before: show(before, share))
        before += trial.folds * trial.seeds
        measures += gathered(name, found)
        settings.append(
            f"{name}: {int(found.flipped.sum())} of {made.train:,} training labels flipped, {trial.folds} folds, "
            f"{trial.seeds} training{'s' * (trial.seeds > 1)} each of {dataset.train.epochs} epochs at "
            f"{made.preprocessing.size} px"
        )
    return Result("label_issues", f"{'; '.join(settings)}; on {describe(find_device())}", measures=tuple(measures))


def plant(name: str, folder: Path) -> tuple[Dataset, set[str]]:
    """The sample with wrong labels in its labels file, and the ids of those images."""
    dataset = write_sample(name, folder / name)
    catalog, made = catalog_and_shards(dataset, UPath(folder / f"{name}-store"))
    known = pq.read_table(catalog.path.path, columns=["image_id", "uri", "label", "split", "status", "soft_label"])
    rows = [row for row in known.to_pylist() if row["status"] == "ok" and row["split"] == "train"]
    rng = np.random.default_rng(SEED)
    sure = [row for row in rows if not row["soft_label"]]
    chosen = [sure[k] for k in rng.choice(len(sure), round(FLIPPED * len(rows)), replace=False)]
    others = {row["uri"]: str(rng.choice([c for c in made.classes if c != row["label"]])) for row in chosen}
    labels = folder / name / "flipped.csv"
    rewrite(folder / name / "labels.csv", labels, folder / name, others)
    return dataset.model_copy(update={"labels": str(labels)}), {row["image_id"] for row in chosen}


def rewrite(labels: Path, flipped: Path, folder: Path, others: dict[str, str]) -> None:
    """The same labels file with these images' labels changed."""
    with labels.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    changed = 0
    for row in rows:
        uri = str(folder / row["path"])
        other = others.get(uri) or others.get(row["path"])
        if other:
            row["label"], changed = other, changed + 1
    assert changed == len(others), f"{changed} of {len(others)} labels were flipped"
    with flipped.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def predict(
    name: str, catalog: Catalog, made: ShardSet, dataset: Dataset, flipped: set[str], show: Callable[[float], None]
) -> Predicted:
    """Every training image by the trainings of the folds that it is not in."""
    trial = PARTS[name]
    images = training_images(made, catalog, trial.folds, dataset.split.seed, None)
    fold = images["fold"].to_numpy()
    by_seed, done = [], 0
    for seed in range(trial.seeds):
        found: dict[str, list[float]] = {}
        for number in range(trial.folds):
            config = replace(dataset.train, seed=seed, start="scratch", early_stopping=0)
            job = job_of(made, dataset.model_copy(update={"train": config}), place(made.folder, RESIDENT_BYTES))
            work = partial(one_fold, replace(job, held_out=fold == number), partial(advance, show, done))
            found |= kept(
                f"label-issues-{name}-{seed}-{number}", work, made.digest, job.model, config, number, trial.folds
            )
            done += 1
            show(done)
        by_seed.append([found[image] for image in images["image_id"].to_pylist()])
    read = shards.read(made.files, "train", made.classes)
    assert read.image_ids.tolist() == images["image_id"].to_pylist()
    every = np.arange(len(read))
    targets = np.eye(len(made.classes), dtype=np.float32)[read.labels]
    if read.soft is not None:
        targets = read.soft.targets(every, read.labels)
    is_flipped = np.array([image in flipped for image in read.image_ids.tolist()])
    return Predicted(read.image_ids.tolist(), read.labels, targets, np.array(by_seed, np.float32), is_flipped)


def advance(show: Callable[[float], None], done: int, share: float) -> None:
    show(done + share)


def one_fold(job: training.Job, show: Callable[[float], None], checkpoint: UPath) -> dict[str, Any]:
    """The probabilities of each image that the training has not seen, by its id."""
    classifier, _ = train(job, checkpoint, show)
    found: dict[str, Any] = {}
    for images in training.kept_aside(job):
        probabilities = classifier.probabilities(images.pixels).tolist()
        found |= dict(zip(images.image_ids.tolist(), probabilities, strict=True))
    return found


def gathered(name: str, found: Predicted) -> list[Measure]:
    """How many of the flipped labels are called issues, and how many of the issues are flipped labels. The
    precision, too, at which a reader of the ranked images has seen WANTED_RECALL of them."""
    probabilities = found.probabilities.mean(0)
    hits = found.flipped[find(found.labels, found.targets, probabilities).rows]
    suspect = np.argsort(margins(found.targets, probabilities), kind="stable")
    seen = np.cumsum(found.flipped[suspect])
    needed = int(np.searchsorted(seen, np.ceil(WANTED_RECALL * found.flipped.sum()))) + 1
    return [
        Measure(f"{name}, recall of the flipped labels", (float(hits.sum() / found.flipped.sum()),)),
        Measure(f"{name}, precision of what is called an issue", (float(hits.mean()),)),
        Measure(f"{name}, precision at recall {WANTED_RECALL:g}, by rank", (float(seen[needed - 1] / needed),)),
    ]
