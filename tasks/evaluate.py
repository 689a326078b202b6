"""Evaluate: a classifier on the held-out images that training has never seen."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from prefect import task
from prefect.artifacts import create_markdown_artifact
from upath import UPath

from resnet_core import metrics as metrics_module
from resnet_core import plots, shards
from resnet_core.classifier import Classifier
from resnet_core.digest import source_digest
from resnet_core.encryption import Keys
from resnet_core.files import as_local, write_folder
from resnet_core.fit import Epoch
from resnet_core.metrics import Interval, Labels, Metrics, Probabilities, measure
from tasks import tracking
from tasks.values import Checkpoint, Evaluation, ShardSet

METRICS_FILE = "metrics.json"


@task
def evaluate(
    checkpoint: Checkpoint,
    shard_set: ShardSet,
    tracking_uri: str,
    device: str = "auto",
    keys: Keys | None = None,
) -> Evaluation:
    """Score the held-out images; write and log metrics with intervals, predictions and plots. What the
    same code has measured of the same checkpoint is not measured again."""
    known = read_evaluation(checkpoint) if checkpoint.reused else None
    if known:
        return known
    with as_local(checkpoint.folder / "model") as folder:
        classifier = Classifier.load(folder, device)
    image_ids, labels, probabilities = score_held_out(classifier, shard_set, keys)
    metrics = measure(labels, probabilities, shard_set.classes)
    with write_folder(checkpoint.folder / "evaluation") as draft:
        write_metrics(draft, metrics, shard_set.classes)
        write_predictions(draft / "predictions.parquet", image_ids, labels, probabilities, shard_set.classes)
        write_plots(draft, checkpoint.folder, metrics, labels, probabilities, shard_set.classes)
        log_to_mlflow(tracking_uri, checkpoint.mlflow_run_id, draft, metrics)
    create_markdown_artifact(markdown(metrics, checkpoint), key="evaluation", description="Held-out metrics")
    return Evaluation(checkpoint.folder / "evaluation", metrics.overall, metrics.count)


def read_evaluation(checkpoint: Checkpoint) -> Evaluation | None:
    """What `evaluate` has written of this checkpoint, unless other code wrote it."""
    path = checkpoint.folder / "evaluation" / METRICS_FILE
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if found.get("code") != source_digest(metrics_module):
        return None
    nan = float("nan")
    intervals = {
        name: Interval(*(nan if value is None else value for value in ends.values()))
        for name, ends in found["metrics"].items()
    }
    return Evaluation(checkpoint.folder / "evaluation", intervals, found["images"])


def score_held_out(
    classifier: Classifier, shard_set: ShardSet, keys: Keys | None
) -> tuple[list[str], Labels, Probabilities]:
    """Ids, labels [N] and probabilities [N, C] of the test images, a row group at a time."""
    image_ids: list[str] = []
    labels, probabilities = [], []
    for images in shards.iterate(shard_set.files, "test", shard_set.classes, keys):
        image_ids += images.image_ids.tolist()
        labels.append(images.labels)
        probabilities.append(classifier.probabilities(images.pixels))
    return image_ids, np.concatenate(labels), np.concatenate(probabilities)


def write_metrics(folder: Path, metrics: Metrics, classes: tuple[str, ...]) -> None:
    text = {
        "code": source_digest(metrics_module),
        "images": metrics.count,
        "metrics": {name: asdict(interval) for name, interval in metrics.overall.items()},
        "classes": {name: asdict(values) for name, values in metrics.per_class.items()},
        "confusion": {"classes": list(classes), "counts": metrics.confusion.tolist()},
    }
    (folder / METRICS_FILE).write_text(json.dumps(_no_nan(text), indent=2) + "\n", encoding="utf-8")


def _no_nan(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {name: _no_nan(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def write_predictions(
    path: Path, image_ids: list[str], labels: Labels, probabilities: Probabilities, classes: tuple[str, ...]
) -> None:
    names = np.array(classes, dtype=object)
    table = {
        "image_id": pa.array(image_ids, pa.string()),
        "label": pa.array(names[labels], pa.string()),
        "predicted": pa.array(names[probabilities.argmax(1)], pa.string()),
        "confidence": pa.array(probabilities.max(1), pa.float32()),
        "probabilities": pa.array(list(probabilities), pa.list_(pa.float32())),
    }
    metadata = {shards.METADATA_KEY: json.dumps({"classes": list(classes)})}
    pq.write_table(pa.table(table).replace_schema_metadata(metadata), path)


def write_plots(
    draft: Path,
    run: UPath,
    metrics: Metrics,
    labels: Labels,
    probabilities: Probabilities,
    classes: tuple[str, ...],
) -> None:
    epochs = [Epoch(**values) for values in json.loads((run / "epochs.json").read_text())["epochs"]]
    figures = {
        "training_curves": plots.training_curves(epochs),
        "confusion_matrix": plots.confusion(metrics, classes),
        "roc_curve": plots.roc(labels, probabilities, classes),
        "reliability": plots.reliability(labels, probabilities),
    }
    for name, figure in figures.items():
        figure.savefig(draft / f"{name}.png", dpi=120)


def log_to_mlflow(tracking_uri: str, run_id: str, folder: Path, metrics: Metrics) -> None:
    """Each metric as `test_NAME`, its interval as `test_NAME_low` and `_high`; all files."""
    mlflow = tracking.client(tracking_uri)
    values: dict[str, float] = {}
    for name, interval in metrics.overall.items():
        values |= {
            f"test_{name}": interval.value,
            f"test_{name}_low": interval.low,
            f"test_{name}_high": interval.high,
        }
    tracking.log_metrics(tracking_uri, run_id, values)
    mlflow.log_artifacts(run_id, str(folder), "evaluation")


def markdown(metrics: Metrics, checkpoint: Checkpoint) -> str:
    """The tables of the Prefect artifact."""
    overall = "\n".join(
        f"| {name.replace('_', ' ')} | {i.value:.4f} | {i.low:.4f} to {i.high:.4f} |"
        for name, i in metrics.overall.items()
    )
    classes = "\n".join(
        f"| {name} | {m.precision} | {m.recall} | {m.f1} | {m.support:,} |" for name, m in metrics.per_class.items()
    )
    return (
        f"# {checkpoint.dataset}: {metrics.count:,} held-out images\n\n"
        f"{checkpoint.epochs} epochs on {checkpoint.device} in {checkpoint.seconds:,.0f} s\n\n"
        f"| metric | value | 95% interval |\n| --- | --- | --- |\n{overall}\n\n"
        f"| class | precision | recall | F1 | images |\n| --- | --- | --- | --- | --- |\n{classes}\n"
    )
