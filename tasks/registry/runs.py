"""MLflow runs: one run per training, found again by the training's digest."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import posixpath
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from mlflow.entities import LifecycleStage, Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from upath import UPath

from resnet_core.credentials import opened
from resnet_core.storage.files import DamagedFileError, is_local, read_json, write_text
from tasks.registry.moved import follow_store
from tasks.registry.patience import asked, is_answer, patient, says_missing
from tasks.store import REGISTERED, Store

if TYPE_CHECKING:  # PyTorch takes seconds to import, and is not needed to move an alias
    from resnet_core.training.loop import Epoch


log = logging.getLogger("grayline")

TRAINING = "grayline.training"
_LONGEST_NAME = 250  # characters that MLflow takes
_SECONDS_BETWEEN_SAMPLES = 10.0  # of the machine's load


def client(tracking_uri: str) -> MlflowClient:
    """Return a client of the registry; in a store that has moved, its places are corrected first."""
    asked(tracking_uri, follow_store, tracking_uri)
    return patient(tracking_uri)


def mlflow_name(name: str) -> str:
    """Return a name that MLflow takes for a parameter or a metric; a digest keeps names apart that became one."""
    allowed = re.sub(r"[^\w .:/-]", "_", name)
    if allowed == name and len(name) <= _LONGEST_NAME and posixpath.normpath(name) == name and name[0] not in "/.":
        return name
    short = allowed[: _LONGEST_NAME - 9].replace("/", "_").lstrip(".")
    return f"{short}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def open_run(
    tracking_uri: str, store: UPath, dataset: str, digest: str, *, name: str | None = None, parent: str | None = None
) -> str:
    """Return the id of the training's run: of an interrupted night, or new and nested in the run `parent`."""
    mlflow = client(tracking_uri)
    experiment = experiment_id(mlflow, store, dataset)
    runs = mlflow.search_runs([experiment], f"tags.`{TRAINING}` = '{digest}'", max_results=1)
    if runs:
        return str(runs[0].info.run_id)
    tags = {TRAINING: digest} | ({MLFLOW_PARENT_RUN_ID: parent} if parent else {})
    run = mlflow.create_run(experiment, tags=tags, run_name=name or f"{dataset}-{digest[:8]}")
    return str(run.info.run_id)


def experiment_id(mlflow: MlflowClient, store: UPath, name: str) -> str:
    """Return the id of the experiment; create it if it is missing, restore it if somebody has deleted it.

    With a database file, artifacts are in the store, beside it. A server chooses their place itself.
    """
    experiment = mlflow.get_experiment_by_name(name)
    if experiment:
        if experiment.lifecycle_stage == LifecycleStage.DELETED:
            mlflow.restore_experiment(experiment.experiment_id)
            log.warning("mlflow      the experiment %s had been deleted: restored, for runs are logged there", name)
        return str(experiment.experiment_id)
    own = mlflow.tracking_uri.startswith("sqlite:") and is_local(store)
    location = f"file://{quote(f'{Store(store).artifacts().path}/{name}')}" if own else None
    return str(mlflow.create_experiment(name, artifact_location=location))


def log_epochs(tracking_uri: str, run_id: str, epochs: Iterable[Epoch], judge: str = "accuracy") -> None:
    """Log the epochs that the run does not have yet; the epoch's number is the step.

    judge: the metric of the validation.
    """
    mlflow = client(tracking_uri)
    logged = {metric.step for metric in mlflow.get_metric_history(run_id, "train_loss")}
    now = int(time.time() * 1000)
    metrics = [
        Metric(name, value, now, epoch.epoch)
        for epoch in epochs
        if epoch.epoch not in logged
        for name, value in (
            ("train_loss", epoch.loss),
            ("train_accuracy", epoch.accuracy),
            (f"validation_{judge}", epoch.validation_accuracy),
            ("lr", epoch.lr),
            ("images_per_second", epoch.images_per_second),
        )
        if value is not None
    ]
    for start in range(0, len(metrics), 1000):
        mlflow.log_batch(run_id, metrics=metrics[start : start + 1000])


