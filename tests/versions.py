"""A registered version of the digits, with everything that a report shows. Predictions and pictures are real, in a real
MLflow database.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from mlflow.tracking import MlflowClient
from PIL import Image
from upath import UPath

from resnet_core.evaluation.metrics import Interval, measure
from resnet_core.shards import format as shards
from resnet_core.training.loop import Epoch
from tasks.registry import runs as tracking
from tasks.registry.champion import record
from tasks.registry.versions import (
    CATALOG,
    CHAMPION,
    CHECKPOINT,
    COMMIT,
    FILES,
    GATE,
    GATE_CHECKS,
    LOCK,
    REASON,
    SHARDS,
    SINCE,
)
from tasks.values import ModelVersion

Digits = tuple[np.ndarray, list[str]]
TEMPERATURE = 0.7
CARD = "# digits\n\n## Gate\n\nPromoted.\n\n## Intended use\n\nReading *digits*.\n\n## Limits\n\nNo letters.\n"
CHECKS = (
    {"name": "floor", "wanted": "accuracy at least 0.900", "found": "0.950 (0.930 to 0.970)", "passed": True},
    {"name": "slices", "wanted": "none worse", "found": "side left: -0.020", "passed": False},
)


def predicted(digits: Digits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """uint8 [N, 8, 8], labels [N] and float32 [N, 10]: what a linear model says of the last 600 digits."""
    from sklearn.linear_model import LogisticRegression

    images, labels = digits[0], np.array(digits[1]).astype(int)
    model = LogisticRegression(C=1e-6, max_iter=200).fit(images[:1000].reshape(1000, -1), labels[:1000])
    return images[-600:], labels[-600:], model.predict_proba(images[-600:].reshape(600, -1)).astype(np.float32)


def write_evaluation(folder: Path, digits: Digits, classes: Sequence[str]) -> None:
    """metrics.json and predictions.parquet, as the stage writes them."""
    _, labels, raw = predicted(digits)
    powers = raw.astype(np.float64) ** (1 / TEMPERATURE)
    shares = (powers / powers.sum(1, keepdims=True)).astype(np.float32)
    after, before = measure(labels, shares, classes), measure(labels, raw, classes)
    sure = {"value": 0.96, "low": 0.94, "high": 0.97}
    content = {
        "images": len(labels),
        "groups": None,
        "metrics": {name: asdict(ends) for name, ends in after.overall.items()},
        "uncalibrated": {
            name: asdict(before.overall[name])
            for name in ("calibration_error", "nll", "brier")
            if name in before.overall
        },
        "classes": {name: asdict(values) for name, values in after.per_class.items()},
        "confusion": {"classes": list(classes), "counts": after.confusion.tolist()},
        "calibration": {"temperature": TEMPERATURE, "fitted_on": "held-out, crosswise", "images": len(labels)},
        "coverage": {"wanted": 0.95, "found": sure, "mean_size": 1.2, "review_share": 0.15},
        "unknown": {"wanted": 0.05, "found": {"value": 0.04, "low": 0.03, "high": 0.06}},
        "needs_review": 0.18,
        "coverage_curve": [{"wanted": w, "found": w + 0.005, "mean_size": 1.0} for w in (0.8, 0.9, 0.95, 0.99)],
        "decisions": {
            "cost": sure,
            "default_cost": sure,
            "accuracy": sure,
            "recall": {classes[0]: sure | {"wanted": 0.95}},
        },
        "slices": [
            {"column": "side", "value": value, "images": 300, "accuracy": sure, "rest": 0.97, "worse": worse, "p": 0.01}
            for value, worse in (("left", True), ("right", False))
        ],
        "sizes": [{"side": s, "accuracy": a, "macro_f1": a, "roc_auc": a} for s, a in ((4, 0.6), (8, 0.95), (16, 0.9))],
    }
    (folder / "metrics.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "calibration.json").write_text(json.dumps(content["calibration"]), encoding="utf-8")
    names = np.array(classes, dtype=object)
    table = {
        "label": pa.array(names[labels], pa.string()),
        "predicted": pa.array(names[shares.argmax(1)], pa.string()),
        "confidence": pa.array(shares.max(1), pa.float32()),
        "probabilities": pa.array(list(shares), pa.list_(pa.float32())),
    }
    metadata = {shards.METADATA_KEY: json.dumps({"classes": list(classes)})}
    pq.write_table(pa.table(table).replace_schema_metadata(metadata), folder / "predictions.parquet")


def write_explanation(folder: Path, digits: Digits, classes: Sequence[str]) -> None:
    """gallery.json and its pictures, as the stage writes them."""
    images, labels, shares = predicted(digits)
    guesses = shares.argmax(1)
    (folder / "images").mkdir()

    def picture(place: int, suffix: str = "") -> str:
        name = f"images/{place:04}{suffix}.webp"
        Image.fromarray(images[place]).save(folder / name, lossless=True)
        return name

    def item(kind: str, place: int, near: Sequence[int] = ()) -> dict[str, Any]:
        return {
            "kind": kind,
            "image_id": f"{place:064}",
            "uri": f"/data/raw & more/{place:04}.png",
            "label": classes[labels[place]],
            "predicted": classes[guesses[place]],
            "confidence": float(shares[place].max()),
            "image": picture(place),
            "heat": picture(place, "-cam"),
            "neighbours": [
                {"image_id": "", "uri": f"s3://bucket/{k}.png", "label": classes[labels[k]], "similarity": 0.9,
                 "image": picture(k)}
                for k in near
            ],
        }  # fmt: skip

    wrong = np.flatnonzero(guesses != labels)[:3]
    items = [item("confident error", int(k), range(5)) for k in wrong]
    items += [item("most uncertain", int(k)) for k in np.argsort(shares.max(1))[:3]]
    items += [item("sample", int(k)) for name in range(10) for k in np.flatnonzero(labels == name)[:2]]
    pair = {
        "image_id": "", "uri": "/held/<out>.png", "label": classes[0], "residual": 0.013, "image": picture(0),
        "train": {"image_id": "", "uri": "/trained & on.png", "image": picture(10)},
    }  # fmt: skip
    gallery = {"layer": "layer4", "items": items, "look_alikes": [pair]}
    (folder / "gallery.json").write_text(json.dumps(gallery), encoding="utf-8")


def register_version(tracking_uri: str, name: str = "digits") -> tuple[ModelVersion, MlflowClient]:
    """A version without anything but its run."""
    mlflow = tracking.client(tracking_uri)
    folder = UPath(tracking_uri.removeprefix("sqlite:///")).parent
    experiment_id = tracking.experiment_id(mlflow, folder, name)
    run_id = mlflow.create_run(experiment_id).info.run_id
    if name not in [model.name for model in mlflow.search_registered_models()]:
        mlflow.create_registered_model(name)
    made = mlflow.create_model_version(name, f"runs:/{run_id}/model", run_id)
    return ModelVersion(name, str(made.version), run_id), mlflow


def complete_version(
    tracking_uri: str, digits: Digits, to: Path, classes: Sequence[str] = tuple("0123456789"), name: str = "digits"
) -> ModelVersion:
    """A champion with every part of a report. `to`: an empty folder for its artifacts."""
    version, mlflow = register_version(tracking_uri, name)
    for part, write in (("evaluation", write_evaluation), ("explanation", write_explanation)):
        folder = to / part
        folder.mkdir(parents=True)
        write(folder, digits, classes)
        mlflow.log_artifacts(version.run_id, str(folder), part)
    tracking.log_epochs(
        tracking_uri, version.run_id,
        [Epoch(k, 2 / k, 1 - 0.5 / k, 0.03, 900.0, 1 - 0.6 / k) for k in range(1, 9)],
    )  # fmt: skip
    tracking.log_params(tracking_uri, version.run_id, {"model": {"arch": "resnet10"}, "train": {"epochs": 8}})
    tags = {
        CATALOG: "c" * 16, SHARDS: "5" * 16, CHECKPOINT: "7" * 16, COMMIT: "8" * 40, LOCK: "a" * 64, FILES: "f" * 64,
        GATE: "refused: slices: side left: -0.020", GATE_CHECKS: json.dumps(CHECKS),
        SINCE: "2026-11-24T02:14:05+00:00", REASON: "promoted by hand, by <b>Ann</b> & Bob",
    }  # fmt: skip
    for key, value in tags.items():
        mlflow.set_model_version_tag(name, version.version, key, value)
    mlflow.set_registered_model_alias(name, CHAMPION, version.version)
    mlflow.update_model_version(name, version.version, CARD)
    record(tracking_uri, name, "promoted", None, version.version, "the first of all")
    return version


def log_tested(mlflow: MlflowClient, version: ModelVersion, metrics: dict[str, Interval]) -> None:
    """What the evaluation logs of a version's held-out metrics."""
    for name, ends in metrics.items():
        mlflow.log_metric(version.run_id, f"test_{name}", ends.value)
