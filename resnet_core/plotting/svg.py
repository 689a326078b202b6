"""Charts as inline SVG: text that an HTML page can hold, colour and print.

Colours are CSS classes, not values: the page says what they are in light, in dark and on paper. A chart
is drawn 360 wide, so that its letters stay readable on a phone as wide.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

WIDTH, _HEIGHT = 360, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 34, 40
_DOT = 2.8
_BARS = 40  # height of the histogram below a reliability diagram

_Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A named line. `style` is a CSS class (`first`, `second` or `faint`) that gives colour and dashes;
    `weights`, if any, size the dots by their square root."""

    name: str
    points: Sequence[_Point]
    style: str = "first"
    dots: bool = False
    weights: Sequence[float] = ()


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, with ticks `at` these values or at round ones; `label` stands below."""

    low: float
    high: float
    label: str = ""
    percent: bool = False
    at: Sequence[float] = ()

    def ticks(self, count: int = 5) -> list[float]:
        if self.at:
            return list(self.at)
        steps = [1, 2, 5, 10] if self.high - self.low >= 4 else [1, 2, 2.5, 5, 10]
        wanted = MaxNLocator(count, steps=steps).tick_values(self.low, self.high)
        slack = 1e-9 * (self.high - self.low)
        return [float(value) for value in wanted if self.low - slack <= value <= self.high + slack]

    def text(self, value: float) -> str:
        return f"{100 * value:.4g}%" if self.percent else f"{value:.4g}"


@dataclass(frozen=True)
class _Frame:
    """Where the axes lie in the drawing."""

    x: Axis
    y: Axis
    bottom: float = _HEIGHT - _BOTTOM
    top: float = _TOP

    def across(self, value: float) -> float:
        return _LEFT + (value - self.x.low) / ((self.x.high - self.x.low) or 1) * (WIDTH - _LEFT - _RIGHT)

    def up(self, value: float) -> float:
        return self.bottom - (value - self.y.low) / ((self.y.high - self.y.low) or 1) * (self.bottom - self.top)


def line_chart(title: str, series: Sequence[Series], x: Axis, y: Axis, diagonal: bool = False) -> str:
    """Lines over a grid. `title` is what a screen reader says; the page's caption stands beside it."""
    named = [one for one in series if one.name]
    frame = _Frame(x, y, top=_TOP if named else 10)
    parts = [_grid(frame)]
    if diagonal:
        parts.append(line(frame, [(x.low, y.low), (x.high, y.high)], "diagonal"))
    parts += [drawn(frame, one) for one in series]
    parts.append(legend(named))
    return picture(title, "".join(parts), _HEIGHT)


def reliability_chart(title: str, series: Sequence[Series], counts: Sequence[float]) -> str:
    """Accuracy against confidence, on the diagonal where a confidence means what it says; below, how many
    images have each confidence. `counts` are those of bins of equal width from 0 to 1."""
    frame = _Frame(Axis(0, 1, percent=True), Axis(0, 1, percent=True))
    parts = [_grid(frame, labels=False), line(frame, [(0, 0), (1, 1)], "diagonal")]
    parts += [drawn(frame, one) for one in series]
    parts.append(legend(series))
    floor, most = frame.bottom + 8 + _BARS, max(counts) or 1
    step = 1 / len(counts)
    for place, count in enumerate(counts):
        left, right = frame.across(place * step), frame.across((place + 1) * step)
        tall = _BARS * count / most
        parts.append(
            f'<rect class="bar" x="{left + 0.75:.1f}" y="{floor - tall:.1f}" width="{right - left - 1.5:.1f}" '
            f'height="{tall:.1f}"><title>{count:,.0f} images at {100 * place * step:.0f} to '
            f"{100 * (place + 1) * step:.0f}% confidence</title></rect>"
        )
    parts.append(f'<line class="edge" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{floor}" y2="{floor}"/>')
    parts.append(_bottom_labels(frame, floor, "confidence, and images below"))
    return picture(title, "".join(parts), _HEIGHT + _BARS + 8)


