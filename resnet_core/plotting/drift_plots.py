"""How a batch compares with the training data, as a figure; no display is needed."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from resnet_core.drift.drift import Drift
from resnet_core.drift.profiles import EDGES, Profile
from resnet_core.drift.summary import UNITS, Histogram
from resnet_core.plotting.canvas import drawable
from resnet_core.plotting.data_plots import CLASSES, LOGARITHMIC, logarithmic, shorten, together
from resnet_core.plotting.plots import ACCENT, PALE, WORSE

_Embeddings = tuple[NDArray[np.floating], NDArray[np.floating]]
_POINTS = 300  # of each side in the map of embeddings


def comparison(before: Profile, now: Profile, findings: Sequence[Drift], embeddings: _Embeddings | None) -> Figure:
    """Shares of the labels, distributions, and where the embeddings lie: the training data's, and the batch's. What
    has drifted has its title in red."""
    by_name = {each.measure: each for each in findings}
    names = shown(before.labels, now.labels)
    heights = [0.9 + 0.26 * len(names), 1.9, 1.9] + [2.6] * (embeddings is not None)
    figure = Figure(figsize=(7.2, sum(heights)), layout="constrained", dpi=120)
    grid = figure.add_gridspec(len(heights), 2, height_ratios=heights)
    axes = figure.add_subplot(grid[0, :])
    shares(axes, names, before.labels, now.labels)
    _titled(axes, "label", by_name)
    axes.legend(frameon=False)
    for k, name in enumerate(EDGES):
        axes = figure.add_subplot(grid[1 + k // 2, k % 2])
        distribution(axes, name, before.histograms[name], now.histograms[name])
        _titled(axes, name, by_name)
    if embeddings is not None:
        axes = figure.add_subplot(grid[3, :])
        _plane(axes, *embeddings)
        _titled(axes, "embedding", by_name)
    return figure


def _titled(axes: Axes, name: str, findings: Mapping[str, Drift]) -> None:
    if found := findings.get(name):
        text = f"{name}: {found.method} {found.distance:.2f}" + (", drift" if found.drifted else "")
        axes.set_title(text, fontsize="medium", color=WORSE if found.drifted else "black")


def shown(before: Mapping[str, int], now: Mapping[str, int]) -> list[str]:
    """All classes or, of many, those whose share differs most."""
    names = sorted({*before, *now})
    apart = {name: abs(share(before, name) - share(now, name)) for name in names}
    return sorted(sorted(names, key=lambda name: -apart[name])[:CLASSES])


def share(counts: Mapping[str, int], name: str) -> float:
    return counts.get(name, 0) / max(sum(counts.values()), 1)


def shares(axes: Axes, names: Sequence[str], before: Mapping[str, int], now: Mapping[str, int]) -> None:
    rows = np.arange(len(names))
    axes.barh(rows + 0.2, [share(before, name) for name in names], 0.4, color=PALE, label="training")
    axes.barh(rows - 0.2, [share(now, name) for name in names], 0.4, color=ACCENT, label="now")
    axes.set_yticks(rows, [shorten(drawable(name)) for name in names], parse_math=False)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(lambda value, _: f"{value * 100:g}%")
    total = len({*before, *now})
    axes.set(ylabel=f"{len(names)} of {total:,} classes" if total > len(names) else "class")


def distribution(axes: Axes, name: str, before: Histogram, now: Histogram) -> None:
    borders, (one, other) = together(EDGES[name], [before.shares, now.shares])
    axes.stairs(one, borders, fill=True, color=PALE)
    axes.stairs(other, borders, color=ACCENT, linewidth=1.5)
    if name in LOGARITHMIC:
        logarithmic(axes, max(borders[0], borders[1] / 2), borders[-1])
    axes.set(xlabel=name + (f" ({UNITS[name]})" if UNITS.get(name) else ""))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value * 100:g}%")


def _plane(axes: Axes, before: NDArray[np.floating], now: NDArray[np.floating]) -> None:
    """Both in the plane in which all of them together are spread most."""
    every = np.concatenate([before, now]).astype(np.float64)
    centred = every - every.mean(0)
    flat = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    for side, colour in ((flat[: len(before)], PALE), (flat[len(before) :], ACCENT)):
        some = side[:: max(1, len(side) // _POINTS)]
        axes.plot(some[:, 0], some[:, -1], ".", color=colour, markersize=4)
    axes.set(xticks=[], yticks=[], xlabel="embeddings, in their two main directions")
