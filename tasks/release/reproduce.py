"""Reproduce: train a registered version again from its record, and compare.

On one processor the same code, libraries and number of threads give the same bytes. Elsewhere the last bits differ,
and after some epochs more than those: then the metrics say how far.
"""

import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from prefect import task
from safetensors.torch import load_file
from upath import UPath

from resnet_core.catalog.queries import good_images
from resnet_core.device import Machine, this_machine
from resnet_core.errors import UserError, some_of
from resnet_core.evaluation.metrics import METRICS
from resnet_core.model.classifier import WEIGHTS, Classifier
from resnet_core.shards import format as shards
from resnet_core.shards.encryption import Keys
from resnet_core.storage.digest import digest_of, source_digest
from resnet_core.training.config import warm_started
from resnet_core.training.job import Job
from resnet_core.training.loop import Epoch
from tasks.artifacts import markdown_table, plain, publish_page
from tasks.dataset import Dataset
from tasks.ingest.levels import with_decision
from tasks.ingest.pixels import pixel_folder
from tasks.ingest.preprocess import ShardPlan
from tasks.progress import progress
from tasks.registry import runs as tracking
from tasks.registry.integrity import verified_folder
from tasks.registry.versions import ARTIFACTS, CHECKPOINT, MODEL_FOLDER, REPRODUCED, value_of, versions_of
from tasks.settings import Settings
from tasks.store import CATALOG_VERSION, MODEL, STATE
from tasks.training.lineage import commit, distributions_here, machine_of, read_lineage, threads_of
from tasks.training.run import LEARNING, Meter, job_of, may_succeed, places, run_job
from tasks.values import Catalog, ModelVersion, ShardSet
from tasks.workspace import Workspace


@dataclass(frozen=True)
class Reproduction:
    """A version that was trained again.

    `largest` is the largest difference between two weights. If there is a difference, `metrics` has the version's
    value and the new one on the held-out images. `surroundings` compare code, distributions and machine.
    """

    version: ModelVersion
    identical: bool
    largest: float
    metrics: dict[str, tuple[float, float]]
    surroundings: dict[str, str]
    seconds: float

    @property
    def verdict(self) -> str:
        """Return the outcome in one line."""
        if self.identical:
            return f"trained again in {self.seconds:,.0f} s, and every byte of the weights is the same"
        if self.largest == float("inf"):
            return f"trained again in {self.seconds:,.0f} s: it is another network"
        return f"trained again in {self.seconds:,.0f} s; the weights differ by up to {self.largest:.3g}"


log = logging.getLogger("grayline")

_NAMED = 8  # distributions that are named when they differ


@dataclass(frozen=True)
class Origin:
    """A version's record of its training: `lineage`, and the data set file in it."""

    version: ModelVersion
    dataset: Dataset
    lineage: dict[str, Any]

    @property
    def shards(self) -> str:
        return str(self.lineage["shards"])


@task
def recall(version: ModelVersion, here: Workspace) -> Origin:
    """Read the version's lineage from verified files. Raises UserError if it has none."""
    with verified_folder(here.tracking_uri, version, Settings().verify_key) as folder:
        lineage = read_lineage(folder / ARTIFACTS)
    if not lineage:
        raise UserError(
            f"{version} was registered without a record of its training. "
            "Retrain, and reproduce the version that comes of it."
        )
    return Origin(version, Dataset.recorded(lineage["dataset"]), lineage)


def catalog_now(origin: Origin, here: Workspace) -> Catalog:
    """Return today's catalog, to make the shards again if it still says the same.

    Raises UserError if the catalog or the cache of its pixels is gone.
    """
    path = here.store.catalog(origin.dataset.name)
    if not path.exists():
        raise _cannot_be_made(origin, f"{path} is gone too")
    table = good_images(path, ["label", "part"])
    with path.open("rb") as file:
        version = int(pq.read_schema(file).metadata[CATALOG_VERSION.encode()])
    image = with_decision(origin.dataset.image, path)
    pixels = pixel_folder(origin.dataset, image, here)
    if not all((pixels / part).exists() for part in pc.unique(table["part"]).to_pylist()):
        raise _cannot_be_made(origin, f"the pixels in {pixels} are gone too")
    classes = tuple(sorted(pc.unique(table["label"]).to_pylist()))
    return Catalog(origin.dataset.name, image, path, "", version, classes, len(table), 0, 0, 0, 0)


