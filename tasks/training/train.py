"""Train: turn a shard set into a classifier, going on where an interrupted run stopped."""

import json
import logging
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from prefect import task
from upath import UPath

from resnet_core.device import find_device
from resnet_core.storage.digest import digest_of, digests_of
from resnet_core.storage.files import read_json, write_folder, write_text
from resnet_core.training.config import warm_started
from resnet_core.training.job import Job
from resnet_core.training.loop import Epoch
from tasks.dataset import Dataset
from tasks.defaults.settle import settle
from tasks.progress import progress
from tasks.registry import runs as tracking
from tasks.registry.versions import SHARDS
from tasks.store import EPOCHS, LEARNED, MODEL, STATE
from tasks.training.lineage import note_threads, write_lineage
from tasks.training.run import Meter, is_whole, job_of, learning_digest, may_succeed, places, run_job
from tasks.training.start import start_of
from tasks.values import Checkpoint, Night, ShardSet, have
from tasks.workspace import Workspace

log = logging.getLogger("grayline")


@task(retries=1, retry_condition_fn=may_succeed)
def train(night: Night, dataset: Dataset, here: Workspace) -> Checkpoint:
    """Train, or find the classifier that the same data, settings and code have already given."""
    shard_set, tracking_uri = have(night.shard_set), here.tracking_uri
    dataset = settle(shard_set, dataset, here)
    champion, learned = start_of(dataset, shard_set, here)
    made_of = learning_digest(shard_set, dataset)
    folder = here.store.runs(dataset.name) / _training_digest(made_of, champion)
    name = run_name(dataset, folder.name)
    run_id = tracking.open_run(tracking_uri, here.store.root, dataset.name, folder.name, name=name)
    tracking.log_params(tracking_uri, run_id, dataset.model_dump(exclude={"card"}))
    tracking.set_tags(tracking_uri, run_id, _tags_of(dataset, shard_set))
    reused = is_whole(folder)
    if not reused:
        job = replace(job_of(shard_set, dataset, here), state=folder / STATE)
        if champion:
            job = replace(job, start=champion / MODEL, config=warm_started(job.config))
        write_lineage(folder, dataset, shard_set, champion.name if champion else None, here)
        learned.save(folder / LEARNED)
        with tracking.running(tracking_uri, run_id, ends=False):
            _train_new(job, folder, made_of, run_id, here)
    summary = _read_summary(folder)
    epochs = [Epoch(**values) for values in summary["epochs"]]
    tracking.log_epochs(tracking_uri, run_id, epochs)
    return Checkpoint(
        dataset=dataset.name,
        folder=folder,
        digest=folder.name,
        epochs=len(epochs),
        train_accuracy=epochs[-1].accuracy,
        seconds=summary["seconds"],
        device=summary["device"],
        reused=reused,
        mlflow_run_id=run_id,
    )


def run_name(dataset: Dataset, digest: str) -> str:
    """Return the name of a run in a list of runs: elpv-2026-11-30-resnet18-fast-160px-1a2b3c4d."""
    today = datetime.now(UTC).date()
    return f"{dataset.name}-{today}-{dataset.model.arch}-{dataset.recipe}-{dataset.image.size}px-{digest[:8]}"


def _tags_of(dataset: Dataset, shard_set: ShardSet) -> dict[str, str]:
    """Return the tags that runs are searched by, beside their parameters."""
    return {
        "grayline.dataset": dataset.name,
        "grayline.arch": dataset.model.arch,
        "grayline.recipe": dataset.recipe,
        "grayline.settings": dataset.chosen or "all from the data set file",
        SHARDS: shard_set.digest,
    }


def _training_digest(made_of: str, champion: UPath | None) -> str:
    """Return the name of a training.

    A champion made of the same data, settings and code is the outcome itself.
    """
    if champion is None:
        return made_of
    return champion.name if _read_summary(champion).get("made_of") == made_of else digest_of(made_of, champion.name)


def _read_summary(folder: UPath) -> dict[str, Any]:
    return dict(read_json(folder / EPOCHS))


def _train_new(job: Job, folder: UPath, made_of: str, run_id: str, here: Workspace) -> None:
    """Fill `folder` with `model/` and, last, `epochs.json`; `state.safetensors` is there meanwhile."""
    started = time.monotonic()
    begins = f", from {job.start.parent.name}" if job.start else ""
    log.info("train       %s, %d px, on %s%s", job.model.arch, job.preprocessing.size, places(job, here.device), begins)
    with progress("train", job.train * job.config.epochs) as advance:
        meter = Meter(advance, job.config.epochs)
        if job.config.compile and find_device(here.device).type == "cuda":
            advance(0, "compiling the network, which takes a minute or more")

        def on_epoch(epoch: Epoch) -> None:
            meter.epoch_done(epoch, job.train)
            tracking.log_epochs(here.tracking_uri, run_id, [epoch])
            here.check_time(f"epoch {epoch.epoch} of {job.config.epochs}")

        with tracking.system_metrics(here.tracking_uri, run_id):
            classifier, epochs = run_job(job, here, meter.step, on_epoch)
    with write_folder(folder / MODEL) as draft:
        classifier.save(draft)
        files = digests_of(draft)
    summary = {
        "made_of": made_of,
        "seconds": round(time.monotonic() - started, 1),
        "device": places(job, here.device, epochs),
        "files": files,
        "epochs": [asdict(epoch) for epoch in epochs],
    }
    note_threads(folder, epochs)
    write_text(folder / EPOCHS, json.dumps(summary, indent=2) + "\n")
    (folder / STATE).unlink(missing_ok=True)
