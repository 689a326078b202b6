"""Evaluate: a classifier on the held-out images that training has never seen."""

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from prefect import task
from upath import UPath

import resnet_core.device
import resnet_core.drift
import resnet_core.evaluation
import resnet_core.model
import resnet_core.plotting
import tasks.evaluation
from resnet_core.errors import JobError, NotANumberError
from resnet_core.evaluation import assess
from resnet_core.evaluation import input_sizes as by_size
from resnet_core.evaluation.assess import Assessment, HeldOut
from resnet_core.evaluation.calibrate import Requirements
from resnet_core.evaluation.decide import class_costs, class_recalls
from resnet_core.evaluation.evidence import Baseline, Evidence
from resnet_core.evaluation.input_sizes import AtSize, sample, sides
from resnet_core.evaluation.metrics import Interval, Labels
from resnet_core.evaluation.novelty import measure_novelty
from resnet_core.model.calibration import in_words
from resnet_core.model.classifier import Classifier
from resnet_core.shards import format as shards
from resnet_core.shards.encryption import Keys
from resnet_core.storage.digest import check_digests, digest_of, source_digest, table_digest, write_digests
from resnet_core.storage.files import as_local, read_json, write_folder
from resnet_core.training.config import no_number
from tasks.artifacts import publish_page
from tasks.dataset import Dataset
from tasks.evaluation.files import described, write_metrics, write_plots, write_predictions, write_slices
from tasks.evaluation.held_out import (
    columns_of,
    facts,
    groups_of,
    in_order,
    learn_novelty,
    look_alikes_of,
    novelty_work,
    score_split,
)
from tasks.evaluation.page import counted, markdown
from tasks.evaluation.reference import make_reference
from tasks.progress import Advance, progress
from tasks.registry import runs as tracking
from tasks.store import EPOCHS, EVALUATION, METRICS_FILE, MODEL
from tasks.values import Checkpoint, Evaluation, Night, ShardSet, have
from tasks.workspace import Workspace

log = logging.getLogger("grayline")

_MEASURING = (
    resnet_core.device, resnet_core.drift, resnet_core.evaluation, resnet_core.model, resnet_core.plotting,
    tasks.evaluation,
)  # fmt: skip
_WORSE_SLICES = "grayline.worse_slices"  # tag of a training's run


@task
def evaluate(night: Night, dataset: Dataset, here: Workspace) -> Evaluation:
    """Score the held-out images. Find the calibration. Write and log metrics with intervals, predictions, plots,
    and the reference that batches are compared with.

    Nothing is measured again if code, checkpoint, settings and the images' facts are those of an earlier night.
    Raises TrainingError for answers that are not numbers; the training then does not count as done.
    """
    checkpoint, shard_set, config = have(night.checkpoint), have(night.shard_set), dataset.evaluate
    known = facts(night.catalog)
    key = {
        "code": source_digest(*_MEASURING),
        "settings": digest_of(config.model_dump(), asdict(dataset.drift)),
        "facts": table_digest([known]),
    }
    if checkpoint.reused and (found := _read_evaluation(checkpoint, key)):
        return found
    with as_local(checkpoint.folder / MODEL) as folder:
        classifier = Classifier.load(folder, here.device)
    work = shard_set.test + shard_set.validation + novelty_work(shard_set, config.novelty)
    size_work = shard_set.test and len(sample(shard_set.test)) * len(sides(classifier.preprocessing.size))
    try:
        with progress("evaluate", work + size_work) as advance:
            classifier = learn_novelty(classifier, shard_set, config.novelty, here.keys, advance)
            image_ids, labels, raw, distances = score_split(classifier, shard_set, "test", here.keys, advance)
            validation = score_split(classifier, shard_set, "validation", here.keys, advance)
            sizes = _measure_sizes(classifier, shard_set, labels, here.keys, advance)
    except NotANumberError as error:
        (checkpoint.folder / EPOCHS).unlink(missing_ok=True)
        raise no_number(f"evaluate: {error}", dataset.train) from None
    rows = in_order(known, image_ids)
    slices = dict(columns_of(rows, config.slices))
    images = HeldOut(labels, raw, groups_of(rows), slices, look_alikes_of(rows))
    wanted = Requirements(
        class_costs(config.costs, shard_set.classes), class_recalls(config.recall, shard_set.classes), config.coverage
    )
    assessed = assess.assess(images, validation[1:3] if validation.image_ids else None, wanted, shard_set.classes)
    if classifier.novelty is not None:
        kept, flagged = measure_novelty(classifier.novelty, have(distances), validation.distances, images.groups)
        classifier, assessed = replace(classifier, novelty=kept), replace(assessed, flagged=flagged)
    content = described(assessed, sizes, shard_set.classes, key)
    with write_folder(checkpoint.folder / EVALUATION) as draft:
        write_metrics(draft, content)
        assessed.calibration.save(draft)
        if classifier.novelty is not None:
            classifier.novelty.save(draft)
        make_reference(classifier, assessed, night, dataset.drift, here.keys).save(draft)
        write_predictions(draft, rows, images, assessed, shard_set.classes)
        write_slices(draft, assessed.slices)
        write_plots(draft, checkpoint.folder, assessed, sizes, images, shard_set.classes)
        write_digests(draft)
        _log_to_mlflow(here.tracking_uri, checkpoint.mlflow_run_id, draft, assessed)
    page = markdown(assessed, sizes, checkpoint)
    publish_page(page, key="evaluation", description="Held-out metrics")
    say(assessed)
    return _evaluation_of(checkpoint.folder / EVALUATION, content)


