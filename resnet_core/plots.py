"""Figures of a training and of its evaluation, from plain arrays; no display is needed."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from resnet_core.fit import Epoch
from resnet_core.metrics import CALIBRATION_BINS, Labels, Metrics, Probabilities, calibration_bins

INK, ACCENT, PALE = "#1f2937", "#2563eb", "#d1d5db"


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
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(classes)), classes)
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
        axes.plot(alarms, hits, label=classes[k])
    axes.set(xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
    if len(classes) <= 12:
        axes.legend(frameon=False, loc="lower right")
    return figure


def reliability(labels: Labels, probabilities: Probabilities) -> Figure:
    """How often the model is right at each confidence: on the diagonal, it means what it says."""
    counts, right, confident = calibration_bins(labels, probabilities)
    used = counts > 0
    figure = Figure(figsize=(4.4, 4.4), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    axes.plot([0, 1], [0, 1], color=PALE, linewidth=1)
    axes.plot(confident[used] / counts[used], right[used] / counts[used], "o-", color=ACCENT)
    axes.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    below.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color=PALE, edgecolor="white")
    below.set(xlabel="confidence", ylabel="images")
    return figure
