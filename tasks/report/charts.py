"""Curves of a version's report: training, ROC and reliability."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from resnet_core.errors import plural
from resnet_core.evaluation.metrics import METRICS, OF_CALIBRATION, Labels, calibration_bins, roc_curves
from resnet_core.model.calibration import in_words
from resnet_core.plotting import plots
from resnet_core.plotting.svg import inline_svg
from tasks.report.parts import Parts
from tasks.report.sections import Section, cell
from tasks.report.words import listed, percent, value_of

_FITTED = {
    "validation": "Fitted on validation images, measured on held-out ones.",
    "held-out, crosswise": "Fitted on half of the held-out images and measured on the other half, both ways.",
}


class _Chart(NamedTuple):
    title: str
    chart: str  # an <svg> element
    caption: str


def curves(parts: Parts) -> Section | None:
    """Return the training curves by epoch and the ROC curve; None where the version has neither."""
    charts = [*_training(parts), *_roc(parts)]
    if not charts:
        return None
    loss = parts.training.curves.get("train_loss") or []
    trained = f"{plural(len(loss), 'epoch')} of training" if loss else "Training was not recorded"
    scores = ", and how well scores tell the classes apart" if charts[-1].title == "ROC curve" else ""
    return {"lead": f"{trained}{scores}.", "charts": [chart._asdict() for chart in charts]}


def _training(parts: Parts) -> list[_Chart]:
    recorded = parts.training.curves
    loss = recorded.get("train_loss") or []
    if len(loss) < 2:
        return []
    text = f"Training loss fell from {loss[0][1]:.3f} to {loss[-1][1]:.3f} in {plural(len(loss), 'epoch')}"
    charts = [_Chart("Training loss", inline_svg(text, lambda figure: plots.training_loss(figure, loss)), f"{text}.")]
    keys = {"training": "train_accuracy", "validation": "validation_accuracy"}
    accuracy = {name: recorded[key] for name, key in keys.items() if recorded.get(key)}
    if accuracy:
        last = listed([f"{name} {percent(points[-1][1])}" for name, points in accuracy.items()])
        chart = inline_svg(
            f"Accuracy by epoch; at the end {last}", lambda figure: plots.accuracy_by_epoch(figure, accuracy)
        )
        charts.append(_Chart("Accuracy by epoch", chart, f"At the end: {last}."))
    return charts


def _roc(parts: Parts) -> list[_Chart]:
    predictions, classes = _predictions(parts), list(parts.classes)
    by_class = roc_curves(*predictions, classes) if predictions and len(classes) > 1 else {}
    if not by_class:
        return []
    areas = {name: float(np.trapezoid(hits, alarms)) for name, (alarms, hits) in by_class.items()}
    hardest = min(areas, key=lambda name: areas[name])
    text, caption = f"ROC curve of {hardest}", f"Share of {hardest} that is found, against what is wrongly called so"
    if len(classes) > 2:
        text += f", the hardest of {plural(len(classes), 'class', 'classes')} to tell"
        caption = "A curve a class, the hardest in colour"
    chart = inline_svg(text, lambda figure: plots.roc(figure, by_class, hardest))
    return [_Chart("ROC curve", chart, f"{caption}; the dashed line is chance.")]


def _predictions(parts: Parts) -> tuple[Labels, NDArray[np.float32]] | None:
    """Return labels [N], places in the class names, and probabilities [N, C] of the held-out images."""
    table, classes = parts.predictions, list(parts.classes)
    if table is None or not classes or "probabilities" not in table:
        return None
    place = {name: k for k, name in enumerate(classes)}
    probabilities = np.stack(table["probabilities"].to_numpy()).astype(np.float32)
    return table["label"].map(place).to_numpy(dtype=np.int64), probabilities


def calibration(parts: Parts) -> Section | None:
    """Return the metrics that the temperature changes, before and after, and the reliability diagram."""
    if not parts.metrics:
        return None
    now, before = parts.metrics["metrics"], parts.metrics.get("uncalibrated") or {}
    about = parts.metrics.get("calibration") or {}
    temperature = about.get("temperature")
    error, raw = value_of(now.get("calibration_error")), value_of(before.get("calibration_error"))
    if error is None:
        return None
    lead = f"Confidence is off by {100 * error:.1f} points on average"
    if raw is not None and temperature is not None:
        was = f"; it was {100 * raw:.1f} before the temperature of {temperature:.2f}"
        lead += was if temperature != 1 else f"; {in_words(temperature, about.get('images', 0))}"
    rows = [
        {
            "name": METRICS[name].title,
            "about": METRICS[name].about,
            "before": cell(name, before.get(name), None) if before else None,
            "after": cell(name, now[name], None),
        }
        for name in OF_CALIBRATION
        if name in now
    ]
    return {
        "lead": lead + ".",
        "rows": rows,
        "before": bool(before),
        "chart": _reliability(parts, temperature),
        "fitted": _FITTED.get(str(about.get("fitted_on")), ""),
    }


def _reliability(parts: Parts, temperature: float | None) -> str:
    """Return the diagram of the predictions; probabilities before the temperature follow from those after it."""
    predictions = _predictions(parts)
    if predictions is None:
        return ""
    labels, after = predictions
    temperature = None if temperature == 1 else temperature
    bins = {"after" if temperature else "predictions": calibration_bins(labels, after)}
    if temperature:
        before = uncalibrated(after.astype(np.float64), temperature).astype(np.float32)
        bins = {"before": calibration_bins(labels, before), **bins}
    text = "Accuracy against confidence, and how many images have each confidence"
    return inline_svg(text, lambda figure: plots.reliability(figure, bins), height=278)


def uncalibrated(probabilities: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Return the network's own probabilities [N, C]. Those of temperature T, to the power T, with a sum of 1."""
    logs = temperature * np.log(np.maximum(probabilities, 1e-30))
    powers = np.exp(logs - logs.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
