"""Bulk scoring: every file of a source gets one row, whatever is wrong with it."""

import time
from typing import Annotated

from prefect import flow
from prefect.states import Completed
from pydantic import Field, SecretStr
from upath import UPath

from resnet_core.storage.files import absolute
from tasks.batch.drift import check_drift
from tasks.batch.engine import choose_engine
from tasks.batch.finish import finish_batch, in_words
from tasks.batch.folder import absolute_source, default_folder, model_of
from tasks.batch.plan import plan_batch
from tasks.batch.progress import watched
from tasks.batch.record import record_batch
from tasks.batch.score import Scoring, sample, score_part
from tasks.batch.values import Scores
from tasks.cluster import on_gpus
from tasks.registry.versions import load_classifier, resolve
from tasks.runner import run_all, task_runner, workers
from tasks.settings import Settings, check_store
from tasks.sinks.sinks import check_target, write_to
from tasks.values import ModelVersion

_EMBEDDED = 256  # images of a batch whose embeddings drift is measured on


@flow(name="classify-batch", task_runner=task_runner())
def classify_batch(
    source: str,
    output: str | None = None,
    model: str | None = None,
    to: list[SecretStr] | None = None,
    engine: str | None = None,
    embeddings: bool = False,
    only_failed: bool = False,
    fail_over: Annotated[float, Field(ge=0, le=1)] | None = None,
) -> Scores:
    """Score every image of a folder with a registered model.

    A batch that was interrupted goes on where it stopped, and one that was finished scores what is new or changed,
    when it is given the same output.

    Args:
        source: Folder, glob, tar, zip, Parquet with image bytes, shards, IDX or manifest, or a URL of one; all of it.
        output: Folder for Parquet files and manifest; by default one under scores/, named by source and version.
        model: NAME@ALIAS or NAME/VERSION; by default the champion of the only model there is.
        to: Where the rows are written besides: a CSV file, a database's URL, a Delta or an Iceberg table; or
            secret:NAME, a Prefect Secret block with one of those, for Prefect shows the parameters of a run.
        engine: torch, compile, onnx, openvino or int8; by default the fastest that agrees with torch, by a short trial.
        embeddings: Keep each image's embedding, what the network's last layer sees.
        only_failed: Try the files again whose rows say failed, and nothing else.
        fail_over: Stop once the share of bad files is larger, as 0.01.
    """
    settings, started = Settings(), time.monotonic()
    check_store(settings.root)
    targets = [target.get_secret_value() for target in to or ()]
    for target in targets:
        check_target(target)
    version = _wanted_version(settings.tracking_uri, output, model, only_failed)
    classifier = load_classifier(settings.tracking_uri, version, settings.device)
    place = absolute_source(source)
    folder = absolute(UPath(output)) if output else default_folder(settings.root, place, version)
    batch = plan_batch(place, folder, version, classifier.preprocessing, embeddings, only_failed)
    chosen = choose_engine(
        version, classifier, lambda: sample(batch, classifier.preprocessing, settings.limits), batch.to_score,
        engine, settings.root, workers(),
    )  # fmt: skip
    how = Scoring(
        version, chosen, settings.tracking_uri, settings.device, settings.limits, batch.run, batch.known,
        embedded=1.0 if embeddings else _EMBEDDED / max(1, batch.files),
    )  # fmt: skip
    with watched(batch, fail_over) as watch, on_gpus():
        run_all(lambda part: score_part.submit(part, how), batch.waiting, watch)
    scores = finish_batch(batch, time.monotonic() - started, chosen.name, watch.again)
    drift = check_drift(scores, settings.tracking_uri)
    record_batch(scores, drift, settings.tracking_uri, settings.root)
    for target in targets:
        write_to(scores, target)
    return Completed(message=next(in_words(scores)), data=scores)  # type: ignore[return-value]  # its data is


def _wanted_version(tracking_uri: str, output: str | None, model: str | None, only_failed: bool) -> ModelVersion:
    """The version to score by; what failed is tried again by the version that the other rows are by."""
    if only_failed and model is None and output and (found := model_of(absolute(UPath(output)))):
        return found
    return resolve(tracking_uri, model)
