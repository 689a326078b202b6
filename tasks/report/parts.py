"""Parts of a version's report: everything that MLflow has of the version.

The store is not read, so a report can be made wherever the tracking server is reached. Parts that a version lacks are
empty: versions of older releases, pictures of encrypted data sets.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from mlflow.tracking import MlflowClient

from resnet_core.model.calibration import CALIBRATION
from resnet_core.shards.format import METADATA_KEY
from resnet_core.storage.digest import file_digest
from tasks.progress import progress
from tasks.registry.champion import Event, events
from tasks.registry.runs import client, living_run
from tasks.store import EVALUATION, EXPLANATION, GALLERY, METRICS_FILE, PREDICTIONS
from tasks.values import ModelVersion

_CURVES = ("train_loss", "train_accuracy", "validation_accuracy", "lr")
_PREDICTIONS = ("label", "predicted", "confidence", "probabilities", "decided", "needs_review")


@dataclass(frozen=True)
class Training:
    """The version's MLflow run. `curves` are (epoch, value) by metric, `data` are (name, digest) of data sets."""

    run_id: str
    experiment_id: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    curves: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    data: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Parts:
    """The parts of a report.

    metrics, gallery  content of metrics.json and gallery.json
    pictures          image files of the gallery, by their names in gallery.json
    calibration       digest of calibration.json
    """

    name: str
    version: str
    aliases: Sequence[str]
    created: datetime
    description: str
    tags: Mapping[str, str]
    training: Training
    history: Sequence[Event] = ()
    metrics: Mapping[str, Any] = field(default_factory=dict)
    predictions: pd.DataFrame | None = None
    classes: Sequence[str] = ()
    gallery: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    calibration: str = ""
    server: str = ""


def read_parts(tracking_uri: str, model: ModelVersion) -> Parts:
    """Read everything that MLflow has of the version: tags, run, artifacts, history."""
    mlflow = client(tracking_uri)
    version = mlflow.get_model_version(model.name, model.version)
    registered = mlflow.get_registered_model(model.name)
    with progress("report", 4, unit="parts") as advance, tempfile.TemporaryDirectory() as made:
        run_id = living_run(tracking_uri, model.run_id, to_read=True)
        training = _read_training(mlflow, run_id)
        advance(1)
        folders = {file.path for file in mlflow.list_artifacts(run_id)} if run_id else set()

        def fetch(name: str) -> Path | None:
            """Download an artifact folder; None if the run does not have it."""
            return Path(mlflow.download_artifacts(run_id, name, made)) if name in folders else None

        evaluation = fetch(EVALUATION)
        metrics = _read_json(evaluation, METRICS_FILE)
        predictions, classes = _read_predictions(evaluation)
        advance(1)
        explanation = fetch(EXPLANATION)
        gallery = _read_json(explanation, GALLERY)
        pictures = _read_pictures(explanation, gallery)
        advance(1)
        parts = Parts(
            name=model.name,
            version=model.version,
            aliases=sorted(alias for alias, to in registered.aliases.items() if str(to) == model.version),
            created=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC),
            description=version.description or "",
            tags={str(name): str(value) for name, value in version.tags.items()},
            training=training,
            history=events(tracking_uri, model.name),
            metrics=metrics,
            predictions=predictions,
            classes=metrics.get("confusion", {}).get("classes") or classes,
            gallery=gallery,
            pictures=pictures,
            calibration=_digest_in(evaluation),
            server=tracking_uri if tracking_uri.startswith("http") else "",
        )
        advance(1)
    return parts


def _read_training(mlflow: MlflowClient, run_id: str) -> Training:
    if not run_id:
        return Training("")
    run = mlflow.get_run(run_id)
    curves = {
        name: [(metric.step, metric.value) for metric in mlflow.get_metric_history(run_id, name)]
        for name in _CURVES
        if name in run.data.metrics
    }
    data = [(entry.dataset.name, entry.dataset.digest) for entry in (run.inputs.dataset_inputs if run.inputs else [])]
    return Training(run_id, run.info.experiment_id, run.data.params, run.data.tags, curves, data)


def _read_json(folder: Path | None, name: str) -> dict[str, Any]:
    path = folder / name if folder else None
    return json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else {}


def _digest_in(folder: Path | None) -> str:
    path = folder / CALIBRATION if folder else None
    return file_digest(path) if path and path.exists() else ""


def _read_predictions(folder: Path | None) -> tuple[pd.DataFrame | None, list[str]]:
    """Return the held-out predictions, and the classes in the order of their probabilities."""
    path = folder / PREDICTIONS if folder else None
    if path is None or not path.exists():
        return None, []
    schema = pq.read_schema(path)
    about = json.loads((schema.metadata or {}).get(METADATA_KEY, b"{}"))
    columns = [name for name in _PREDICTIONS if name in schema.names]
    return pq.read_table(path, columns=columns).to_pandas(), list(about.get("classes", []))


def _read_pictures(folder: Path | None, gallery: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the existing files that gallery.json names, by name. Names that point out of the folder are ignored."""
    if folder is None:
        return {}
    names = set()
    for item in gallery.get("items", []):
        names |= {item.get("image"), item.get("heat")}
        names |= {neighbour.get("image") for neighbour in item.get("neighbours", [])}
    for pair in gallery.get("look_alikes", []):
        names |= {pair.get("image"), pair.get("train", {}).get("image")}
    root, pictures = folder.resolve(), {}
    for name in sorted(name for name in names if name):
        path = (root / name).resolve()
        if path.is_relative_to(root) and path.is_file():
            pictures[name] = path.read_bytes()
    return pictures