def check_plans(origin: Origin, plans: Sequence[ShardPlan], catalog: Catalog) -> None:
    """Raises UserError unless today's shards would be those that the version was trained on."""
    if plans[0].path.parent.name != origin.shards:
        raise _cannot_be_made(origin, f"the catalog, now at version {catalog.version}, or the code gives other ones")


def _cannot_be_made(origin: Origin, why: str) -> UserError:
    version = origin.version
    return UserError(
        f"{version}: its shards {origin.shards} are gone, and {why}. Put them back from "
        f"a copy of the store, or run `grayline preprocess --dataset FILE.yaml` on the images as they were."
    )


@task(retries=1, retry_condition_fn=may_succeed)
def train_again(origin: Origin, shard_set: ShardSet, here: Workspace) -> Reproduction:
    """Train in a folder of its own, which is removed afterwards; an interrupted training goes on.

    Writes the outcome on the version.
    """
    version, started = origin.version, time.monotonic()
    tracking_uri, folder = here.tracking_uri, here.store.reproduce(version.name, digest_of(version.files))
    then = replace(here, resident_bytes=origin.lineage["resident_bytes"])
    with _starting_point(origin, here) as start, _threads_of(origin):
        threads = threads_of(origin.lineage)
        job = replace(job_of(shard_set, origin.dataset, then), state=folder / STATE, threads=threads)
        if start:
            job = replace(job, start=start, config=warm_started(job.config))
        again = _train_job(job, here)
    with verified_folder(tracking_uri, version, Settings().verify_key) as registered:
        identical, largest, metrics = compare(again, registered / ARTIFACTS / MODEL_FOLDER, shard_set, here.keys)
    found = Reproduction(version, identical, largest, metrics, surroundings(origin), time.monotonic() - started)
    if folder.exists():
        folder.fs.rm(folder.path, recursive=True)
    text = f"{datetime.now(UTC).isoformat(timespec='seconds')}: {found.verdict}"
    tracking.client(tracking_uri).set_model_version_tag(version.name, version.version, REPRODUCED, text)
    publish_page(markdown(found), key="reproduction", description="A version trained again")
    return found


@contextmanager
def _starting_point(origin: Origin, here: Workspace) -> Iterator[UPath | None]:
    """Yield the folder of the classifier that the training began with; None for a training from scratch.

    Raises UserError if it is gone.
    """
    digest = origin.lineage["start"]
    if digest is None:
        yield None
        return
    folder = here.store.runs(origin.dataset.name) / digest / MODEL
    if folder.exists():
        yield folder
        return
    versions = versions_of(here.tracking_uri, origin.version.name).values()
    made_of_it = [version for version in versions if version.tags.get(CHECKPOINT) == digest]
    if not made_of_it:
        raise UserError(
            f"{origin.version} began with the weights of the training {digest}, "
            f"which is neither in {folder.parent} nor a registered version. It cannot be trained again."
        )
    with verified_folder(here.tracking_uri, value_of(made_of_it[0])) as files:
        yield UPath(files / ARTIFACTS / MODEL_FOLDER)


@contextmanager
def _threads_of(origin: Origin) -> Iterator[None]:
    """Use as many threads of PyTorch as the processes of that training shared."""
    machine, own = machine_of(origin.lineage), torch.get_num_threads()
    torch.set_num_threads(machine.threads if machine else own)
    try:
        yield
    finally:
        torch.set_num_threads(own)


