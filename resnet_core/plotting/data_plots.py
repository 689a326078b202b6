"""How tonight's data compares with the last accepted night's, as a figure; no display is needed."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from numpy.typing import NDArray

from resnet_core.drift.summary import EDGES, UNITS, Summary
from resnet_core.plotting.canvas import drawable
from resnet_core.plotting.plots import ACCENT, INK, PALE

CLASSES = 20
_STEPS = 32  # bars across a histogram
LOGARITHMIC = ("sharpness", "width", "height")


def comparison(now: Summary, last: Summary | None, new: Summary | None = None) -> Figure:
    """Class shares and the distributions of brightness, contrast, sharpness, width and height: tonight's,
    the last accepted night's, and those of the images that came since."""
    names = _shown_classes(now, last)
    heights = [0.9 + 0.26 * len(names), 1.7, 1.7, 1.7]
    figure = Figure(figsize=(7.2, sum(heights)), layout="constrained", dpi=150)
    grid = figure.add_gridspec(4, 2, height_ratios=heights)
    _class_shares(figure.add_subplot(grid[0, :]), names, now, last)
    places = [figure.add_subplot(grid[1 + k // 2, k % 2]) for k in range(len(EDGES))]
    for axes, name in zip(places, EDGES, strict=True):
        distribution(axes, name, now, last, new)
    legend = figure.add_subplot(grid[3, 1])
    legend.axis("off")
    legend.legend(*places[0].get_legend_handles_labels(), frameon=False, loc="center", title="share of the images")
    return figure


def _shown_classes(now: Summary, last: Summary | None) -> list[str]:
    """All of them or, of many, those whose share has changed most."""
    names = sorted({*now.classes, *(last.classes if last else ())})
    if len(names) <= CLASSES:
        return names

    def weight(name: str) -> float:
        return abs(now.share(name) - last.share(name)) if last else now.share(name)

    return sorted(sorted(names, key=weight, reverse=True)[:CLASSES])


def _class_shares(axes: Axes, names: list[str], now: Summary, last: Summary | None) -> None:
    rows = np.arange(len(names))
    thick, shift = (0.4, 0.2) if last else (0.6, 0.0)
    if last:
        axes.barh(rows + shift, [last.share(name) for name in names], thick, color=PALE)
    axes.barh(rows - shift, [now.share(name) for name in names], thick, color=ACCENT)
    axes.set_yticks(rows, [shorten(drawable(name)) for name in names], parse_math=False)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(lambda value, _: f"{value * 100:g}%")
    total = len({*now.classes, *(last.classes if last else ())})
    cut = f"{len(names)} of {total:,} classes" if total > len(names) else "class"
    axes.set(xlabel="share of the images", ylabel=cut)


def shorten(name: str, most: int = 28) -> str:
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-most // 2 + 1 :]}"


def distribution(axes: Axes, name: str, now: Summary, last: Summary | None, new: Summary | None) -> None:
    """Share of the images by bin, neighbouring bins put together, over the range that is used."""
    found = [summary.histograms[name].shares for summary in (now, last, new) if summary]
    borders, heights = together(EDGES[name], found)
    if last:
        axes.stairs(heights[1], borders, fill=True, color=PALE, label="last accepted night")
    axes.stairs(heights[0], borders, color=ACCENT, linewidth=1.5, label="now")
    if last and new and new.ok:
        axes.stairs(heights[2], borders, color=INK, linewidth=1, linestyle=":", label="came since")
    if name in LOGARITHMIC:
        logarithmic(axes, max(borders[0], borders[1] / 2), borders[-1])
    axes.set(xlabel=name + (f" ({UNITS[name]})" if UNITS[name] else ""))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value * 100:g}%")


def together(
    edges: NDArray[np.float64], shares: Sequence[NDArray[np.float64]]
) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
    """Histograms of the bins between `edges` -> the borders of fewer and wider bins over the range that any of them
    uses, and the share in each."""
    used = np.flatnonzero(np.sum(shares, axis=0))
    bins = len(edges) - 1
    first, final = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, bins)
    step = max(1, (final - first) // _STEPS)
    starts = np.arange(max(first - step, 0), min(final + step, bins), step)
    end = min(int(starts[-1]) + step, bins)
    return edges[np.append(starts, end)], [np.add.reduceat(one[:end], starts) for one in shares]


def logarithmic(axes: Axes, low: float, high: float) -> None:
    """A scale over a factor of 4 at least, so that 1, 2 or 5 times a power of 10 is on it."""
    middle, reach = np.sqrt(low * high), max(2.0, np.sqrt(high / low))
    axes.set_xscale("log")
    axes.set_xlim(middle / reach, middle * reach)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_locator(NullLocator())
