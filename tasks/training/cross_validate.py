"""Cross-validate: train once per fold, on the other folds.

The folds are of the training images alone. A training image is predicted by a classifier that has not learned from
it. Neither has it learned from the image's group, or from an image that looks the same.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from prefect import task
from upath import UPath

from resnet_core.errors import UserError, plural
from resnet_core.evaluation.metrics import METRICS, Labels, Probabilities
from resnet_core.shards import format as shards
from resnet_core.storage.digest import digest_of, table_digest
from resnet_core.storage.files import as_local, write_text, write_whole
from resnet_core.training import job as training
from resnet_core.training.job import Job
from resnet_core.training.loop import Epoch
from tasks.artifacts import markdown_table, publish_page
from tasks.dataset import Dataset
from tasks.defaults.settle import settle
from tasks.progress import progress
from tasks.registry import runs as tracking
from tasks.store import FOLDS, FOLDS_SUMMARY, OUT_OF_FOLD
from tasks.training.folds import training_images
from tasks.training.run import Meter, job_of, learning_digest, may_succeed, places, run_job
from tasks.values import Night, ShardSet, have
from tasks.workspace import Workspace


@dataclass(frozen=True)
class _FoldPlan:
    """A cross-validation to run: `folder` holds the file of `count` training images and the fold of each.

    `mlflow_run_id` is the run that the folds' runs are nested in.
    """

    dataset: str
    folder: UPath
    digest: str
    folds: int
    count: int
    mlflow_run_id: str


@dataclass(frozen=True)
class CrossValidation:
    """The outcome: `metrics` has mean and standard deviation over `folds` folds, `by_fold` the single values.

    `predictions` is the file of `count` training images, each predicted by a classifier that has not seen it. An
    earlier run has trained `reused` of the folds.
    """

    dataset: str
    predictions: UPath
    folds: int
    count: int
    metrics: dict[str, tuple[float, float]]
    by_fold: dict[str, tuple[float, ...]]
    reused: int
    mlflow_run_id: str


log = logging.getLogger("grayline")


def check_folds(folds: int) -> None:
    """Raises UserError for fewer than two folds."""
    if folds < 2:
        raise UserError(f"--folds: {folds} is too few. A classifier learns from the other folds: write 2 or more.")


@task
def plan_folds(night: Night, dataset: Dataset, folds: int, here: Workspace) -> _FoldPlan:
    """Deal the training images into folds. Raises UserError if that is impossible."""
    shard_set = have(night.shard_set)
    images = training_images(shard_set, night.catalog, folds, dataset.split.seed, here.keys)
    # Everything that a fold's training depends on; the table says which fold predicts which image.
    settings = _settings_of(settle(shard_set, dataset, here))
    made_of = learning_digest(shard_set, settings)
    digest = digest_of("folds", table_digest([images]), made_of)
    folder = here.store.runs(dataset.name) / digest
    with write_whole(folder / FOLDS) as draft:
        pq.write_table(images, draft)
    tracking_uri, name = here.tracking_uri, f"{dataset.name}-{folds}-folds"
    run_id = tracking.open_run(tracking_uri, here.store.root, dataset.name, digest, name=name)
    tracking.log_params(tracking_uri, run_id, {"folds": folds, **settings.model_dump()})
    tracking.set_status(tracking_uri, run_id, "RUNNING")
    return _FoldPlan(dataset.name, folder, digest, folds, len(images), run_id)


def _settings_of(dataset: Dataset) -> Dataset:
    """Return the settings of a fold's training: from scratch, and for all epochs.

    The champion has seen all folds, and stopping at the epoch that suits the fold best would flatter it.
    """
    return dataset.model_copy(update={"train": replace(dataset.train, start="scratch", early_stopping=0)})


@task(retries=1, retry_condition_fn=may_succeed, task_run_name="fold {fold}")
def train_fold(plan: _FoldPlan, fold: int, shard_set: ShardSet, dataset: Dataset, here: Workspace) -> bool:
    """Train on the other folds and predict this one, unless that is done. Returns whether it was."""
    done = plan.folder / f"fold-{fold}.parquet"
    if done.exists():
        return True
    name, tracking_uri = f"{dataset.name}-fold-{fold}", here.tracking_uri
    run_id = tracking.open_run(
        tracking_uri, here.store.root, dataset.name, f"{plan.digest}-{fold}", name=name, parent=plan.mlflow_run_id
    )
    tracking.log_params(tracking_uri, run_id, {"fold": fold})
    state = plan.folder / f"fold-{fold}.safetensors"
    job = replace(
        job_of(shard_set, _settings_of(settle(shard_set, dataset, here)), here),
        state=state,
        held_out=_read_folds(plan) == fold,
    )
    with tracking.running(tracking_uri, run_id, parent=plan.mlflow_run_id):
        image_ids, labels, probabilities = out_of_fold(job, f"fold {fold + 1}/{plan.folds}", run_id, here)
        write_predictions(done, image_ids, labels, probabilities, shard_set.classes)
        tracking.log_metrics(tracking_uri, run_id, measure(labels, probabilities))
    state.unlink(missing_ok=True)
    return False


def out_of_fold(job: Job, stage: str, run_id: str, here: Workspace) -> tuple[list[str], Labels, Probabilities]:
    """Train, and predict the held-out images: ids, labels [N] and probabilities [N, C]."""
    assert job.held_out is not None
    images = job.train - int(job.held_out.sum())
    log.info("%-11s %s, on %s", stage, plural(images, "training image"), places(job, here.device))
    with progress(stage, images * job.config.epochs) as advance:
        meter = Meter(advance, job.config.epochs)

        def on_epoch(epoch: Epoch) -> None:
            meter.epoch_done(epoch, images)
            tracking.log_epochs(here.tracking_uri, run_id, [epoch])

        classifier, epochs = run_job(job, here, meter.step, on_epoch)
    tracking.log_epochs(here.tracking_uri, run_id, epochs)
    image_ids: list[str] = []
    labels, probabilities = [], []
    for kept in training.kept_aside(job):
        image_ids += kept.image_ids.tolist()
        labels.append(kept.labels)
        probabilities.append(classifier.probabilities(kept.pixels))
    return image_ids, np.concatenate(labels), np.concatenate(probabilities)


def _read_folds(plan: _FoldPlan) -> NDArray[np.int32]:
    """Return int32 [N]: the fold of each training image."""
    with (plan.folder / FOLDS).open("rb") as file:
        return pq.read_table(file, columns=["fold"])["fold"].to_numpy()


def measure(labels: Labels, probabilities: Probabilities) -> dict[str, float]:
    return {name: metric(labels, probabilities) for name, metric in METRICS.items()}


def write_predictions(
    path: UPath, image_ids: list[str], labels: Labels, probabilities: Probabilities, classes: tuple[str, ...]
) -> None:
    names = np.array(classes, dtype=object)
    table = {
        "image_id": pa.array(image_ids, pa.string()),
        "predicted": pa.array(names[probabilities.argmax(1)], pa.string()),
        "confidence": pa.array(probabilities.max(1), pa.float32()),
        "probabilities": pa.array(list(probabilities), pa.list_(pa.float32())),
    }
    with write_whole(path) as draft:
        pq.write_table(pa.table(table), draft)


@task
def finish_folds(plan: _FoldPlan, reused: Sequence[bool], shard_set: ShardSet, here: Workspace) -> CrossValidation:
    """Join the folds' predictions; write and log the outcome."""
    table = _out_of_fold_table(plan, shard_set)
    with write_whole(plan.folder / OUT_OF_FOLD) as draft:
        pq.write_table(table, draft)
    labels, fold, probabilities = columns(table, shard_set.classes)
    values = [measure(labels[fold == k], probabilities[fold == k]) for k in range(plan.folds)]
    by_fold = {name: tuple(value[name] for value in values) for name in METRICS}
    found = CrossValidation(
        dataset=plan.dataset,
        predictions=plan.folder / OUT_OF_FOLD,
        folds=plan.folds,
        count=plan.count,
        metrics={name: spread(numbers) for name, numbers in by_fold.items()},
        by_fold=by_fold,
        reused=sum(reused),
        mlflow_run_id=plan.mlflow_run_id,
    )
    write_text(plan.folder / FOLDS_SUMMARY, json.dumps(summary(found), indent=2) + "\n")
    _log_to_mlflow(found, plan.folder, here.tracking_uri)
    publish_page(markdown(found), key="cross-validation", description="Metrics over the folds")
    return found


