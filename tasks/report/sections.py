"""Sections of a version's report: a finding in a sentence, and its numbers. None if the version lacks the data."""

import json
import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from resnet_core.errors import plural
from resnet_core.evaluation.metrics import GATE_METRICS, METRICS
from resnet_core.evaluation.slices import in_words
from resnet_core.plotting import plots
from resnet_core.plotting.svg import Scale, inline_svg, interval_mark
from tasks.evaluation.page import too_few
from tasks.registry.versions import CALIBRATION, GATE, GATE_CHECKS
from tasks.report.parts import Parts
from tasks.report.words import between, listed, lowest, number, percent, title, value_of

Section = dict[str, Any]

_CELLS = 40  # classes up to which a confusion matrix can be read


def cell(
    name: str, ends: Mapping[str, float | None] | None, scale: Scale | None, reference: float | None = None
) -> Section:
    """Return a metric as text, its interval as text, and both drawn on `scale`."""
    ends = ends or {}
    numbers = (ends.get(key) for key in ("value", "low", "high"))
    value, low, high = (math.nan if number is None else number for number in numbers)
    mark = interval_mark(value, low, high, scale, reference) if scale and not math.isnan(value) else ""
    return {"value": number(name, value), "between": between(name, ends), "mark": mark}


def metrics(parts: Parts) -> Section | None:
    """Return the held-out metrics, overall and by class."""
    if not parts.metrics:
        return None
    measured = parts.metrics["metrics"]
    ranked = [name for name in GATE_METRICS if name in measured]
    scale = Scale(lowest(*(measured[name] for name in ranked)), 1.0)
    rows = [{"name": title(name), "about": METRICS[name].about, **cell(name, measured[name], scale)} for name in ranked]
    images, groups = parts.metrics["images"], parts.metrics.get("groups")
    drawn = f"{plural(groups, 'group')} of images" if groups else plural(images, "image")
    few = too_few(groups)
    own = parts.tags.get(CALIBRATION, "none")
    again = " They are newer than this version: its training was measured again, with another calibration."
    return {
        "lead": f"Measured on {plural(images, 'image')} that training has never seen.{_unlike(parts)}",
        "note": (f"{few}." if few else f"Intervals hold 95% of 1,000 bootstrap samples, drawn over {drawn}.")
        + again * (own not in ("none", parts.calibration)),
        "rows": rows,
        "scale": (percent(scale.low, 0), "100%"),
        **_by_class(parts),
    }


def _unlike(parts: Parts) -> str:
    """Return the accuracy of the images that look like no training image, as a sentence. Empty if that is not known."""
    alike, strict = parts.metrics.get("look_alikes"), parts.metrics.get("without_look_alikes")
    if not alike:
        return ""
    if not strict:
        return " Each of them looks like a training image."
    accuracy = percent(value_of(strict["metrics"]["accuracy"]))
    return f" {accuracy} of the {strict['images']:,} that look like no training image are right."


def _by_class(parts: Parts) -> Section:
    by_class = parts.metrics.get("classes") or {}
    wanted = (parts.metrics.get("decisions") or {}).get("recall") or {}
    scale = Scale(lowest(*(values["recall"] for values in by_class.values())), 1.0)
    rows = [
        {
            "name": name,
            "images": values["support"],
            "recall": cell("recall", values["recall"], scale),
            "missed": _missed((wanted.get(name) or {}).get("wanted"), values["recall"]),
            "precision": cell("precision", values["precision"], None),
            "f1": cell("f1", values["f1"], None),
        }
        for name, values in by_class.items()
    ]
    return {"classes": rows, "class_scale": (percent(scale.low, 0), "100%")}


def _missed(wanted: float | None, found: Mapping[str, float | None]) -> bool:
    """Return whether the held-out images show that less than the wanted share was reached."""
    high = found.get("high")
    return wanted is not None and high is not None and high < wanted


def baseline(parts: Parts) -> float | None:
    """Return the accuracy of always saying the largest class."""
    supports = [values["support"] for values in (parts.metrics.get("classes") or {}).values()]
    return max(supports) / sum(supports) if sum(supports) else None


def confusion(parts: Parts) -> Section | None:
    """Return the confusion matrix and the most frequent mistakes."""
    matrix = parts.metrics.get("confusion")
    if not matrix:
        return None
    classes, counts = matrix["classes"], np.array(matrix["counts"], dtype=np.int64)
    totals = np.maximum(counts.sum(1, keepdims=True), 1)
    shares = counts / totals
    wrong = [(int(counts[i, j]), i, j) for i, j in np.argwhere(counts > 0) if i != j]
    worst = sorted(wrong, key=lambda cell: (-cell[0], cell[1:]))[:5]
    mistakes = [
        {"true": classes[i], "predicted": classes[j], "images": count, "share": percent(float(shares[i, j]))}
        for count, i, j in worst
    ]
    lead = "No held-out image is wrong."
    if mistakes:
        first = mistakes[0]
        lead = (
            f"The most frequent mistake: {first['true']} taken for {first['predicted']}, "
            f"{plural(first['images'], 'image')}, {first['share']} of all {first['true']}."
        )
    cells = [list(zip(counts[i].tolist(), shares[i].round(3).tolist(), strict=True)) for i in range(len(classes))]
    return {
        "lead": lead,
        "classes": classes,
        "rows": cells if len(classes) <= _CELLS else [],
        "mistakes": mistakes if len(classes) > 2 else [],
    }


