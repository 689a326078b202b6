"""What a report is made of: everything that MLflow has of one version, read in one place.

Nothing is read from the store, so a report can be made wherever the tracking server can be reached. A part
that the version does not have (an older one, an encrypted data set's pictures) is None or empty.
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
from mlflow.entities.model_registry import ModelVersion as RegisteredVersion
from mlflow.tracking import MlflowClient

from resnet_core.model.calibration import CALIBRATION
from resnet_core.shards import format as shards
from resnet_core.storage.digest import file_digest
from tasks.progress import progress
from tasks.registry.champion import Event, events
from tasks.registry.runs import client
from tasks.store import GALLERY, METRICS_FILE, PREDICTIONS
from tasks.values import ModelVersion

_CURVES = ("train_loss", "train_accuracy", "validation_accuracy", "lr")
_PREDICTIONS = ("label", "predicted", "confidence", "probabilities", "decided", "needs_review")


@dataclass(frozen=True)
class Training:
    """What the version's MLflow run says; `curves` are (epoch, value) by metric, `data` a line a data set."""

    run_id: str
    experiment_id: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    curves: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    data: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Parts:
    """All of them. `metrics` is metrics.json, `gallery` gallery.json, `pictures` the bytes of the gallery's
    files by the name that gallery.json has for them, `calibration` the digest of calibration.json."""

    name: str
    version: str
    aliases: Sequence[str]
    created: datetime
    description: str
    tags: Mapping[str, str]
    training: Training
    history: Sequence[Event] = ()
    metrics: Mapping[str, Any] | None = None
    predictions: pd.DataFrame | None = None
    classes: Sequence[str] = ()
    gallery: Mapping[str, Any] | None = None
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    calibration: str = ""
    server: str = ""


def read_parts(tracking_uri: str, model: ModelVersion) -> Parts:
    """Everything that MLflow has of the version: tags, run, artifacts, history."""
    mlflow = client(tracking_uri)
    version = mlflow.get_model_version(model.name, model.version)
    registered = mlflow.get_registered_model(model.name)
    with progress("report", 4, unit="parts") as advance, tempfile.TemporaryDirectory() as made:
        training = _read_training(mlflow, model.run_id)
        advance(1)
        folders = {file.path for file in mlflow.list_artifacts(model.run_id)} if model.run_id else set()
        evaluation = fetch(mlflow, model.run_id, "evaluation", folders, Path(made))
        metrics = _read_json(evaluation, METRICS_FILE)
        predictions, classes = _read_predictions(evaluation)
        advance(1)
        explanation = fetch(mlflow, model.run_id, "explanation", folders, Path(made))
        gallery = _read_json(explanation, GALLERY)
        pictures = _read_pictures(explanation, gallery)
        advance(1)
        parts = Parts(
            name=model.name,
            version=model.version,
            aliases=sorted(alias for alias, to in registered.aliases.items() if str(to) == model.version),
            created=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC),
            description=version.description or "",
            tags=_tags_of(version),
            training=training,
            history=events(tracking_uri, model.name),
            metrics=metrics,
            predictions=predictions,
            classes=(metrics or {}).get("confusion", {}).get("classes") or classes,
            gallery=gallery,
            pictures=pictures,
            calibration=_digest_in(evaluation),
            server=tracking_uri if tracking_uri.startswith("http") else "",
        )
        advance(1)
    return parts


def _tags_of(version: RegisteredVersion) -> dict[str, str]:
    return {str(name): str(value) for name, value in version.tags.items()}


def _read_training(mlflow: MlflowClient, run_id: str) -> Training:
    if not run_id:
        return Training("")
    run = mlflow.get_run(run_id)
    curves = {
        name: [(metric.step, metric.value) for metric in mlflow.get_metric_history(run_id, name)]
        for name in _CURVES
        if name in run.data.metrics
    }
    data = [(found.dataset.name, found.dataset.digest) for found in (run.inputs.dataset_inputs if run.inputs else [])]
    return Training(run_id, run.info.experiment_id, run.data.params, run.data.tags, curves, data)


def fetch(mlflow: MlflowClient, run_id: str, name: str, there: set[str], to: Path) -> Path | None:
    """The artifact folder `name`, on this machine; None where the run has none."""
    return Path(mlflow.download_artifacts(run_id, name, str(to))) if name in there else None


def _read_json(folder: Path | None, name: str) -> dict[str, Any] | None:
    path = folder / name if folder else None
    return json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else None


def _digest_in(folder: Path | None) -> str:
    path = folder / CALIBRATION if folder else None
    return file_digest(path) if path and path.exists() else ""


def _read_predictions(folder: Path | None) -> tuple[pd.DataFrame | None, list[str]]:
    """Held-out predictions, and the classes in the order of their probabilities."""
    path = folder / PREDICTIONS if folder else None
    if path is None or not path.exists():
        return None, []
    schema = pq.read_schema(path)
    about = json.loads((schema.metadata or {}).get(shards.METADATA_KEY, b"{}"))
    columns = [name for name in _PREDICTIONS if name in schema.names]
    return pq.read_table(path, columns=columns).to_pandas(), list(about.get("classes", []))


def _read_pictures(folder: Path | None, gallery: Mapping[str, Any] | None) -> dict[str, bytes]:
    """The files that gallery.json names and that are there, by that name. A name that points out of the
    folder is not followed."""
    if folder is None or gallery is None:
        return {}
    names = set()
    for item in gallery.get("items", []):
        names |= {item.get("image"), item.get("heat")}
        names |= {neighbour.get("image") for neighbour in item.get("neighbours", [])}
    root, found = folder.resolve(), {}
    for name in sorted(name for name in names if name):
        path = (root / name).resolve()
        if path.is_relative_to(root) and path.is_file():
            found[name] = path.read_bytes()
    return found
