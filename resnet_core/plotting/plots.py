"""Plots of a training and of its evaluation.

A chart is a function that draws on a matplotlib figure. `png` makes a picture of charts; `svg.inline_svg` makes
a drawing for the report's page of the same charts.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from resnet_core.evaluation.metrics import CALIBRATION_BINS, Curve
from resnet_core.evaluation.slices import Slice
from resnet_core.plotting.canvas import drawable

Chart = Callable[[FigureBase], None]
Points = Sequence[tuple[float, float]]

INK, ACCENT, PALE, WORSE = "#1f2937", "#2563eb", "#d1d5db", "#b91c1c"
SOFT, EDGE, LINE, WHITE = "#6b7280", "#9aa3af", "#e1e5ea", "#ffffff"
STYLE: dict[Any, Any] = {  # of matplotlib's settings
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "axes.edgecolor": EDGE,
    "axes.labelcolor": SOFT, "axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True, "grid.color": LINE,
    "xtick.color": EDGE, "xtick.labelcolor": SOFT, "ytick.color": EDGE, "ytick.labelcolor": SOFT, "ytick.left": False,
    "legend.frameon": False, "legend.labelcolor": INK, "lines.linewidth": 2, "text.parse_math": False,
}  # fmt: skip
TIP = "tip: "  # an artist's gid, whose text the page shows under the pointer

_MOST_SLICES = 40
_LONGEST = 48  # characters of a name
# The first line of a chart stands out; the others differ from it by dashes and marks, too.
_LINES: tuple[dict[str, Any], ...] = (
    {"color": ACCENT, "marker": "o"},
    {"color": SOFT, "marker": "s", "linestyle": "--"},
    {"color": INK, "marker": "^", "linestyle": ":"},
)


def png(*charts: Chart, size: tuple[float, float] = (4.4, 4)) -> bytes:
    """Draw charts side by side; size: width and height of a chart, in inches of 120 pixels."""
    buffer = io.BytesIO()
    with rc_context(STYLE):
        figure = Figure(figsize=(size[0] * len(charts), size[1]), layout="constrained")
        panels: Any = figure.subfigures(1, len(charts)) if len(charts) > 1 else [figure]
        for chart, panel in zip(charts, panels, strict=True):
            chart(panel)
        figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def plain(text: str, most: int = _LONGEST) -> str:
    """Shorten a name to `most` characters, all of which the font has."""
    shown = drawable(text)
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def percent_axis(axis: Axis) -> None:
    axis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")


def _resize(figure: FigureBase, width: float, height: float) -> None:
    """Set the size in inches of a chart that grows with its rows."""
    assert isinstance(figure, Figure), "such a chart stands alone"
    figure.set_size_inches(width, height)


def _legend_above(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderpad=0, columnspacing=1.2)


def training_loss(figure: FigureBase, loss: Points) -> None:
    """Draw (epoch, loss)."""
    axes = figure.subplots()
    axes.plot(*zip(*loss, strict=True), color=ACCENT)
    axes.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def accuracy_by_epoch(figure: FigureBase, curves: Mapping[str, Points]) -> None:
    """Draw (epoch, accuracy) of training and validation images; the last curve stands out."""
    axes = figure.subplots()
    names = list(curves)
    for name, points in curves.items():
        style = _LINES[0 if name == names[-1] else 1] | {"marker": "o" if len(points) == 1 else ""}
        axes.plot(*zip(*points, strict=True), label=name, **style)
    axes.set(xlabel="epoch", ylabel="accuracy", ylim=(_floor(curves, 0.02), 1.005))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    percent_axis(axes.yaxis)
    _legend_above(axes)


def _floor(curves: Mapping[str, Points], margin: float) -> float:
    """Return the lower end of an axis for shares, a margin below the least value."""
    values = [value for points in curves.values() for _, value in points if np.isfinite(value)]
    return max(0.0, min(values, default=0.0) - margin)


def confusion(figure: FigureBase, counts: NDArray[np.int64], classes: Sequence[str]) -> None:
    """Draw counts [C, C] of true against predicted classes, shaded by the share of the true class."""
    side = max(3.6, 0.45 * len(classes) + 2)
    _resize(figure, side + 0.8, side)
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.grid(visible=False)
    axes.set(xlabel="predicted", ylabel="true")
    names = [plain(name) for name in classes]
    axes.set_xticks(range(len(classes)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(classes)), names)
    if len(classes) <= 30:
        for row, column in np.ndindex(counts.shape):
            colour = WHITE if shares[row, column] > 0.6 else INK
            axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=colour)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")


def roc(figure: FigureBase, curves: Mapping[str, Curve], highlight: str | None = None) -> None:
    """Draw true positive rates against false positive rates, a curve per class.

    highlight: the class to draw in colour before the faint curves of all others; None: every class has a colour.
    """
    axes = figure.subplots()
    _diagonal(axes, 0)
    for name, (alarms, hits) in curves.items():
        if highlight not in (None, name):
            axes.plot(alarms, hits, color=EDGE, linewidth=1)
    for name, (alarms, hits) in curves.items():
        if highlight in (None, name):
            axes.plot(alarms, hits, label=plain(name, 28), color=ACCENT if highlight or len(curves) == 1 else None)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.005))
    percent_axis(axes.xaxis)
    percent_axis(axes.yaxis)
    if highlight or len(curves) == 1:
        _legend_above(axes)
    elif 1 < len(curves) <= 12:
        axes.legend(loc="lower right")


def _diagonal(axes: Axes, low: float) -> None:
    axes.plot([low, 1], [low, 1], color=EDGE, linewidth=1.5, linestyle=":")


def reliability(figure: FigureBase, bins: Mapping[str, tuple[NDArray[np.float64], ...]]) -> None:
    """Draw accuracy against confidence, and below how many images have each confidence.

    bins: by name of the line, what `metrics.calibration_bins` returns; the last line stands out.
    """
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[3.5, 1])
    _diagonal(axes, 0)
    styles = _LINES[: len(bins)][::-1]
    for style, (name, (counts, correct, confidence)) in zip(styles, bins.items(), strict=True):
        used = counts > 0
        points = list(zip(confidence[used] / counts[used], correct[used] / counts[used], strict=True))
        axes.plot(*zip(*points, strict=True), **style | {"marker": "", "linewidth": 1})
        axes.plot([], [], label=name, **style)
        _weighted_dots(axes, name, points, counts[used], style)
    axes.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
    percent_axis(axes.xaxis)
    percent_axis(axes.yaxis)
    _legend_above(axes)
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    counts = list(bins.values())[-1][0]
    bars = below.bar(edges[:-1], counts, width=0.9 / CALIBRATION_BINS, align="edge", color=PALE)
    for bar, low, high, count in zip(bars, edges[:-1], edges[1:], counts, strict=True):
        bar.set_gid(f"{TIP}{count:,.0f} images at {100 * low:.0f} to {100 * high:.0f}% confidence")
    below.set(xlabel="confidence", ylabel="images", yticks=[])


def _weighted_dots(
    axes: Axes, name: str, points: Points, weights: NDArray[np.float64], style: Mapping[str, Any]
) -> None:
    """Draw dots whose area grows with the number of images: a bin of one image shows no trend."""
    for (x, y), weight in zip(points, weights, strict=True):
        size = 5 + 8 * float(np.sqrt(weight / weights.max()))
        tip = f"{TIP}{name}: {100 * y:.4g}% at {100 * x:.4g}%"
        axes.plot(
            [x],
            [y],
            style["marker"],
            color=style["color"],
            markeredgecolor=WHITE,
            markersize=size,
            gid=tip,
            clip_on=False,
        )


def coverage(figure: FigureBase, curve: Points) -> None:
    """Draw (wanted, found) shares of sets that hold the true class, on the diagonal where they are equal."""
    axes = figure.subplots()
    low = min(min(point) for point in curve)
    _diagonal(axes, low)
    _dotted_line(axes, "coverage found", curve, _LINES[0])
    axes.set(xlabel="coverage asked for", ylabel="coverage found", xlim=(low - 0.01, 1.01), ylim=(low - 0.01, 1.01))
    percent_axis(axes.xaxis)
    percent_axis(axes.yaxis)


def set_sizes(figure: FigureBase, curve: Points) -> None:
    """Draw (wanted coverage, mean number of classes in a set)."""
    axes = figure.subplots()
    axes.plot(*zip(*curve, strict=True), **_LINES[0])
    axes.set(xlabel="coverage asked for", ylabel="classes in a set", ylim=(0, None))
    percent_axis(axes.xaxis)


def _dotted_line(axes: Axes, name: str, points: Points, style: Mapping[str, Any]) -> None:
    axes.plot(*zip(*points, strict=True), label=name, **style)
    for x, y in points:
        tip = f"{TIP}{name}: {100 * y:.4g}% at {100 * x if x <= 1 else x:.4g}{'%' if x <= 1 else ''}"
        axes.plot(
            [x], [y], style["marker"], color=style["color"], markeredgecolor=WHITE, markersize=7, gid=tip, clip_on=False
        )


def slices(figure: FigureBase, found: Sequence[Slice], overall: float) -> None:
    """Draw accuracy and its interval in the first _MOST_SLICES slices, and a line at the accuracy of all images."""
    shown = [part for part in found if np.isfinite([part.accuracy.low, part.accuracy.high]).all()][:_MOST_SLICES]
    _resize(figure, 6.4, 0.28 * len(shown) + 1)
    axes = figure.subplots()
    axes.grid(visible=False)
    axes.axvline(overall, color=EDGE, linewidth=1)
    for row, part in enumerate(shown):
        colour = WORSE if part.worse else ACCENT
        axes.plot([part.accuracy.low, part.accuracy.high], [row, row], color=colour)
        axes.plot(part.accuracy.value, row, "D" if part.worse else "o", color=colour)
    names = [f"{plain(part.name)} ({part.images:,}){', worse' if part.worse else ''}" for part in shown]
    axes.set_yticks(range(len(shown)), names)
    axes.set(xlabel="accuracy", ylim=(len(shown) - 0.5, -0.5))
    percent_axis(axes.xaxis)


def sizes(figure: FigureBase, curves: Mapping[str, Points]) -> None:
    """Draw (side of the input in pixels, metric), a line per metric; the first stands out."""
    axes = figure.subplots()
    for style, (name, points) in zip(_LINES, curves.items(), strict=False):
        _dotted_line(axes, name, points, style)
    sides = [side for side, _ in next(iter(curves.values()))]
    axes.set(xlabel="side of the input, in pixels", ylim=(_floor(curves, 0.05), 1.01))
    axes.set_xticks(sides, [f"{side:g}" for side in sides])
    percent_axis(axes.yaxis)
    if len(curves) > 1:
        axes.legend(loc="lower right")