def _read_evaluation(checkpoint: Checkpoint, key: dict[str, str]) -> Evaluation | None:
    """Return the evaluation that `evaluate` has written of this checkpoint, unless its key is another."""
    folder = checkpoint.folder / EVALUATION
    if not (folder / METRICS_FILE).exists():
        return None
    try:
        found = read_json(folder / METRICS_FILE)
        if {name: found.get(name) for name in key} != key:
            return None
        with as_local(folder) as local:
            check_digests(local)
    except JobError as error:
        log.warning("evaluate    %s: %s; it is measured again", folder, error)
        return None
    return _evaluation_of(folder, found)


def _evaluation_of(folder: UPath, found: dict[str, Any]) -> Evaluation:
    """Return the evaluation whose metrics.json this is."""
    strict = found["without_look_alikes"]
    return Evaluation(
        folder=folder,
        metrics=_intervals_of(found["metrics"]),
        count=found["images"],
        evidence=_evidence_of(found["evidence"]),
        look_alikes=found["look_alikes"],
        unlike=_evidence_of(strict) if strict else None,
        worse=tuple(f"{each['column']} {each['value']}" for each in found["slices"] if each["worse"]),
        missed=tuple(found["missed"]),
    )


def _intervals_of(found: dict[str, dict[str, float | None]]) -> dict[str, Interval]:
    """JSON has null for NaN."""
    nan = float("nan")
    return {
        name: Interval(**{end: nan if value is None else value for end, value in ends.items()})
        for name, ends in found.items()
    }


def _evidence_of(found: dict[str, Any]) -> Evidence:
    shares = {name: _intervals_of(found[name]) for name in ("metrics", "recalls")}
    return Evidence(**found | shares | {"baseline": Baseline(**found["baseline"])})


def _measure_sizes(
    classifier: Classifier, shard_set: ShardSet, labels: Labels, keys: Keys | None, advance: Advance
) -> list[AtSize]:
    places = sample(len(labels))
    return by_size.by_size(classifier, shards.take(shard_set.files, "test", places, keys), labels[places], advance)


def _log_to_mlflow(tracking_uri: str, run_id: str, folder: Path, found: Assessment) -> None:
    """Log metrics as `test_NAME`, with `_low`, `_high` and `_uncalibrated`, all files, and the worse slices as a
    tag.
    """
    mlflow = tracking.client(tracking_uri)
    values = {f"test_{name}_uncalibrated": before.value for name, before in found.uncalibrated.items()}
    for name, interval in found.metrics.overall.items():
        values |= {
            f"test_{name}": interval.value,
            f"test_{name}_low": interval.low,
            f"test_{name}_high": interval.high,
        }
    values["temperature"] = found.calibration.temperature
    if found.coverage:
        values |= {
            "test_coverage": found.coverage.found.value,
            "test_set_size": found.coverage.mean_size,
        }
    if found.needs_review is not None:
        values["test_review_share"] = float(found.needs_review.mean())
    if found.flagged:
        values["test_unknown_share"] = found.flagged.found.value
    if found.decisions and found.decisions.cost:
        values["test_cost"] = found.decisions.cost.value
    if found.unlike:
        values |= {
            f"test_{name}_without_look_alikes": interval.value for name, interval in found.unlike.metrics.items()
        }
        values["test_images_without_look_alikes"] = found.unlike.images
    tracking.log_metrics(tracking_uri, run_id, values)
    worse = ", ".join(each.name for each in found.slices if each.worse)
    told = all(each.told for each in found.slices)
    mlflow.set_tag(run_id, _WORSE_SLICES, worse or ("none" if told else "none of those that can be told"))
    mlflow.log_artifacts(run_id, str(folder), EVALUATION)


def say(found: Assessment) -> None:
    """Log a line, and a warning for every finding that needs a person."""
    overall, before = found.metrics.overall, found.uncalibrated["calibration_error"].value
    fit = found.calibration
    was = f", {before:.3f} before" * (fit.temperature != 1)
    log.info(
        "evaluate    %s; calibration error %.3f%s, %s",
        counted(found, "accuracy"), overall["calibration_error"].value, was,
        in_words(fit.temperature, fit.images),
    )  # fmt: skip
    if worse := [each for each in found.slices if each.worse]:
        shown = "; ".join(f"{each.name}, {each.accuracy.value:.3f} against {each.rest:.3f}" for each in worse)
        log.warning("evaluate    significantly worse than the rest: %s", shown)
    for text in found.missed:
        log.warning("evaluate    %s", text)