def _out_of_fold_table(plan: _FoldPlan, shard_set: ShardSet) -> pa.Table:
    """Return image_id, uri, label, fold and prediction of every training image, in the order of the shards."""
    with (plan.folder / FOLDS).open("rb") as file:
        images = pq.read_table(file)
    parts = []
    for fold in range(plan.folds):
        with (plan.folder / f"fold-{fold}.parquet").open("rb") as file:
            parts.append(pq.read_table(file))
    found = pa.concat_tables(parts)
    place = {image: k for k, image in enumerate(found["image_id"].to_pylist())}
    found = found.take([place[image] for image in images["image_id"].to_pylist()])
    for name in ("predicted", "confidence", "probabilities"):
        images = images.append_column(name, found[name])
    metadata = {shards.METADATA_KEY: json.dumps({"classes": list(shard_set.classes)})}
    return images.replace_schema_metadata(metadata)


def columns(table: pa.Table, classes: tuple[str, ...]) -> tuple[Labels, NDArray[np.int32], Probabilities]:
    """Return labels [N], folds [N] and probabilities [N, C] of the out-of-fold table."""
    place = {name: k for k, name in enumerate(classes)}
    labels = np.array([place[name] for name in table["label"].to_pylist()], dtype=np.int64)
    flat = table["probabilities"].combine_chunks().values.to_numpy()
    return labels, table["fold"].to_numpy(), flat.reshape(len(labels), len(classes))


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard deviation of the defined values: a metric may be undefined on a fold."""
    known = [value for value in values if not np.isnan(value)]
    nan = float("nan")
    return float(np.mean(known)) if known else nan, float(np.std(known, ddof=1)) if len(known) > 1 else nan


def summary(found: CrossValidation) -> dict[str, dict[str, Any]]:
    """Return mean, std and folds of each metric; null if it is undefined."""

    def known(value: float) -> float | None:
        return None if np.isnan(value) else value

    return {
        name: {"mean": known(mean), "std": known(std), "folds": [known(value) for value in found.by_fold[name]]}
        for name, (mean, std) in found.metrics.items()
    }


def _log_to_mlflow(found: CrossValidation, folder: UPath, tracking_uri: str) -> None:
    """Log metrics as NAME_mean and NAME_std of the parent run, and the files."""
    values: dict[str, float] = {}
    for name, (mean, std) in found.metrics.items():
        values |= {f"{name}_mean": mean, f"{name}_std": std}
    with tracking.running(tracking_uri, found.mlflow_run_id):
        tracking.log_metrics(tracking_uri, found.mlflow_run_id, values)
        for name in (OUT_OF_FOLD, FOLDS_SUMMARY):
            with as_local(folder / name) as file:
                tracking.client(tracking_uri).log_artifact(found.mlflow_run_id, str(file))


def markdown(found: CrossValidation) -> str:
    rows = (
        (name.replace("_", " "), f"{mean:.4f}", f"{std:.4f}", ", ".join(f"{v:.4f}" for v in found.by_fold[name]))
        for name, (mean, std) in found.metrics.items()
    )
    return (
        f"# {found.dataset}: {plural(found.folds, 'fold')} of {plural(found.count, 'training image')}\n\n"
        f"{markdown_table(('metric', 'mean', 'standard deviation', 'folds'), rows)}\n"
    )
