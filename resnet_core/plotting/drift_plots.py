"""Drift plots: tonight's data beside the last accepted night's, and a batch beside the training data.

Nothing here needs a display.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from numpy.typing import NDArray

from resnet_core.drift.drift import Drift
from resnet_core.drift.summary import CATALOG_MEASURES, EDGES, SCORE_MEASURES, UNITS, Histogram, Summary
from resnet_core.errors import plural
from resnet_core.plotting.canvas import drawable
from resnet_core.plotting.plots import ACCENT, INK, PALE, WORSE, percent_axis

_CLASSES = 20
_STEPS = 32  # bars across a histogram
_LOGARITHMIC = ("sharpness", "width", "height")
_POINTS = 300  # of each side in the map of embeddings

_Embeddings = tuple[NDArray[np.floating], NDArray[np.floating]]


class _Side(NamedTuple):
    """`images` good images, by label, and histograms of their values."""

    name: str
    images: int
    labels: Mapping[str, int]
    histograms: Mapping[str, Histogram]

    def share(self, label: str) -> float:
        return self.labels.get(label, 0) / max(self.images, 1)


def compare_nights(now: Summary, last: Summary | None, new: Summary | None = None) -> Figure:
    """Draw class shares and distributions of tonight, of the last accepted night, and of the images new since then."""
    tonight = _Side("now", now.ok, now.classes, now.histograms)
    before = _Side("last accepted night", last.ok, last.classes, last.histograms) if last else None
    since = _Side("came since", new.ok, new.classes, new.histograms) if last and new and new.ok else None
    names = _shown_classes(tonight, before)
    heights = [0.9 + 0.26 * len(names), 1.7, 1.7, 1.7]
    figure = Figure(figsize=(7.2, sum(heights)), layout="constrained", dpi=150)
    grid = figure.add_gridspec(4, 2, height_ratios=heights)
    shares = figure.add_subplot(grid[0, :])
    _class_shares(shares, names, tonight, before)
    shares.set_xlabel("share of the images")
    panels = [figure.add_subplot(grid[1 + k // 2, k % 2]) for k in range(len(CATALOG_MEASURES))]
    for axes, name in zip(panels, CATALOG_MEASURES, strict=True):
        _distribution(axes, name, (tonight, before, since))
    legend = figure.add_subplot(grid[3, 1])
    legend.axis("off")
    legend.legend(*panels[0].get_legend_handles_labels(), frameon=False, loc="center", title="share of the images")
    return figure


def compare_batch(before: Summary, now: Summary, findings: Sequence[Drift], embeddings: _Embeddings | None) -> Figure:
    """Draw label shares, distributions and embeddings of the training data and of a batch.

    The title of a measure that has drifted is red.
    """
    training = _Side("training", before.labelled, before.classes, before.histograms)
    batch = _Side("now", now.labelled, now.classes, now.histograms)
    by_name = {finding.measure: finding for finding in findings}
    names = _shown_classes(batch, training)
    heights = [0.9 + 0.26 * len(names), 1.9, 1.9] + [2.6] * (embeddings is not None)
    figure = Figure(figsize=(7.2, sum(heights)), layout="constrained", dpi=120)
    grid = figure.add_gridspec(len(heights), 2, height_ratios=heights)
    axes = figure.add_subplot(grid[0, :])
    _class_shares(axes, names, batch, training)
    _titled(axes, "label", by_name)
    axes.legend(frameon=False)
    for k, name in enumerate(SCORE_MEASURES):
        axes = figure.add_subplot(grid[1 + k // 2, k % 2])
        _distribution(axes, name, (batch, training, None))
        _titled(axes, name, by_name)
    if embeddings is not None:
        axes = figure.add_subplot(grid[3, :])
        _plane(axes, *embeddings)
        _titled(axes, "embedding", by_name)
    return figure


def _titled(axes: Axes, name: str, findings: Mapping[str, Drift]) -> None:
    if finding := findings.get(name):
        text = f"{name}: {finding.method} {finding.distance:.2f}" + (", drift" if finding.drifted else "")
        axes.set_title(text, fontsize="medium", color=WORSE if finding.drifted else "black")


def _all_classes(now: _Side, before: _Side | None) -> list[str]:
    return sorted({*now.labels, *(before.labels if before else ())})


def _shown_classes(now: _Side, before: _Side | None) -> list[str]:
    """Return the _CLASSES classes whose share differs most, in alphabetical order."""
    names = _all_classes(now, before)
    change = {name: abs(now.share(name) - (before.share(name) if before else 0)) for name in names}
    return sorted(sorted(names, key=lambda name: -change[name])[:_CLASSES])


def _class_shares(axes: Axes, names: Sequence[str], now: _Side, before: _Side | None) -> None:
    rows = np.arange(len(names))
    height, shift = (0.4, 0.2) if before else (0.6, 0.0)
    if before:
        axes.barh(rows + shift, [before.share(name) for name in names], height, color=PALE, label=before.name)
    axes.barh(rows - shift, [now.share(name) for name in names], height, color=ACCENT, label=now.name)
    axes.set_yticks(rows, [_shorten(drawable(name)) for name in names], parse_math=False)
    axes.invert_yaxis()
    percent_axis(axes.xaxis)
    total = len(_all_classes(now, before))
    axes.set(ylabel=f"{len(names)} of {plural(total, 'class', 'classes')}" if total > len(names) else "class")


def _shorten(name: str, most: int = 28) -> str:
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-most // 2 + 1 :]}"


def _distribution(axes: Axes, name: str, sides: tuple[_Side, _Side | None, _Side | None]) -> None:
    """Draw the share of the images by bin, over the range that is used; sides: now, before, and new since."""
    drawn = [side for side in sides if side]
    borders, heights = _merge_bins(EDGES[name], [side.histograms[name].shares for side in drawn])
    styles: tuple[dict[str, Any], ...] = (
        {"color": ACCENT, "linewidth": 1.5},
        {"color": PALE, "fill": True, "zorder": 0},
        {"color": INK, "linewidth": 1, "linestyle": ":"},
    )
    for side, shares, style in zip(drawn, heights, styles, strict=False):
        axes.stairs(shares, borders, label=side.name, **style)
    if name in _LOGARITHMIC:
        _logarithmic(axes, max(borders[0], borders[1] / 2), borders[-1])
    axes.set(xlabel=name + (f" ({UNITS[name]})" if UNITS[name] else ""))
    percent_axis(axes.yaxis)


def _merge_bins(
    edges: NDArray[np.float64], shares: Sequence[NDArray[np.float64]]
) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
    """Merge neighbouring bins, and cut the range to what any histogram uses: new borders, and shares by bin."""
    used = np.flatnonzero(np.sum(shares, axis=0))
    bins = len(edges) - 1
    first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, bins)
    step = max(1, (last - first) // _STEPS)
    starts = np.arange(max(first - step, 0), min(last + step, bins), step)
    end = min(int(starts[-1]) + step, bins)
    return edges[np.append(starts, end)], [np.add.reduceat(values[:end], starts) for values in shares]


def _logarithmic(axes: Axes, low: float, high: float) -> None:
    """Set a logarithmic scale over a factor of 4 at least. It has ticks at 1, 2 and 5 times powers of 10."""
    middle, reach = np.sqrt(low * high), max(2.0, np.sqrt(high / low))
    axes.set_xscale("log")
    axes.set_xlim(middle / reach, middle * reach)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_locator(NullLocator())


def _plane(axes: Axes, before: NDArray[np.floating], now: NDArray[np.floating]) -> None:
    """Draw both sides in the plane of their two main directions (principal components)."""
    vectors = np.concatenate([before, now]).astype(np.float64)
    centred = vectors - vectors.mean(0)
    flat = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    for points, colour in ((flat[: len(before)], PALE), (flat[len(before) :], ACCENT)):
        shown = points[:: max(1, len(points) // _POINTS)]
        axes.plot(shown[:, 0], shown[:, -1], ".", color=colour, markersize=4)
    axes.set(xticks=[], yticks=[], xlabel="embeddings, in their two main directions")
