"""Train on a folder, at once: no registry and no run, and no file is left behind.

The night's own stages list, read, split and preprocess the images, so that the figures mean the same.
"""

import logging
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from upath import UPath

from grayline._html import table
from grayline.models import Model
from resnet_core.credentials import public
from resnet_core.device import find_device
from resnet_core.evaluation.assess import HeldOut, assess
from resnet_core.evaluation.calibrate import Requirements
from resnet_core.evaluation.decide import class_costs, class_recalls
from resnet_core.evaluation.metrics import Interval
from resnet_core.evaluation.novelty import measure_novelty
from resnet_core.model.classifier import Classifier
from resnet_core.sources.source import check_source
from resnet_core.training import job as training
from resnet_core.training.distributed import World
from resnet_core.training.loop import Epoch
from tasks.dataset import Dataset
from tasks.evaluation.held_out import (
    facts,
    groups_of,
    in_order,
    learn_novelty,
    look_alikes_of,
    novelty_work,
    score_split,
)
from tasks.progress import progress
from tasks.settings import Settings
from tasks.store import Store
from tasks.survey.alone import ingest_alone, shards_alone
from tasks.training.run import Meter, job_of
from tasks.validation import validate
from tasks.values import Catalog, ShardSet, have
from tasks.workspace import Workspace

log = logging.getLogger("grayline")


@dataclass(frozen=True, repr=False)
class Trained(Model):
    """A classifier with the figures of its held-out images. recalls: by class."""

    metrics: dict[str, Interval]
    recalls: dict[str, Interval]
    held_out: int
    epochs: tuple[Epoch, ...]

    def _repr_html_(self) -> str:
        rows = [(name.replace("_", " "), str(interval)) for name, interval in self.metrics.items()]
        rows += [(f"recall of {label}", str(interval)) for label, interval in self.recalls.items()]
        return table(f"{self.name}: {self.held_out:,} held-out images", ("metric", "found"), rows)


def train(source: str | Path, labels: str | Path | None = None, epochs: int | None = None, **settings: Any) -> Trained:
    """Train a classifier on a folder, archive or table of images, and measure it on images that are held out.

    labels: a table as in a data set file; without it, the folders are the classes. settings: other keys of such a
    file, as in image={"size": 64}. Raises UserError for wrong input.
    """
    dataset = _dataset(source, labels, epochs, settings)
    check_source(dataset.source)
    machine = Settings()
    with tempfile.TemporaryDirectory(prefix="grayline-") as scratch:
        here = Workspace(
            Store(UPath(scratch)), "", machine.device, machine.limits, "threads", machine.resident_bytes
        ).of(dataset)
        catalog = ingest_alone(dataset, here)
        shard_set = shards_alone(catalog, dataset, here)
        return _measure(_fit(dataset, shard_set, here), catalog, shard_set, dataset, here)


def _dataset(source: str | Path, labels: str | Path | None, epochs: int | None, settings: dict[str, Any]) -> Dataset:
    content = {"name": "trained", "source": public(str(source)), **settings}
    if labels is not None:
        content["labels"] = public(str(labels))
    if epochs is not None:
        content["train"] = {**settings.get("train", {}), "epochs": epochs}
    return validate(content, Dataset)


def _fit(dataset: Dataset, shard_set: ShardSet, here: Workspace) -> tuple[Classifier, list[Epoch]]:
    job = job_of(shard_set, dataset, here)
    with progress("train", job.train * job.config.epochs) as advance:
        meter = Meter(advance, job.config.epochs)
        return training.run(
            job, World(find_device(here.device)), meter.step, lambda epoch: meter.epoch_done(epoch, job.train)
        )


def _measure(
    trained: tuple[Classifier, list[Epoch]], catalog: Catalog, shard_set: ShardSet, dataset: Dataset, here: Workspace
) -> Trained:
    classifier, epochs = trained
    wanted, classes = dataset.evaluate, shard_set.classes
    work = shard_set.test + shard_set.validation + novelty_work(shard_set, wanted.novelty)
    with progress("evaluate", work) as advance:
        classifier = learn_novelty(classifier, shard_set, wanted.novelty, here.keys, advance)
        image_ids, labels, raw, distances = score_split(classifier, shard_set, "test", here.keys, advance)
        validation = score_split(classifier, shard_set, "validation", here.keys, advance)
    rows = in_order(facts(catalog), image_ids)
    groups = groups_of(rows)
    found = assess(
        HeldOut(labels, raw, groups, {}, look_alikes_of(rows)),
        validation[1:3] if validation.image_ids else None,
        Requirements(class_costs(wanted.costs, classes), class_recalls(wanted.recall, classes), wanted.coverage),
        classes,
    )
    calibrated = replace(classifier, calibration=found.calibration)
    if classifier.novelty is not None:
        kept, _ = measure_novelty(classifier.novelty, have(distances), validation.distances, groups)
        calibrated = replace(calibrated, novelty=kept)
    recalls = found.evidence.recalls
    log.info("evaluate    accuracy %s on %s held-out images", found.metrics.overall["accuracy"], f"{len(labels):,}")
    return Trained(calibrated, dataset.name, found.metrics.overall, recalls, len(labels), tuple(epochs))
