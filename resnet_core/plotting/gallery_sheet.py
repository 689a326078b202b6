"""The gallery as one picture: what the classifier got wrong, with what it looked at and what it had learned."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from resnet_core.explain.gallery import Kind
from resnet_core.images.preprocessing import Gray
from resnet_core.plotting.canvas import FRAME, GRAY, INK, PAPER, heated, paste, picture, png, shade, write

MARGIN, GAP = 20, 8  # pixels
_LARGE, _NEIGHBOUR = 150, 96
_TEXT = 200  # the width of what stands beside an error
NEIGHBOURS = 5
WIDTH = 2 * MARGIN + 2 * _LARGE + _TEXT + NEIGHBOURS * (_NEIGHBOUR + GAP) + 3 * GAP
_ACROSS = 4  # of what is no error
_CARD = (WIDTH - 2 * MARGIN + GAP) // _ACROSS
SIDE = (_CARD - 2 * GAP) // 2

_TITLES: dict[Kind, str] = {
    "confident error": "The most confident errors",
    "most uncertain": "The most uncertain",
    "sample": "Samples of each class",
}


@dataclass(frozen=True)
class Beside:
    """A training image that looks like an error to the classifier; pixels are uint8 [S, S]."""

    pixels: Gray
    label: str
    similarity: float


@dataclass(frozen=True)
class Shown:
    """A held-out image, uint8 [S, S], with its heat, float32 [S, S] of 0 to 1."""

    kind: Kind
    pixels: Gray
    heat: NDArray[np.float32]
    label: str
    predicted: str
    confidence: float
    uri: str
    neighbours: tuple[Beside, ...] = ()


def gallery_sheet(shown: Sequence[Shown], title: str, note: str) -> bytes:
    """A PNG: each error with its heat and its nearest training images, the others with their heat."""
    groups = {kind: [one for one in shown if one.kind == kind] for kind in _TITLES}
    heights = {kind: _height_of(kind, len(group)) for kind, group in groups.items()}
    sheet = Image.new("RGB", (WIDTH, 2 * MARGIN + 52 + sum(heights.values())), (PAPER,) * 3)
    draw = ImageDraw.Draw(sheet)
    write(draw, (MARGIN, MARGIN), title, 20, width=WIDTH - 2 * MARGIN, fill=shade(sheet, INK))
    write(draw, (MARGIN, MARGIN + 28), note, 12, width=WIDTH - 2 * MARGIN, fill=shade(sheet, GRAY))
    y = MARGIN + 52
    for kind, group in groups.items():
        if not group:
            continue
        write(draw, (MARGIN, y + 12), _TITLES[kind], 16, width=WIDTH - 2 * MARGIN, fill=shade(sheet, INK))
        for place, one in enumerate(group):
            if kind == "confident error":
                error(sheet, one, (MARGIN, y + 42 + place * (_LARGE + 14)))
            else:
                line, column = divmod(place, _ACROSS)
                card(sheet, one, (MARGIN + column * _CARD, y + 42 + line * (SIDE + 46)))
        y += heights[kind]
    return png(sheet)


def _height_of(kind: Kind, count: int) -> int:
    """Of a group with its title, in pixels."""
    if not count:
        return 0
    return 42 + (count * (_LARGE + 14) if kind == "confident error" else -(-count // _ACROSS) * (SIDE + 46))


def error(sheet: Image.Image, one: Shown, corner: tuple[int, int]) -> None:
    """A line: image, heat, what is known of it, and its neighbours."""
    x, y = corner
    draw = ImageDraw.Draw(sheet)
    paste(sheet, picture(one.pixels).convert("RGB"), (x, y), _LARGE)
    paste(sheet, heated(one.pixels, one.heat), (x + _LARGE + GAP, y), _LARGE)
    x += 2 * (_LARGE + GAP) + GAP
    lines = [
        (f"labelled {one.label}", 14, INK),
        (f"predicted {one.predicted}", 14, INK),
        (f"confidence {one.confidence:.3f}", 13, INK),
        (one.uri, 11, GRAY),
    ]
    for number, (text, size, level) in enumerate(lines):
        write(draw, (x, y + 8 + 26 * number), text, size, width=_TEXT - GAP, fill=shade(sheet, level))
    x += _TEXT
    for number, other in enumerate(one.neighbours[:NEIGHBOURS]):
        left = x + number * (_NEIGHBOUR + GAP)
        paste(sheet, picture(other.pixels).convert("RGB"), (left, y + 8), _NEIGHBOUR)
        write(draw, (left, y + _NEIGHBOUR + 13), other.label, 12, width=_NEIGHBOUR, fill=shade(sheet, INK))
        likeness = f"{other.similarity:.2f} alike"
        write(draw, (left, y + _NEIGHBOUR + 30), likeness, 11, width=_NEIGHBOUR, fill=shade(sheet, GRAY))
    draw.line((corner[0], y + _LARGE + 7, WIDTH - MARGIN, y + _LARGE + 7), fill=shade(sheet, FRAME))


def card(sheet: Image.Image, one: Shown, corner: tuple[int, int]) -> None:
    """Image and heat side by side, two lines below."""
    x, y = corner
    draw = ImageDraw.Draw(sheet)
    paste(sheet, picture(one.pixels).convert("RGB"), (x, y), SIDE)
    paste(sheet, heated(one.pixels, one.heat), (x + SIDE + 2, y), SIDE)
    right = one.label == one.predicted
    said = f"{one.label}, predicted so" if right else f"{one.label}, predicted {one.predicted}"
    width = 2 * SIDE
    write(draw, (x, y + SIDE + 4), said, 12, width=width, fill=shade(sheet, INK))
    where = f"{one.confidence:.3f}  {one.uri}"
    write(draw, (x, y + SIDE + 21), where, 11, width=width, fill=shade(sheet, GRAY))
