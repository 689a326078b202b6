"""Bulk scoring: every file of a source gets one row, bad files too."""

import time
from typing import Annotated

from prefect import flow
from prefect.states import Completed
from pydantic import Field, SecretStr

from resnet_core.errors import JobError, UserError
from resnet_core.storage.files import to_output
from tasks.batch.drift import check_drift
from tasks.batch.engine import choose_engine
from tasks.batch.finish import finish_batch, in_words
from tasks.batch.folder import absolute_source, default_folder, model_of
from tasks.batch.heat_maps import check_heat_folder, write_heat_maps
from tasks.batch.plan import plan_batch
from tasks.batch.progress import watched
from tasks.batch.record import record_batch
from tasks.batch.score import Scoring, sample, score_part
from tasks.batch.values import Scores
from tasks.cluster import on_gpus
from tasks.registry.versions import is_confidential, load_classifier, resolve
from tasks.runner import run_all, run_name, task_runner
from tasks.settings import reveal
from tasks.sinks.sinks import check_target, write_to
from tasks.values import ModelVersion
from tasks.watch.rules import tell_of_a_failure, watch_batch
from tasks.workspace import workspace

_EMBEDDED = 256  # images of a batch whose embeddings drift is measured on


@flow(name="classify-batch", flow_run_name=run_name, task_runner=task_runner(), on_failure=[tell_of_a_failure])
def classify_batch(
    source: str,
    output: str | None = None,
    model: str | None = None,
    to: list[SecretStr] | None = None,
    engine: str | None = None,
    embeddings: bool = False,
    only_failed: bool = False,
    fail_over: Annotated[float, Field(ge=0, le=1)] | None = None,
    heatmaps: str | None = None,
) -> Scores:
    """Score every image of a source with a registered model.

    With the same output, an interrupted batch resumes, and a finished one scores new and changed files.

    Args:
        source: Folder, glob, tar, zip, Parquet with image bytes, shards, IDX, manifest, or a URL of one.
            Prefect shows a run's parameters: a URL with a password is secret:NAME, as in `to`.
        output: Folder for rows and manifest; by default one under scores/, named by source and version.
        model: NAME@ALIAS or NAME/VERSION; by default the champion of the only model there is.
        to: More targets of the rows: a CSV file, a database's URL, a Delta or an Iceberg table, or secret:NAME.
            secret:NAME is a Prefect Secret block that holds a target, because Prefect shows a run's parameters.
        engine: torch, compile, onnx, openvino or int8; by default the fastest that agrees with torch, by a short trial.
        embeddings: Keep each image's embedding, the input of the network's last layer.
        only_failed: Score failed files again, and nothing else.
        fail_over: Stop when the share of bad files is larger, such as 0.01.
        heatmaps: Folder for a heat map of each image to review: where its label was seen.
    """
    started, here = time.monotonic(), workspace()
    targets = [target.get_secret_value() for target in to or ()]
    source = reveal(source, "--source")
    for target in targets:
        check_target(target)
    version = _wanted_version(here.tracking_uri, output, model, only_failed)
    classifier = load_classifier(here.tracking_uri, version, here.device)
    confidential = is_confidential(here.tracking_uri, version, here.device)
    if embeddings and confidential:
        raise UserError(
            f"--embeddings: {version} is of encrypted data, and an image can be guessed from its embedding."
        )
    place = absolute_source(source)
    pictures = check_heat_folder(heatmaps, place, version, confidential) if heatmaps else None
    folder = to_output(output, "--output") if output else default_folder(here.store, place, version)
    kept = None if confidential else embeddings
    batch = plan_batch(place, folder, version, classifier.preprocessing, kept, only_failed)
    chosen = choose_engine(
        version, classifier, lambda: sample(batch, classifier.preprocessing, here.limits), batch.to_score, engine, here
    )
    how = Scoring(
        version, chosen, here.tracking_uri, here.device, here.limits, batch.run, batch.known,
        embedded=1.0 if embeddings else 0.0 if confidential else _EMBEDDED / max(1, batch.files), tried=batch.tried,
    )  # fmt: skip
    with watched(batch, fail_over) as watch, on_gpus():
        run_all(lambda part: score_part.submit(part, how), batch.waiting, watch)
    seconds, refused = time.monotonic() - started, chosen.refused | watch.refused
    scores = finish_batch(batch, seconds, chosen.name, watch.again, refused)
    drift = check_drift(scores, here.tracking_uri)
    record_batch(scores, drift, here)
    for target in targets:
        write_to(scores, target)
    if pictures is not None:
        write_heat_maps(scores, pictures, here)
    if scores.files and not scores.scored:
        raise JobError(f"{source}: {scores.nothing_scored()}")
    watch_batch(scores, drift, here, seconds)
    return Completed(message=next(in_words(scores)), data=scores)  # type: ignore[return-value]  # its data is


def _wanted_version(tracking_uri: str, output: str | None, model: str | None, only_failed: bool) -> ModelVersion:
    """Return the version to score by; failed files are scored again by the version of the other rows."""
    if only_failed and model is None and output:
        model = model_of(to_output(output, "--output"))
    return resolve(tracking_uri, model)