def log_params(tracking_uri: str, run_id: str, settings: dict[str, Any]) -> None:
    """Log nested settings as `part.key`. Parameters that a continued run has already are skipped."""
    mlflow = client(tracking_uri)
    logged = mlflow.get_run(run_id).data.params
    named = ((mlflow_name(name), value) for name, value in _flat(settings))
    params = [Param(name, str(value)) for name, value in named if name not in logged]
    mlflow.log_batch(run_id, params=params)


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def note_registration(folder: UPath, run_id: str) -> None:
    """Note beside a training by which run a version was made of it. Every registry has its own runs."""
    try:
        runs = {*_noted_runs(folder), run_id}
    except DamagedFileError as error:
        log.warning("register    %s: runs of other registries are not known any more", error)
        runs = {run_id}
    write_text(folder / REGISTERED, json.dumps(sorted(runs)) + "\n")


def _noted_runs(folder: UPath) -> list[str]:
    path = folder / REGISTERED
    return [str(run_id) for run_id in read_json(path)] if path.exists() else []


def is_noted(folder: UPath, runs: Collection[str]) -> bool:
    """Return whether every run that is noted beside a training is among these, and there is one."""
    try:
        noted = set(_noted_runs(folder))
    except DamagedFileError:
        return False
    return bool(noted) and noted <= set(runs)


def is_of_another_registry(tracking_uri: str, folder: UPath) -> bool:
    """Return whether a training was registered, or at least logged, with another registry than this one."""
    mlflow = client(tracking_uri)
    try:
        noted = [mlflow.get_run(run_id) for run_id in _noted_runs(folder)]
    except DamagedFileError:
        return True  # nobody knows: it stays
    except MlflowException as error:  # MLflow's own word, or it is raised
        if not _is_gone(error):
            raise
        return True
    if noted:
        return False
    experiment = mlflow.get_experiment_by_name(folder.parent.name)
    condition = f"tags.`{TRAINING}` = '{folder.name}'"
    return not (experiment and mlflow.search_runs([experiment.experiment_id], condition, ViewType.ALL, max_results=1))


def _is_gone(error: MlflowException) -> bool:
    """Return whether the error says that the run does not exist, or that somebody has deleted it."""
    return says_missing(error) or (is_answer(error) and "'active' state" in str(error))


def living_run(tracking_uri: str, run_id: str, to_read: bool = False) -> str:
    """Return the id of a version's run; empty without one, or where somebody has deleted it.

    to_read: a deleted run will do, unless it was removed for good.
    """
    if not run_id:
        return ""
    try:
        run = client(tracking_uri).get_run(run_id)
        alive = to_read or run.info.lifecycle_stage == LifecycleStage.ACTIVE
    except MlflowException as error:  # MLflow's own word, or it is raised
        if not _is_gone(error):
            raise
        alive = False
    if not alive:
        log.warning(
            "mlflow      the run %s was deleted: nothing is %s", run_id, "read from it" if to_read else "logged there"
        )
    return run_id if alive else ""


def set_tags(tracking_uri: str, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags to search runs by; tags that exist get the new value."""
    client(tracking_uri).log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])


@contextmanager
def running(tracking_uri: str, run_id: str, *, parent: str = "", ends: bool = True) -> Iterator[None]:
    """Keep the run's status: RUNNING in the block, FINISHED after it, FAILED if the block raises.

    parent: a run that fails with this one. ends: False leaves the run RUNNING for a later stage.
    """
    set_status(tracking_uri, run_id, "RUNNING")
    try:
        yield
    except BaseException:
        for failed in filter(None, (run_id, parent)):
            set_status(tracking_uri, failed, "FAILED")
        raise
    if ends:
        set_status(tracking_uri, run_id, "FINISHED")


@contextmanager
def system_metrics(tracking_uri: str, run_id: str) -> Iterator[None]:
    """Log MLflow's system metrics in the block: processor, memory, disk, network and GPUs."""
    # Imported late: the module sets up loggers of libraries that may be missing.
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    how = {"sampling_interval": _SECONDS_BETWEEN_SAMPLES, "tracking_uri": opened(tracking_uri)}
    monitor = asked(tracking_uri, SystemMetricsMonitor, run_id, resume_logging=True, **how)
    monitor.start()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        monitor.finish()  # type: ignore[no-untyped-call]


def set_status(tracking_uri: str, run_id: str, status: Literal["RUNNING", "FINISHED", "FAILED"]) -> None:
    client(tracking_uri).update_run(run_id, status)


def log_metrics(tracking_uri: str, run_id: str, values: dict[str, float]) -> None:
    """Log final metrics, at step 0; NaN, an undefined metric, is left out."""
    now = int(time.time() * 1000)
    metrics = [Metric(mlflow_name(name), value, now, 0) for name, value in values.items() if not math.isnan(value)]
    client(tracking_uri).log_batch(run_id, metrics=metrics)