def _train_job(job: Job, here: Workspace) -> Classifier:
    """Train behind a progress bar."""
    log.info("reproduce   %s, %d px, on %s", job.model.arch, job.preprocessing.size, places(job, here.device))
    with progress("reproduce", job.train * job.config.epochs) as advance:
        meter = Meter(advance, job.config.epochs)

        def on_epoch(epoch: Epoch) -> None:
            meter.epoch_done(epoch, job.train)

        return run_job(job, here, meter.step, on_epoch)[0]


def compare(
    again: Classifier, registered: Path, shard_set: ShardSet, keys: Keys | None
) -> tuple[bool, float, dict[str, tuple[float, float]]]:
    """Return whether the files of the weights are equal, the largest difference between two weights, and the
    metrics.

    The difference is infinite for another network. Metrics are pairs of the version's and the new value, if weights
    differ.
    """
    with tempfile.TemporaryDirectory() as scratch:
        again.save(Path(scratch))
        then, now = registered / WEIGHTS, Path(scratch) / WEIGHTS
        if then.read_bytes() == now.read_bytes():
            return True, 0.0, {}
        largest = _largest_difference(load_file(then), load_file(now))
    version = Classifier.load(registered, again.device)
    both = measure(version, shard_set, keys), measure(replace(again, calibration=version.calibration), shard_set, keys)
    return False, largest, {name: (both[0][name], both[1][name]) for name in both[0]}


def _largest_difference(then: dict[str, torch.Tensor], now: dict[str, torch.Tensor]) -> float:
    """Return the largest difference over all weights; infinite if names or shapes differ."""
    shapes = [{name: weight.shape for name, weight in weights.items()} for weights in (then, now)]
    if shapes[0] != shapes[1]:
        return float("inf")
    return max(float((then[name].double() - now[name].double()).abs().max()) for name in then)


def measure(classifier: Classifier, shard_set: ShardSet, keys: Keys | None) -> dict[str, float]:
    """Return every metric on the held-out images."""
    labels, probabilities = [], []
    for images in shards.iterate(shard_set.files, "test", shard_set.classes, keys):
        labels.append(images.labels)
        probabilities.append(classifier.probabilities(images.pixels))
    found = np.concatenate(labels), np.concatenate(probabilities)
    return {name: metric(*found) for name, metric in METRICS.items()}


def surroundings(origin: Origin) -> dict[str, str]:
    """Compare code, distributions and machine with those of the record."""
    lineage, machine, here = origin.lineage, machine_of(origin.lineage), this_machine()
    here = replace(here, threads=machine.threads) if machine else here  # see _threads_of
    then, now = (
        dict(line.split("==", 1) for line in lines) for lines in (lineage["distributions"], distributions_here())
    )
    moved = [f"{name} {then.get(name, 'none')} -> {now.get(name, 'none')}" for name in sorted(then.keys() | now.keys())
             if then.get(name) != now.get(name)]  # fmt: skip
    code = "the same" if lineage["code"] == source_digest(*LEARNING) else "of the training differs"
    return {
        "code": f"{code} ({lineage['commit']} -> {commit()})",
        "distributions": f"the same {len(now)}" if not moved else some_of(moved, _NAMED),
        "machine": "the same" if machine == here else f"{_told(machine)} -> {_told(here)}",
    }


def _told(machine: Machine | None) -> str:
    """Describe everything about a machine that may change the last bits of a sum."""
    return f"{machine}, {machine.instructions}, {machine.system}" if machine else "not recorded"


def markdown(found: Reproduction) -> str:
    rows = [(name.replace("_", " "), f"{then:.4f}", f"{now:.4f}") for name, (then, now) in found.metrics.items()]
    metrics = f"\n{markdown_table(('metric', 'the version', 'trained again'), rows)}\n" if rows else ""
    around = "\n".join(f"- {what}: {plain(text)}" for what, text in found.surroundings.items())
    return f"# {plain(str(found.version))}\n\n{plain(found.verdict)}\n{metrics}\n{around}\n"
