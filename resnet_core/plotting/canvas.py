"""Drawing pictures with text: what the sheets of images are made with."""

import io
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

Shade = int | tuple[int, int, int]

PAPER, INK, GRAY, FRAME = 255, 31, 107, 200

# DejaVu comes with matplotlib; Pillow's own font has ASCII only.
FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def shade(sheet: Image.Image, level: int) -> Shade:
    """A gray level as the sheet's mode wants it."""
    return level if sheet.mode == "L" else (level, level, level)


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


def write(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, *, width: int, fill: Shade = INK
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


def paste(sheet: Image.Image, image: Image.Image, corner: tuple[int, int], cell: int) -> None:
    """Into the middle of a framed square, the aspect ratio kept; a tiny image keeps its hard pixels."""
    scale = cell / max(image.size)
    if scale >= 3:
        image = image.resize((image.width * int(scale), image.height * int(scale)), Image.Resampling.NEAREST)
    else:
        fitted = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(fitted, Image.Resampling.LANCZOS)
    x, y = corner
    sheet.paste(image, (x + (cell - image.width) // 2, y + (cell - image.height) // 2))
    frame = (x - 1, y - 1, x + cell, y + cell)
    ImageDraw.Draw(sheet).rectangle(frame, outline=shade(sheet, FRAME))


def png(sheet: Image.Image) -> bytes:
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()
