"""A report's curves: training, ROC, and how far a confidence can be taken at its word."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_core.evaluation.metrics import CALIBRATION_BINS, calibration_bins
from resnet_core.plotting.svg import Axis, Series, line_chart, reliability_chart, roc_points
from tasks.report.parts import Parts
from tasks.report.sections import Section, cell
from tasks.report.words import NAMES, counted, listed, percent, title, value_of

_SPREAD = ("calibration_error", "nll", "brier")
_FITTED = {
    "validation": "Fitted on validation images, measured on held-out ones.",
    "held-out, crosswise": "Fitted on half of the held-out images and measured on the other half, both ways.",
}


def curves(parts: Parts) -> Section | None:
    """Training curves by epoch, and the ROC curve."""
    found, charts = parts.training.curves, []
    loss = found.get("train_loss") or []
    if len(loss) > 1:
        x = Axis(loss[0][0], loss[-1][0], "epoch")
        top = max(value for _, value in loss)
        said = f"Training loss fell from {loss[0][1]:.3f} to {loss[-1][1]:.3f} in {len(loss)} epochs"
        charts.append(("Training loss", line_chart(said, [Series("", loss)], x, Axis(0, top)), said + "."))
        lines = [
            Series(name, found[key], style)
            for key, name, style in (
                ("train_accuracy", "training", "second"),
                ("validation_accuracy", "validation", "first"),
            )
            if found.get(key)
        ]
        if lines:
            lines[-1] = replace(lines[-1], style="first")
            low = min(value for one in lines for _, value in one.points)
            last = listed([f"{one.name} {percent(one.points[-1][1])}" for one in lines])
            chart = line_chart(
                f"Accuracy by epoch; at the end {last}", lines, x, Axis(max(0.0, low - 0.02), 1, percent=True)
            )
            charts.append(("Accuracy by epoch", chart, f"At the end: {last}."))
    curve = roc(parts)
    charts += [curve] if curve else []
    if not charts:
        return None
    trained = f"{counted(len(loss), 'epoch')} of training" if loss else "Training was not recorded"
    shown = [{"title": name, "chart": chart, "caption": caption} for name, chart, caption in charts]
    return {"lead": f"{trained}{', and how well scores tell the classes apart' if curve else ''}.", "charts": shown}


def roc(parts: Parts) -> tuple[str, str, str] | None:
    found, classes = parts.predictions, list(parts.classes)
    if found is None or len(classes) < 2 or "probabilities" not in found:
        return None
    scores = np.stack(found["probabilities"].to_numpy())
    places = [1] if len(classes) == 2 else range(len(classes))
    points = {classes[k]: roc_points((found["label"] == classes[k]).to_numpy(), scores[:, k]) for k in places}
    areas = {name: float(np.trapezoid([y for _, y in one], [x for x, _ in one])) for name, one in points.items()}
    hardest = min(areas, key=lambda name: areas[name])
    lines = [Series("", one, "faint") for name, one in points.items() if name != hardest]
    lines.append(Series(hardest, points[hardest]))
    rate = Axis(0, 1, "wrongly called so", percent=True)
    said = f"ROC curve of {hardest}" + (f", the hardest of {len(classes)} classes to tell" if len(classes) > 2 else "")
    chart = line_chart(said, lines, rate, Axis(0, 1, percent=True), diagonal=True)
    what = (
        "A curve a class, the hardest in colour"
        if len(classes) > 2
        else f"Share of {hardest} that is found, against what is wrongly called so"
    )
    return "ROC curve", chart, f"{what}; the dashed line is chance."


def calibration(parts: Parts) -> Section | None:
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
        lead += f"; it was {100 * raw:.1f} before the temperature of {temperature:.2f}"
    rows = [
        {"name": title(name), "about": NAMES[name][1], "before": cell(name, before.get(name), None) if before else None,
         "after": cell(name, now[name], None)}
        for name in _SPREAD
        if name in now
    ]  # fmt: skip
    return {
        "lead": lead + ".",
        "rows": rows,
        "before": bool(before),
        "chart": reliability(parts, temperature),
        "fitted": _FITTED.get(str(about.get("fitted_on")), ""),
    }


def reliability(parts: Parts, temperature: float | None) -> str:
    """The diagram, from the predictions; those before the temperature follow from those after it."""
    found, classes = parts.predictions, list(parts.classes)
    if found is None or not classes or "probabilities" not in found:
        return ""
    place = {name: k for k, name in enumerate(classes)}
    labels = found["label"].map(place).to_numpy(dtype=np.int64)
    after = np.stack(found["probabilities"].to_numpy()).astype(np.float64)
    lines, drawn = [], [("after" if temperature else "predictions", "first", after)]
    if temperature:
        drawn.insert(0, ("before", "second", uncalibrated(after, temperature)))
    counts: Any = np.zeros(CALIBRATION_BINS)
    for name, style, probabilities in drawn:
        counts, right, confident = calibration_bins(labels, probabilities.astype(np.float32))
        used = counts > 0
        points = list(
            zip((confident[used] / counts[used]).tolist(), (right[used] / counts[used]).tolist(), strict=True)
        )
        lines.append(Series(name, points, style, dots=True, weights=counts[used].tolist()))
    return reliability_chart("Accuracy against confidence, and how many images have each confidence", lines, counts)


def uncalibrated(probabilities: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """[N, C] as the network gave them, from those that the temperature T gave: p ** T, to a sum of 1."""
    logs = temperature * np.log(np.maximum(probabilities, 1e-30))
    powers = np.exp(logs - logs.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
