"""The files of an evaluation: metrics.json, calibration.json, tables as Parquet, pictures."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from resnet_core.evaluation.assess import Assessment, Decisions, HeldOut
from resnet_core.evaluation.input_sizes import MEASURED, AtSize
from resnet_core.evaluation.metrics import calibration_bins, roc_curves
from resnet_core.evaluation.slices import Slice
from resnet_core.plotting import plots
from resnet_core.plotting.plots import png
from resnet_core.shards import format as shards
from resnet_core.training.loop import Epoch
from tasks.store import EPOCHS, METRICS_FILE, PREDICTIONS, SLICES


def described(
    found: Assessment, sizes: Sequence[AtSize], classes: Sequence[str], key: Mapping[str, str]
) -> dict[str, Any]:
    """Return the content of metrics.json. key: the digests that name the work."""
    metrics = found.metrics
    text = {
        **key,
        "images": metrics.count,
        "groups": found.evidence.groups,
        "metrics": {name: asdict(interval) for name, interval in metrics.overall.items()},
        "uncalibrated": {name: asdict(interval) for name, interval in found.uncalibrated.items()},
        "classes": {name: asdict(values) for name, values in metrics.per_class.items()},
        "confusion": {"classes": list(classes), "counts": metrics.confusion.tolist()},
        "calibration": found.calibration.described(),
        "coverage": asdict(found.coverage) if found.coverage else None,
        "unknown": found.flagged and {"wanted": found.flagged.wanted, "found": asdict(found.flagged.found)},
        "needs_review": None if found.needs_review is None else float(found.needs_review.mean()),
        "coverage_curve": [dict(zip(("wanted", "found", "mean_size"), point, strict=True)) for point in found.curve],
        "decisions": decisions(found.decisions) if found.decisions else None,
        "missed": found.missed,
        "slices": [asdict(each) | {"told": each.told} for each in found.slices],
        "sizes": [asdict(size) for size in sizes],
        "evidence": asdict(found.evidence),
        "look_alikes": found.look_alikes,
        "without_look_alikes": asdict(found.unlike) if found.unlike else None,
    }
    no_nan: dict[str, Any] = _no_nan(text)
    return no_nan


def decisions(found: Decisions) -> dict[str, Any]:
    return {
        "cost": asdict(found.cost) if found.cost else None,
        "default_cost": asdict(found.default_cost) if found.default_cost else None,
        "accuracy": asdict(found.accuracy),
        "thresholds": found.thresholds,
        "recall": {name: asdict(each.recall) | {"wanted": each.wanted} for name, each in found.classes.items()},
        "precision": {name: asdict(each.precision) for name, each in found.classes.items()},
    }


def _no_nan(value: Any) -> Any:
    """Replace NaN by null: JSON has no NaN."""
    if isinstance(value, dict):
        return {name: _no_nan(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_no_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write_metrics(folder: Path, content: dict[str, Any]) -> None:
    (folder / METRICS_FILE).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_predictions(folder: Path, rows: pa.Table, images: HeldOut, found: Assessment, classes: Sequence[str]) -> None:
    """Write a row per image, with the decision of scoring. rows: the images in the catalog, in the same order."""
    names, judged, labels = np.array(classes, dtype=object), found.outputs, images.labels
    shares, sets, review = judged.probabilities, judged.sets, found.needs_review
    table = {
        "image_id": rows["image_id"].cast(pa.string()),
        "uri": rows["uri"].cast(pa.string()),
        "label": pa.array(names[labels], pa.string()),
        "predicted": pa.array(names[shares.argmax(1)], pa.string()),
        "confidence": pa.array(shares[np.arange(len(labels)), judged.decided], pa.float32()),
        "probabilities": pa.array(list(shares), pa.list_(pa.float32())),
        "decided": pa.array(names[judged.decided], pa.string()),
        "prediction_set": pa.array(
            [None] * len(labels) if sets is None else [names[row].tolist() for row in sets], pa.list_(pa.string())
        ),
        "needs_review": pa.array([None] * len(labels) if review is None else review, pa.bool_()),
        "novelty": pa.array([None] * len(labels) if found.flagged is None else found.flagged.novelty, pa.float32()),
        "unknown": pa.array([None] * len(labels) if found.flagged is None else found.flagged.unknown, pa.bool_()),
        "look_alike": pa.array([None] * len(labels) if images.look_alike is None else images.look_alike, pa.bool_()),
    }
    metadata = {shards.METADATA_KEY: json.dumps({"classes": list(classes)})}
    pq.write_table(pa.table(table).replace_schema_metadata(metadata), folder / PREDICTIONS)


def write_slices(folder: Path, slices: Sequence[Slice]) -> None:
    numbers = ((name, pa.float64()) for name in ("accuracy", "low", "high", "rest", "p"))
    schema = pa.schema(
        [("column", pa.string()), ("value", pa.string()), ("images", pa.int64()), *numbers, ("worse", pa.bool_())]
    )
    rows = [
        {
            "column": each.column,
            "value": each.value,
            "images": each.images,
            "accuracy": each.accuracy.value,
            "low": each.accuracy.low,
            "high": each.accuracy.high,
            "rest": each.rest,
            "p": each.p,
            "worse": each.worse,
        }
        for each in slices
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / SLICES)


def write_plots(
    draft: Path, run: UPath, found: Assessment, sizes: Sequence[AtSize], images: HeldOut, classes: Sequence[str]
) -> None:
    epochs = [Epoch(**values) for values in json.loads((run / EPOCHS).read_text())["epochs"]]
    accuracy = {"training": [(epoch.epoch, epoch.accuracy) for epoch in epochs]}
    if epochs[0].validation_accuracy is not None:
        accuracy["validation"] = [(epoch.epoch, epoch.validation_accuracy or 0.0) for epoch in epochs]
    curves = roc_curves(images.labels, found.outputs.probabilities, classes)
    bins = {
        "before": calibration_bins(images.labels, images.raw),
        "after": calibration_bins(images.labels, found.unseen.probabilities),
    }
    pictures = {
        "training_curves": png(
            lambda figure: plots.training_loss(figure, [(epoch.epoch, epoch.loss) for epoch in epochs]),
            lambda figure: plots.accuracy_by_epoch(figure, accuracy),
        ),
        "confusion_matrix": png(lambda figure: plots.confusion(figure, found.metrics.confusion, classes)),
        "roc_curve": png(lambda figure: plots.roc(figure, curves)),
        "reliability": png(lambda figure: plots.reliability(figure, bins)),
        "coverage": png(
            lambda figure: plots.coverage(figure, [(wanted, share) for wanted, share, _ in found.curve]),
            lambda figure: plots.set_sizes(figure, [(wanted, size) for wanted, _, size in found.curve]),
        ),
    }
    if found.slices:
        overall = found.metrics.overall["accuracy"].value
        pictures["slices"] = png(lambda figure: plots.slices(figure, found.slices, overall))
    if sizes:
        by_size = {name: [(size.side, getattr(size, name)) for size in sizes] for name in MEASURED}
        pictures["sizes"] = png(lambda figure: plots.sizes(figure, by_size))
    for name, content in pictures.items():
        (draft / f"{name}.png").write_bytes(content)
