"""Pictures of the images themselves: samples of each class, and what stands under two labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from resnet_core.images.preprocessing import Gray
from resnet_core.plotting.canvas import FRAME, GRAY, INK, PAPER, paste, png, write

SAMPLES = 16  # a class
CLASSES = 50
PAIRS = 20
_ACROSS = 8  # thumbnails in a line

CELL, GAP, MARGIN = 72, 6, 16  # pixels
WIDTH = 2 * MARGIN + _ACROSS * CELL + (_ACROSS - 1) * GAP
_PAIR_CELL = 200
_HALF = (WIDTH - 3 * MARGIN) // 2


@dataclass(frozen=True)
class ConflictPair:
    """The same image twice, under two labels; pixels are uint8 [H, W]."""

    pixels_a: Gray
    label_a: str
    uri_a: str
    pixels_b: Gray
    label_b: str
    uri_b: str


def contact_sheet(images_by_class: Mapping[str, Sequence[Gray]], title: str) -> bytes:
    """A PNG with up to SAMPLES uint8 [H, W] of each of up to CLASSES classes, under the class's name."""
    shown = dict(list(images_by_class.items())[:CLASSES])
    lines = {name: -(-min(len(images), SAMPLES) // _ACROSS) for name, images in shown.items()}
    heading, row = 30, CELL + GAP
    cut = len(images_by_class) - len(shown)
    height = MARGIN + 34 + sum(heading + count * row for count in lines.values()) + (26 if cut else 0) + MARGIN
    sheet, draw = _paper(height)
    _text(draw, (MARGIN, MARGIN), title, 18)
    y = MARGIN + 34
    for name, images in shown.items():
        _text(draw, (MARGIN, y + 7), name if images else f"{name} (no samples)", 14)
        y += heading
        for place, pixels in enumerate(images[:SAMPLES]):
            line, column = divmod(place, _ACROSS)
            paste(sheet, Image.fromarray(pixels), (MARGIN + column * (CELL + GAP), y + line * row), CELL)
        y += lines[name] * row
    if cut:
        _text(draw, (MARGIN, y + 6), f"and {cut:,} classes more", 13, GRAY)
    return png(sheet)


def side_by_side(pairs: Sequence[ConflictPair]) -> bytes:
    """A PNG with the two images of each of up to PAIRS pairs next to each other, each with its label
    and where it lies."""
    shown = pairs[:PAIRS]
    cut = len(pairs) - len(shown)
    row = _PAIR_CELL + 64
    sheet, draw = _paper(MARGIN + len(shown) * row + (26 if cut else 0) + MARGIN)
    y = MARGIN
    for pair in shown:
        sides = ((pair.pixels_a, pair.label_a, pair.uri_a), (pair.pixels_b, pair.label_b, pair.uri_b))
        for x, (pixels, label, uri) in zip((MARGIN, 2 * MARGIN + _HALF), sides, strict=True):
            _text(draw, (x, y), label, 15, width=_HALF)
            paste(sheet, Image.fromarray(pixels), (x, y + 24), _PAIR_CELL)
            _text(draw, (x, y + 28 + _PAIR_CELL), uri, 11, GRAY, _HALF)
        y += row
        if pair is not shown[-1] or cut:
            draw.line((MARGIN, y - 10, WIDTH - MARGIN, y - 10), fill=FRAME)
    if cut:
        _text(draw, (MARGIN, y), f"and {cut:,} pairs more", 13, GRAY)
    return png(sheet)


def _paper(height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    sheet = Image.new("L", (WIDTH, height), PAPER)
    return sheet, ImageDraw.Draw(sheet)


def _text(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    text: str,
    size: int,
    fill: int = INK,
    width: int = WIDTH - 2 * MARGIN,
) -> None:
    write(draw, at, text, size, width=width, fill=fill)