def review(parts: Parts) -> Section | None:
    """Return coverage of the prediction sets, known images called unknown, and results of decisions by cost."""
    coverage, decisions, unknown = (parts.metrics.get(name) or {} for name in ("coverage", "decisions", "unknown"))
    if not (coverage.get("wanted") or decisions or unknown):
        return None
    facts, lead = [], "Decisions weigh mistakes by what they cost."
    if coverage.get("wanted") or unknown:
        # Metrics of earlier releases have the share of sets alone.
        share = parts.metrics.get("needs_review", coverage.get("review_share"))
        reasons = ("not exactly one class in the set" * bool(coverage), "unknown" * bool(unknown))
        lead = f"{percent(share)} of images go to a person." if share else "No image goes to a person."
        facts.append(("Sent to a person", percent(share), ", or ".join(filter(None, reasons)), False))
    if coverage.get("wanted"):
        reached, wanted = coverage["found"], percent(coverage["wanted"], 0)
        held = percent(reached["value"])
        lead += f" {held} of the sets hold the true class; {wanted} should."
        facts += [
            ("Sets that hold the true class", held, between("coverage", reached), _missed(coverage["wanted"], reached)),
            ("Classes in a set, on average", f"{coverage['mean_size']:.2f}", "", False),
        ]
    if unknown:
        reached, most = unknown["found"], f", at most {percent(unknown['wanted'], 0)} wanted"
        over = reached["low"] > unknown["wanted"]
        facts.append(("Called unknown", percent(reached["value"]), between("unknown", reached) + most, over))
    return {"lead": lead, "facts": facts + _decided(decisions), "chart": _coverage_chart(parts)}


def _decided(decisions: Mapping[str, Any]) -> list[tuple[str, str, str, bool]]:
    """Return (name, value, interval, missed) of decisions by cost or by a required recall."""
    facts = []
    for key, name in {"cost": "Cost per image", "default_cost": "Cost of the most probable class"}.items():
        if decisions.get(key):
            facts.append((name, number(key, decisions[key]["value"]), between(key, decisions[key]), False))
    for name, recall in (decisions.get("recall") or {}).items():
        wanted = f", at least {percent(recall['wanted'], 0)} wanted" if recall.get("wanted") is not None else ""
        missed = _missed(recall.get("wanted"), recall)
        facts.append((f"Recall of {name}", percent(recall["value"]), between("recall", recall) + wanted, missed))
    return facts


def _coverage_chart(parts: Parts) -> str:
    """Draw coverage found against coverage wanted."""
    curve = parts.metrics.get("coverage_curve") or []
    points = [(point["wanted"], point["found"]) for point in curve if point["found"] is not None]
    if len(points) < 2:
        return ""
    return inline_svg("Coverage found against coverage asked for", lambda figure: plots.coverage(figure, points))


def slices(parts: Parts) -> Section | None:
    """Return accuracy by slice, and the slices that are significantly worse."""
    measured: Sequence[Mapping[str, Any]] = parts.metrics.get("slices") or []
    if not measured:
        return None
    worse = [f"{row['column']} {row['value']}" for row in measured if row["worse"]]
    overall = value_of(parts.metrics["metrics"]["accuracy"])
    scale = Scale(lowest(*(row["accuracy"] for row in measured)), 1.0)
    groups = [
        {"column": title(column), "rows": [_slice_row(row, scale, overall) for row in rows]}
        for column, rows in groupby(measured, key=lambda row: row["column"])
    ]
    told = sum(row.get("told", True) for row in measured)
    return {
        "lead": in_words(worse, told, len(measured) - told),
        "worse": worse,
        "groups": groups,
        "scale": (percent(scale.low, 0), "100%"),
        "note": f"Accuracy of parts of the held-out images; the line is that of all, {percent(overall)}. "
        "A part is marked if chance hardly explains its gap (Holm's correction).",
    }


def _slice_row(row: Mapping[str, Any], scale: Scale, overall: float | None) -> Section:
    return {
        **row,
        "rest": percent(row.get("rest")),
        "p": ("" if row.get("told", True) else "cannot be told") if row.get("p") is None else f"{row['p']:.2g}",
        "accuracy": cell("accuracy", row["accuracy"], scale, overall),
    }


def sizes(parts: Parts) -> Section | None:
    """Return metrics by input size."""
    by_size: Sequence[Mapping[str, Any]] = parts.metrics.get("sizes") or []
    if len(by_size) < 2:
        return None
    kept = ("accuracy", "macro_f1", "roc_auc")
    flat = [{"side": row["side"], **{name: value_of(row.get(name)) for name in kept}} for row in by_size]
    points = [(float(row["side"]), row["accuracy"]) for row in flat]
    best = max(points, key=lambda point: point[1])
    chart = inline_svg(
        f"Accuracy by side in pixels, best at {best[0]:.0f}",
        lambda figure: plots.sizes(figure, {"accuracy": points}),
    )
    seen, images = by_size[0].get("images"), parts.metrics["images"]
    on = f" on {seen:,} of {plural(images, 'held-out image')}" if seen and seen < images else ""
    rows = [{"side": row["side"], "values": [number(name, row[name]) for name in kept]} for row in flat]
    return {
        "lead": f"Most accurate at {best[0]:.0f} pixels: {percent(best[1])}{on}.",
        "chart": chart,
        "columns": [title(name) for name in kept],
        "rows": rows,
    }


def gate(parts: Parts) -> Section | None:
    """Return the gate's checks from the version's tags."""
    decision = parts.tags.get(GATE, "")
    checks = json.loads(parts.tags.get(GATE_CHECKS, "[]"))
    if not checks and not decision:
        return None
    outcome, _, why = decision.partition(": ")
    failed = [check["name"] for check in checks if not check["passed"]]
    lead = f"All {plural(len(checks), 'check')} passed." if checks else f"{outcome.capitalize()}: {why}."
    if failed:
        lead = f"{len(failed)} of {plural(len(checks), 'check')} failed: {listed(failed)}."
    return {"lead": lead, "checks": checks, "passed": outcome == "passed"}
