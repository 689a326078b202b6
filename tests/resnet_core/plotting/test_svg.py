"""Charts as SVG: text that can be selected, in the page's own colours, with nothing that leads outside."""

import re
from collections.abc import Callable, Mapping
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import FigureBase

from resnet_core.evaluation.metrics import calibration_bins
from resnet_core.plotting import plots
from resnet_core.plotting.svg import inline_svg
from tests.versions import Digits, predicted

POINTS = [(1.0, 0.6), (2.0, 0.8), (3.0, 0.9)]
HOSTILE = "<script>alert(1)</script>"
CHARTS: Mapping[str, Callable[[FigureBase], None]] = {
    "loss": lambda figure: plots.training_loss(figure, POINTS),
    "accuracy": lambda figure: plots.accuracy_by_epoch(figure, {"training": POINTS, "validation": POINTS}),
    "coverage": lambda figure: plots.coverage(figure, [(0.5, 0.6), (0.9, 0.92)]),
    "sizes": lambda figure: plots.sizes(figure, {"accuracy": POINTS}),
    "roc": lambda figure: plots.roc(figure, {HOSTILE: (np.array([0, 0.2, 1]), np.array([0, 0.9, 1]))}, HOSTILE),
}


@pytest.fixture(scope="module")
def drawings(digits: Digits) -> dict[str, str]:
    _, labels, shares = predicted(digits)
    bins = {"before": calibration_bins(labels, shares), "after": calibration_bins(labels, shares)}
    charts = {**CHARTS, "reliability": lambda figure: plots.reliability(figure, bins)}
    return {name: inline_svg(f"{name} {HOSTILE}", chart) for name, chart in charts.items()}


def test_the_page_decides_on_colours(drawings: dict[str, str]) -> None:
    for text in drawings.values():
        assert re.findall(r"#[0-9a-f]{6}\b|font-family", text) == []
        for element in ElementTree.fromstring(text).iter("text"):
            assert re.search(r"fill: var\(--(ink|soft)\)", element.attrib["style"]), element.text


def test_a_screen_reader_has_a_title_and_readers_have_text(drawings: dict[str, str]) -> None:
    for name, text in drawings.items():
        root = ElementTree.fromstring(text)
        assert (root.tag, root.attrib["role"], root.attrib["aria-label"]) == ("svg", "img", f"{name} {HOSTILE}")
        assert "<script" not in text
    words = [element.text for element in ElementTree.fromstring(drawings["coverage"]).iter("text")]
    assert {"60%", "coverage asked for", "coverage found"} <= set(words)
    tips = [element.text for element in ElementTree.fromstring(drawings["coverage"]).iter("title")]
    assert tips == ["coverage found: 60% at 50%", "coverage found: 92% at 90%"]


def test_drawings_of_a_page_share_no_ids_and_refer_to_their_own(drawings: dict[str, str]) -> None:
    ids = [re.findall(r' id="([^"]*)"', text) for text in drawings.values()]
    assert sum(map(len, ids)) == len({identity for found in ids for identity in found})
    for own, text in zip(ids, drawings.values(), strict=True):
        assert set(re.findall(r'href="#([^"]*)"', text)) == set(own)
        assert re.findall(r"https?:|url\(", text) == []


def test_a_drawing_is_small(drawings: dict[str, str]) -> None:
    assert {name: len(text) for name, text in drawings.items() if len(text) > 24_000} == {}


@pytest.mark.parametrize("name", ["x" * 400, "Prüfung", "缺陷", "a\nb\x00", "$x^2$", "<b>&amp;"])
def test_any_class_can_be_named(name: str) -> None:
    curves = {name: (np.array([0, 1.0]), np.array([0, 1.0]))}
    text = inline_svg(name.replace("\x00", ""), lambda figure: plots.roc(figure, curves, name))
    shown = [element.text or "" for element in ElementTree.fromstring(text).iter("text")]
    assert any(letters[:2] == name[:2] for letters in shown) or "\\u000a" in "".join(shown)
    assert plots.png(lambda figure: plots.roc(figure, curves)).startswith(b"\x89PNG")
