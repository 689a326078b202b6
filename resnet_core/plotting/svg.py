"""SVG drawings inside a report's page: text that a reader can select, in the colours of the page.

Colours are the page's CSS variables, so that charts follow its light, dark and print styles. The page itself defines
`--ink`, `--soft`, `--accent`, `--bar`, `--edge`, `--line`, `--paper` and the classes `chart` and `interval`.
"""

import io
import math
import re
from dataclasses import dataclass
from xml.etree import ElementTree

from matplotlib import rc_context
from matplotlib.figure import Figure

from resnet_core.plotting.plots import ACCENT, EDGE, INK, LINE, PALE, SOFT, STYLE, TIP, WHITE, Chart

# CSS pixels: as wide as a phone, so that letters stay readable there.
_WIDTH, _HEIGHT = 360, 230
_VARIABLES = {
    INK: "--ink", ACCENT: "--accent", PALE: "--bar", SOFT: "--soft", EDGE: "--edge", LINE: "--line", WHITE: "--paper",
}  # fmt: skip
_NUMBER = re.compile(r"-?\d+\.\d+")
_CODE = re.compile(r"\\u([0-9a-f]{4})|\\U([0-9a-f]{8})")


def inline_svg(title: str, chart: Chart, height: int = _HEIGHT) -> str:
    """Return an `<svg>` element with the chart; title: the text that a screen reader says."""
    text = io.StringIO()
    # The salt makes ids of markers differ between the drawings of a page.
    with rc_context(STYLE | {"svg.fonttype": "none", "svg.hashsalt": title, "font.size": 13}):
        figure = Figure(figsize=(_WIDTH / 72, height / 72), layout="constrained")
        chart(figure)
        figure.savefig(text, format="svg", transparent=True)
    root = ElementTree.fromstring(text.getvalue())  # noqa: S314  Matplotlib wrote it just now
    box = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib.update({"class": "chart", "viewBox": box, "role": "img", "aria-label": title})
    _simplify(root)
    return ElementTree.tostring(root, encoding="unicode")


def _simplify(element: ElementTree.Element) -> None:
    """Keep what draws, without namespaces, fonts, clipping, and ids that nothing refers to; show tips as titles."""
    element.tag = element.tag.rpartition("}")[2]
    found = element.attrib
    element.attrib = {name.rpartition("}")[2]: value for name, value in found.items() if name != "clip-path"}
    identity = element.attrib.get("id", "")
    if element.tag == "g":
        element.attrib.pop("id", None)
    if element.attrib.get("transform", "").startswith("rotate(-0 "):
        del element.attrib["transform"]
    for name in ("d", "x", "y", "transform"):
        if name in element.attrib:
            element.attrib[name] = " ".join(_NUMBER.sub(_rounded, element.attrib[name]).split())
    if style := element.attrib.get("style"):
        element.attrib["style"] = _themed(style)
    element.text = _CODE.sub(_decoded, element.text.strip()) if element.text and element.text.strip() else None
    element.tail = None
    for child in list(element):
        if child.tag.endswith(("metadata", "clipPath", "}style")):
            element.remove(child)
        else:
            _simplify(child)
    if identity.startswith(TIP):
        tip = ElementTree.Element("title")
        tip.text = identity.removeprefix(TIP)
        element.insert(0, tip)


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.1f}".removesuffix(".0")


def _decoded(code: re.Match[str]) -> str:
    """Return the character that matplotlib's font lacks; a browser has a font for it."""
    letter = chr(int(code[1] or code[2], 16))
    return letter if letter.isprintable() else code[0]


def _themed(style: str) -> str:
    for colour, variable in _VARIABLES.items():
        style = style.replace(colour, f"var({variable})")
    return re.sub(r"font-family: [^;]*;? ?", "", style)


@dataclass(frozen=True)
class Scale:
    """The ends of a track of marks."""

    low: float
    high: float


def interval_mark(value: float, low: float, high: float, scale: Scale, reference: float | None = None) -> str:
    """Return a dot with its interval on a track, for a table's cell that has the numbers as text.

    `reference`: a value to compare with, drawn as a line.
    """
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
