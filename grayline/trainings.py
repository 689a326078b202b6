"""Train on a folder, at once: no registry and no run, and no file is left behind.

The night's own stages list, read, split and preprocess the images, so that the figures mean the same.
"""

import logging
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from upath import UPath

from grayline._html import table
from grayline.models import Model
from tasks.settings import Settings, prepare_environment

prepare_environment()  # before Prefect is imported: its settings are read once

from resnet_core.device import find_device  # noqa: E402
from resnet_core.evaluation.assess import HeldOut, assess  # noqa: E402
from resnet_core.evaluation.calibrate import Requirements  # noqa: E402
from resnet_core.evaluation.decide import class_costs, class_recalls  # noqa: E402
from resnet_core.evaluation.metrics import Interval  # noqa: E402
from resnet_core.model.classifier import Classifier  # noqa: E402
from resnet_core.sources.source import check_source  # noqa: E402
from resnet_core.training import job as training  # noqa: E402
from resnet_core.training.distributed import World  # noqa: E402
from resnet_core.training.loop import Epoch  # noqa: E402
from tasks.dataset import Dataset  # noqa: E402
from tasks.evaluation.held_out import facts, groups_of, in_order, look_alikes_of, score_split  # noqa: E402
from tasks.ingest.catalog import write_catalog  # noqa: E402
from tasks.ingest.levels import decide_levels  # noqa: E402
from tasks.ingest.pixels import read_part  # noqa: E402
from tasks.ingest.preprocess import finish_shards, plan_shards, write_shard  # noqa: E402
from tasks.ingest.scan import scan  # noqa: E402
from tasks.progress import progress, show_log_lines  # noqa: E402
from tasks.store import Store  # noqa: E402
from tasks.training.run import Meter, job_of  # noqa: E402
from tasks.validation import validate  # noqa: E402
from tasks.values import Catalog, ShardSet  # noqa: E402
from tasks.workspace import Workspace  # noqa: E402

log = logging.getLogger("grayline")

_READERS = 2


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
    show_log_lines()
    machine = Settings()
    with tempfile.TemporaryDirectory(prefix="grayline-") as scratch:
        here = Workspace(
            Store(UPath(scratch)), "", machine.device, machine.limits, "threads", machine.resident_bytes
        ).of(dataset)
        catalog, shard_set = _make_shards(dataset, here)
        return _measure(_fit(dataset, shard_set, here), catalog, shard_set, dataset, here)


def _dataset(source: str | Path, labels: str | Path | None, epochs: int | None, settings: dict[str, Any]) -> Dataset:
    content = {"name": "trained", "source": str(source), **settings}
    if labels is not None:
        content["labels"] = str(labels)
    if epochs is not None:
        content["train"] = {**settings.get("train", {}), "epochs": epochs}
    return validate(content, Dataset)


def _make_shards(dataset: Dataset, here: Workspace) -> tuple[Catalog, ShardSet]:
    found = scan.fn(dataset, here)
    with ThreadPoolExecutor(_READERS) as pool:
        list(pool.map(lambda part: read_part.fn(part, found.image, here.limits, here.keys), found.unread))
        found, again = decide_levels.fn(found, dataset, here)
        list(pool.map(lambda part: read_part.fn(part, found.image, here.limits, here.keys), again))
        catalog = write_catalog.fn(found, dataset, here)
        plans = plan_shards.fn(catalog, dataset, here)
        written = sum(pool.map(lambda plan: write_shard.fn(plan, catalog, here.keys), plans))
    return catalog, finish_shards.fn(plans, written, catalog, dataset)


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
    with progress("evaluate", shard_set.test + shard_set.validation) as advance:
        image_ids, labels, raw = score_split(classifier, shard_set, "test", here.keys, advance)
        validation = score_split(classifier, shard_set, "validation", here.keys, advance)[1:]
    rows = in_order(facts(catalog), image_ids)
    found = assess(
        HeldOut(labels, raw, groups_of(rows), {}, look_alikes_of(rows)),
        validation if len(validation[0]) else None,
        Requirements(class_costs(wanted.costs, classes), class_recalls(wanted.recall, classes), wanted.coverage),
        classes,
    )
    calibrated = replace(classifier, calibration=found.calibration)
    recalls = found.evidence.recalls
    log.info("evaluate    accuracy %s on %s held-out images", found.metrics.overall["accuracy"], f"{len(labels):,}")
    return Trained(calibrated, dataset.name, found.metrics.overall, recalls, len(labels), tuple(epochs))
