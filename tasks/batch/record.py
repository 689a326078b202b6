"""A batch's MLflow run: its source, its version, its speed and its outcome.

Batch and version have one run in the experiment `<model>-scores`, found again by a tag: scoring a batch again adds
a step to its metrics. The version is the run's input, so MLflow's page of the version lists its batches.
"""

import re
import time
from datetime import UTC, datetime

from mlflow.entities import LoggedModelInput, Metric, Param, RunTag
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from prefect import task
from prefect.cache_policies import NO_CACHE
from upath import UPath

from resnet_core.storage.digest import digest_of
from resnet_core.storage.files import as_local
from tasks.artifacts import code, plain
from tasks.batch.values import DriftReport, Scores
from tasks.registry.runs import client, experiment_id, running
from tasks.store import MANIFEST
from tasks.workspace import Workspace

SCORED = "grayline.scored"  # tag: the digest of the batch's folder, its source and its version
_ENGINE = "grayline.engine"  # tag: what computed it the last time
_DRIFTED = "grayline.drifted"  # tag: the measures over their thresholds, `none`, or why nothing was measured
_LOGGED = "models:/m-"  # where a version lies that is one of MLflow's logged models
_MOST_LABELS = 500  # whose shares are metrics, the most frequent ones


@task(cache_policy=NO_CACHE)  # a batch of many parts would be hashed for a key that nobody asks for
def record_batch(scores: Scores, drift: DriftReport, here: Workspace) -> str:
    """Write the batch's run, with the manifest and the drift plot as artifacts. Returns its id."""
    mlflow = client(here.tracking_uri)
    run_id, step = open_run(mlflow, scores, here.store.root)
    now = int(time.time() * 1000)
    tags = {
        _ENGINE: scores.engine,
        _DRIFTED: drift.why or " ".join(each.measure for each in drift.drifted) or "none",
        MLFLOW_RUN_NOTE: note(scores, drift),
    }
    metrics = [Metric(name, value, now, step) for name, value in measured(scores, drift).items()]
    with running(here.tracking_uri, run_id):
        mlflow.log_batch(run_id, metrics, tags=[RunTag(name, value) for name, value in tags.items()])
        for path in (scores.output / MANIFEST, drift.plot):
            if path is not None and path.exists():
                with as_local(path) as file:
                    mlflow.log_artifact(run_id, str(file))
    return run_id


def open_run(mlflow: MlflowClient, scores: Scores, store: UPath) -> tuple[str, int]:
    """Return the run of this batch and version, a new one the first time, and the number of the step."""
    model = scores.model
    digest = digest_of(str(scores.output), scores.source, model)
    experiment = experiment_id(mlflow, store, f"{model.name}-scores")
    found = mlflow.search_runs([experiment], f"tags.`{SCORED}` = '{digest}'", max_results=1)
    if found:
        run_id = str(found[0].info.run_id)
        return run_id, len(mlflow.get_metric_history(run_id, "files")) + 1
    name = f"{scores.batch} {datetime.now(UTC).date()}"
    run_id = str(mlflow.create_run(experiment, tags={SCORED: digest}, run_name=name).info.run_id)
    params = {**scores.identity(), "output": str(scores.output)}
    mlflow.log_batch(run_id, params=[Param(name, value) for name, value in params.items()])
    place = mlflow.get_model_version(model.name, model.version).source or ""
    if place.startswith(_LOGGED):  # one that others have registered may lie anywhere
        mlflow.log_inputs(run_id, models=[LoggedModelInput(place.removeprefix("models:/"))])
    return run_id, 1


def measured(scores: Scores, drift: DriftReport) -> dict[str, float]:
    """Return counts, seconds, images/s, the share of each label, and each measure of drift with its p."""
    values = {name: float(count) for name, count in scores.counts().items() if count is not None}
    values |= {
        "reused": float(scores.reused),
        "seconds": scores.seconds,
        "images_per_second": scores.images_per_second,
    }
    frequent = sorted(scores.labels.items(), key=lambda item: (-item[1][0], item[0]))
    for name, (count, _) in frequent[:_MOST_LABELS]:
        values[f"share.{metric_name(name)}"] = count / scores.scored
    for each in drift.findings:
        values[f"drift.{each.measure}"] = each.distance
        values[f"drift.{each.measure}.p"] = each.p
    return values


def metric_name(label: str) -> str:
    """Return a valid metric name for MLflow: the label itself, or its valid letters and a digest."""
    plain = re.sub(r"[^A-Za-z0-9_. -]", "_", label)[:100]
    return label if plain == label and label.strip(". ") else f"{plain}-{digest_of(label)[:6]}"


def note(scores: Scores, drift: DriftReport) -> str:
    """Return the text at the top of the run's page."""
    where = f"Source {code(scores.source)}, rows in {code(scores.output)}"
    return f"{plain(scores.headline())}. {where}.\n\nDrift: {plain(drift.in_words())}"
