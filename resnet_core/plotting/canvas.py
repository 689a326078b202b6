"""Drawing pictures with text: what the sheets of images are made with."""

import io
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from resnet_core.images.preprocessing import Gray

# Sides in pixels: what is smaller is enlarged, so that a browser need not blur it.
SMALLEST, LARGEST = 160, 256
# Two bright colours, for images may be dark or light.
_COOL, _HOT, _LINE = (np.array(c, dtype=np.float32) for c in ((255, 190, 40), (235, 30, 60), (255, 255, 255)))
_OPACITY = 0.75


def picture(pixels: Gray) -> Image.Image:
    """uint8 [H, W] in gray, its longer side between SMALLEST and LARGEST pixels: of a small one each pixel
    is a square."""
    image = Image.fromarray(pixels)
    longest = max(image.size)
    if longest < SMALLEST:
        factor = -(-SMALLEST // longest)
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    scale = min(1.0, LARGEST / longest)
    fitted = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(fitted, Image.Resampling.LANCZOS) if scale < 1 else image


def heated(pixels: Gray, heat: NDArray[np.float32]) -> Image.Image:
    """The picture of uint8 [H, W] with float32 [H, W], 0 to 1, over it: the more heat, the more colour, and
    a line around all above half."""
    image = picture(pixels)
    smooth = Image.fromarray(heat).resize(image.size, Image.Resampling.BICUBIC)
    h = np.clip(np.asarray(smooth), 0, 1)[..., None]
    colour = _COOL + h * (_HOT - _COOL)
    opacity = _OPACITY * h
    mixed = np.asarray(image, dtype=np.float32)[..., None] * (1 - opacity) + colour * opacity
    mixed[_outline(h[..., 0] > 0.5)] = _LINE
    return Image.fromarray((mixed + 0.5).astype(np.uint8))


def _outline(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The places, bool [H, W], that are inside and touch one that is not; the picture's border is none."""
    padded = np.pad(inside, 1, mode="edge")
    around = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~around


def webp(image: Image.Image, *, lossless: bool = False) -> bytes:
    """As a file. Without loss squares keep their edges, and take less room than with it."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=lossless, quality=82, method=4)
    return buffer.getvalue()


_Shade = int | tuple[int, int, int]

PAPER, INK, GRAY, FRAME = 255, 31, 107, 200

# DejaVu comes with matplotlib; Pillow's own font has ASCII only.
_FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def shade(sheet: Image.Image, level: int) -> _Shade:
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
    return frozenset(FT2Font(str(_FONT)).get_charmap())


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(_FONT), size)


def write(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, *, width: int, fill: _Shade = INK
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