def interval_mark(value: float, low: float, high: float, scale: Axis, reference: float | None = None) -> str:
    """A dot with its interval on a track, for a table's cell; the numbers stand beside it, so a screen reader
    passes it by. `reference` is a line to hold it against."""
    width, height, edge = 160, 22, 6

    def across(number: float) -> float:
        share = (number - scale.low) / ((scale.high - scale.low) or 1)
        return edge + min(max(share, 0.0), 1.0) * (width - 2 * edge)

    middle = height / 2
    parts = [f'<line class="track" x1="{edge}" x2="{width - edge}" y1="{middle}" y2="{middle}"/>']
    if reference is not None:
        parts.append(
            f'<line class="reference" x1="{across(reference):.1f}" x2="{across(reference):.1f}" y1="2" y2="20"/>'
        )
    if not (math.isnan(low) or math.isnan(high)):
        parts.append(
            f'<line class="whisker" x1="{across(low):.1f}" x2="{across(high):.1f}" y1="{middle}" y2="{middle}"/>'
        )
    parts.append(f'<circle class="dot" cx="{across(value):.1f}" cy="{middle}" r="4.2"/>')
    return f'<svg class="interval" viewBox="0 0 {width} {height}" aria-hidden="true">{"".join(parts)}</svg>'


def roc_points(positive: NDArray[np.bool_], scores: NDArray[np.float32], most: int = 160) -> list[_Point]:
    """(false positive rate, true positive rate) from (0, 0) to (1, 1); of more than `most`, those that are
    evenly apart along the curve. positive, scores: [N]."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.diff(scores[order]) != 0, True)  # images with one score are let in together
    hits = np.cumsum(positive[order])[ends] / max(int(positive.sum()), 1)
    alarms = np.cumsum(~positive[order])[ends] / max(int((~positive).sum()), 1)
    hits, alarms = np.insert(hits, 0, 0.0), np.insert(alarms, 0, 0.0)
    kept = np.arange(len(hits))
    if len(hits) > most:
        along = hits + alarms
        kept = np.unique(np.searchsorted(along, np.linspace(0, along[-1], most)))
    return [(float(alarms[k]), float(hits[k])) for k in kept]


def picture(title: str, inside: str, height: float) -> str:
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(title)}">{inside}</svg>'


def _grid(frame: _Frame, labels: bool = True) -> str:
    parts = []
    for value in frame.y.ticks():
        height = frame.up(value)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>'
            f'<text class="tick" x="{_LEFT - 8}" y="{height + 4:.1f}" text-anchor="end">{frame.y.text(value)}</text>'
        )
    parts.append(f'<line class="edge" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{frame.bottom}" y2="{frame.bottom}"/>')
    if labels:
        parts.append(_bottom_labels(frame, frame.bottom, frame.x.label))
    return "".join(parts)


def _bottom_labels(frame: _Frame, height: float, label: str) -> str:
    ticks = frame.x.ticks(6)
    parts = [
        f'<text class="tick" x="{frame.across(value):.1f}" y="{height + 16:.1f}" '
        f'text-anchor="{"end" if frame.across(value) > WIDTH - _RIGHT - 12 else "middle"}">{frame.x.text(value)}</text>'
        for value in ticks
    ]
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{height + 32:.1f}" text-anchor="middle">{escape(label)}</text>')
    return "".join(parts)


def line(frame: _Frame, points: Sequence[_Point], style: str) -> str:
    path = " ".join(f"{frame.across(x):.1f},{frame.up(y):.1f}" for x, y in points)
    return f'<polyline class="{style}" points="{path}"/>'


def drawn(frame: _Frame, series: Series) -> str:
    known = [(x, y) for x, y in series.points if math.isfinite(x) and math.isfinite(y)]
    thin = " thin" if series.weights else ""  # a bin of one image is no trend
    parts = [line(frame, known, f"line {series.style}{thin}")]
    if series.dots or len(known) == 1:
        most = max(series.weights, default=0)
        for place, (x, y) in enumerate(known):
            radius = _DOT + 4 * math.sqrt(series.weights[place] / most) if most else _DOT
            parts.append(
                f'<circle class="mark {series.style}" cx="{frame.across(x):.1f}" cy="{frame.up(y):.1f}" '
                f'r="{radius:.1f}"><title>{escape(series.name)}: {frame.y.text(y)} at {frame.x.text(x)}</title>'
                "</circle>"
            )
    return "".join(parts)


def legend(series: Sequence[Series]) -> str:
    """Along the top: how each line is drawn, and its name."""
    parts, x = [], float(_LEFT)
    for one in series:
        parts.append(
            f'<line class="line {one.style}" x1="{x:.0f}" x2="{x + 20:.0f}" y1="14" y2="14"/>'
            f'<text class="legend" x="{x + 26:.0f}" y="18">{escape(one.name)}</text>'
        )
        x += 26 + 7.5 * len(one.name) + 20
    return "".join(parts)
