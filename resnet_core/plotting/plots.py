"""Figures of a training and of its evaluation, from plain arrays; no display is needed."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from resnet_core.evaluation.input_sizes import AtSize
from resnet_core.evaluation.metrics import CALIBRATION_BINS, Labels, Metrics, Probabilities, calibration_bins
from resnet_core.evaluation.slices import Slice
from resnet_core.plotting.canvas import drawable
from resnet_core.training.loop import Epoch

INK, ACCENT, PALE = "#1f2937", "#2563eb", "#d1d5db"
_SOFT, WORSE = "#6b7280", "#b91c1c"
_MOST_SLICES = 40
LONGEST = 48  # characters of a name


def plain(text: str) -> str:
    """A name as it is: neither a formula, nor too long, nor of characters that the font lacks."""
    shown = drawable(text).replace("$", r"\$")
    return shown if len(shown) <= LONGEST else shown[: LONGEST - 1] + "…"


def training_curves(epochs: Sequence[Epoch]) -> Figure:
    """Loss and accuracy by epoch."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    numbers = [epoch.epoch for epoch in epochs]
    left.plot(numbers, [epoch.loss for epoch in epochs], color=ACCENT)
    left.set(xlabel="epoch", ylabel="training loss")
    right.plot(numbers, [epoch.accuracy for epoch in epochs], color=ACCENT, label="training")
    if epochs[0].validation_accuracy is not None:
        right.plot(numbers, [epoch.validation_accuracy for epoch in epochs], color=INK, label="validation")
        right.legend(frameon=False)
    right.set(xlabel="epoch", ylabel="accuracy")
    return figure


def confusion(metrics: Metrics, classes: Sequence[str]) -> Figure:
    """Counts of true against predicted classes, shaded by the share of the true class."""
    counts = metrics.confusion
    side = max(3.6, 0.45 * len(classes) + 2)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true")
    names = [plain(name) for name in classes]
    axes.set_xticks(range(len(classes)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(classes)), names)
    if len(classes) <= 30:
        for row, column in np.ndindex(counts.shape):
            colour = "white" if shares[row, column] > 0.6 else INK
            axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=colour)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    return figure


def roc(labels: Labels, probabilities: Probabilities, classes: Sequence[str]) -> Figure:
    """The true positive rate against the false positive rate, a curve a class."""
    figure = Figure(figsize=(4.4, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=PALE, linewidth=1)
    shown = [1] if len(classes) == 2 else range(len(classes))
    for k in shown:
        positive = labels == k
        order = np.argsort(-probabilities[:, k], kind="stable")
        hits = np.concatenate([[0], np.cumsum(positive[order])]) / max(positive.sum(), 1)
        alarms = np.concatenate([[0], np.cumsum(~positive[order])]) / max((~positive).sum(), 1)
        axes.plot(alarms, hits, label=plain(classes[k]))
    axes.set(xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
    if len(classes) <= 12:
        axes.legend(frameon=False, loc="lower right")
    return figure


def reliability(labels: Labels, before: Probabilities, after: Probabilities) -> Figure:
    """How often the model is right at each confidence, before and after calibration: on the diagonal, it means
    what it says."""
    figure = Figure(figsize=(4.4, 4.4), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    axes.plot([0, 1], [0, 1], color=PALE, linewidth=1)
    for name, shares, line in (("before", before, {"color": _SOFT, "marker": "s", "linestyle": "--"}),
                               ("after", after, {"color": ACCENT, "marker": "o"})):  # fmt: skip
        counts, right, confident = calibration_bins(labels, shares)
        used = counts > 0
        axes.plot(confident[used] / counts[used], right[used] / counts[used], label=name, **line)
    axes.legend(frameon=False, loc="upper left")
    axes.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    below.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color=PALE, edgecolor="white")
    below.set(xlabel="confidence", ylabel="images")
    return figure


def coverage(curve: Sequence[tuple[float, float, float]]) -> Figure:
    """curve: the coverage that is wanted, the one found, and the mean number of classes in a set."""
    wanted, found, sizes = zip(*curve, strict=True)
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(wanted, wanted, color=PALE, linewidth=1)
    left.plot(wanted, found, "o-", color=ACCENT)
    left.set(xlabel="coverage wanted", ylabel="coverage found")
    right.plot(wanted, sizes, "o-", color=ACCENT)
    right.set(xlabel="coverage wanted", ylabel="classes in a set", ylim=(0, None))
    return figure


def slices(found: Sequence[Slice], overall: float) -> Figure:
    """Accuracy and its interval in each slice, the first MOST_SLICES of them; a line at that of all images."""
    shown = [each for each in found if np.isfinite([each.accuracy.low, each.accuracy.high]).all()][:_MOST_SLICES]
    figure = Figure(figsize=(6.4, 0.28 * len(shown) + 1), layout="constrained")
    axes = figure.subplots()
    axes.axvline(overall, color=PALE, linewidth=1)
    for row, each in enumerate(shown):
        middle, low, high = each.accuracy.value, each.accuracy.low, each.accuracy.high
        colour = WORSE if each.worse else ACCENT
        axes.plot([low, high], [row, row], color=colour, linewidth=2)
        axes.plot(middle, row, "D" if each.worse else "o", color=colour)
    names = [f"{plain(each.name)} ({each.images:,}){', worse' if each.worse else ''}" for each in shown]
    axes.set_yticks(range(len(shown)), names)
    axes.set(xlabel="accuracy", ylim=(len(shown) - 0.5, -0.5))
    return figure


def sizes(found: Sequence[AtSize]) -> Figure:
    """Accuracy, F1 and area by the side of the input."""
    figure = Figure(figsize=(4.8, 3.4), layout="constrained")
    axes = figure.subplots()
    sides = [each.side for each in found]
    axes.plot(sides, [each.accuracy for each in found], "o-", color=ACCENT, label="accuracy")
    axes.plot(sides, [each.macro_f1 for each in found], "s--", color=INK, label="macro F1")
    axes.plot(sides, [each.roc_auc for each in found], "^:", color=_SOFT, label="ROC AUC")
    axes.set(xlabel="side of the input, pixels", ylim=(0, 1.02))
    axes.set_xticks(sides, [str(side) for side in sides])
    axes.legend(frameon=False, loc="lower right")
    return figure
