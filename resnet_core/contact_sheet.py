"""Pictures of the images themselves: samples of each class, and what stands under two labels."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from resnet_core.preprocessing import Gray

SAMPLES = 16  # a class
CLASSES = 50
PAIRS = 20
ACROSS = 8  # thumbnails in a line

CELL, GAP, MARGIN = 72, 6, 16  # pixels
WIDTH = 2 * MARGIN + ACROSS * CELL + (ACROSS - 1) * GAP
PAIR_CELL = 200
HALF = (WIDTH - 3 * MARGIN) // 2
PAPER, INK, GRAY, FRAME = 255, 31, 107, 200

# DejaVu comes with matplotlib; Pillow's own font has ASCII only.
FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


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
    lines = {name: -(-min(len(images), SAMPLES) // ACROSS) for name, images in shown.items()}
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
            line, column = divmod(place, ACROSS)
            _paste(sheet, draw, pixels, (MARGIN + column * (CELL + GAP), y + line * row), CELL)
        y += lines[name] * row
    if cut:
        _text(draw, (MARGIN, y + 6), f"and {cut:,} classes more", 13, GRAY)
    return _png(sheet)


def side_by_side(pairs: Sequence[ConflictPair]) -> bytes:
    """A PNG with the two images of each of up to PAIRS pairs next to each other, each with its label
    and where it lies."""
    shown = pairs[:PAIRS]
    cut = len(pairs) - len(shown)
    row = PAIR_CELL + 64
    sheet, draw = _paper(MARGIN + len(shown) * row + (26 if cut else 0) + MARGIN)
    y = MARGIN
    for pair in shown:
        sides = ((pair.pixels_a, pair.label_a, pair.uri_a), (pair.pixels_b, pair.label_b, pair.uri_b))
        for x, (pixels, label, uri) in zip((MARGIN, 2 * MARGIN + HALF), sides, strict=True):
            _text(draw, (x, y), label, 15, width=HALF)
            _paste(sheet, draw, pixels, (x, y + 24), PAIR_CELL)
            _text(draw, (x, y + 28 + PAIR_CELL), uri, 11, GRAY, HALF)
        y += row
        if pair is not shown[-1] or cut:
            draw.line((MARGIN, y - 10, WIDTH - MARGIN, y - 10), fill=FRAME)
    if cut:
        _text(draw, (MARGIN, y), f"and {cut:,} pairs more", 13, GRAY)
    return _png(sheet)


def smaller(png: bytes, quality: int = 80) -> bytes:
    """The same picture as lossy WebP, for pages that carry it inside."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()


def drawable(text: str) -> str:
    """Characters that the font lacks, and control characters, as their code: \\u7f3a."""
    known = _characters()
    return "".join(letter if ord(letter) in known and letter.isprintable() else _code(letter) for letter in text)


def _code(letter: str) -> str:
    return f"\\u{ord(letter):04x}" if ord(letter) < 0x10000 else f"\\U{ord(letter):08x}"


@cache
def _characters() -> frozenset[int]:
    return frozenset(FT2Font(str(FONT)).get_charmap())


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(FONT), size)


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
    """One line; what is too long loses its middle, as the end of a path tells most."""
    font, shown = _font(size), drawable(text)
    kept = len(shown)
    while font.getlength(shown) > width:
        kept -= max(1, kept // 20)
        head = kept // 3
        whole = drawable(text)
        shown = f"{whole[:head]}…{whole[len(whole) - (kept - head) :]}"
    draw.text(at, shown, fill=fill, font=font)


def _paste(sheet: Image.Image, draw: ImageDraw.ImageDraw, pixels: Gray, corner: tuple[int, int], cell: int) -> None:
    """Into the middle of a framed square, the aspect ratio kept; a tiny image keeps its hard pixels."""
    image = Image.fromarray(pixels)
    scale = cell / max(image.size)
    if scale >= 3:
        image = image.resize((image.width * int(scale), image.height * int(scale)), Image.Resampling.NEAREST)
    else:
        fitted = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(fitted, Image.Resampling.LANCZOS)
    x, y = corner
    sheet.paste(image, (x + (cell - image.width) // 2, y + (cell - image.height) // 2))
    draw.rectangle((x - 1, y - 1, x + cell, y + cell), outline=FRAME)


def _png(sheet: Image.Image) -> bytes:
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()
