"""Canvas: pictures of images with text, from which the sheets are made."""

import io
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from resnet_core.images.preprocessing import Gray

WHITE, INK, GRAY, _FRAME = 255, 31, 107, 200  # gray levels

# Longer side of a picture, in pixels: a smaller image is enlarged here, because a browser would blur it.
SMALLEST, LARGEST = 160, 256
# Two bright colours, visible on dark and on light images.
_COOL, _HOT, _LINE = (np.array(c, dtype=np.float32) for c in ((255, 190, 40), (235, 30, 60), (255, 255, 255)))
_OPACITY = 0.75

# DejaVu comes with matplotlib; Pillow's own font has ASCII only.
_FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


class Canvas:
    """A white sheet of `width` x `height` pixels, gray or in colour. Positions are (x, y) in pixels from the top left.

    Levels are gray levels, 0 to 255.
    """

    def __init__(self, width: int, height: int, *, colour: bool = False) -> None:
        self._image = Image.new("RGB" if colour else "L", (width, height), (WHITE,) * 3 if colour else WHITE)
        self._draw = ImageDraw.Draw(self._image)

    def _fill(self, level: int) -> int | tuple[int, int, int]:
        return level if self._image.mode == "L" else (level, level, level)

    def text(self, at: tuple[int, int], text: str, size: int, *, width: int, level: int = INK) -> None:
        """Write one line, shortened to `width` pixels in its middle: the end of a path tells most."""
        font, whole = _font(size), drawable(text)
        shown, kept = whole, len(whole)
        while font.getlength(shown) > width:
            kept -= max(1, kept // 20)
            head = kept // 3
            shown = f"{whole[:head]}…{whole[len(whole) - (kept - head) :]}"
        self._draw.text(at, shown, fill=self._fill(level), font=font)

    def paste(self, image: Image.Image, corner: tuple[int, int], cell: int) -> None:
        """Paste an image into the middle of a framed square of `cell` pixels, at its own aspect ratio.

        A tiny image is enlarged by a whole factor, so that its pixels stay sharp.
        """
        scale = cell / max(image.size)
        image = _enlarged(image, int(scale)) if scale >= 3 else _scaled(image, scale)
        x, y = corner
        place = (x + (cell - image.width) // 2, y + (cell - image.height) // 2)
        self._image.paste(image.convert(self._image.mode), place)
        self._draw.rectangle((x - 1, y - 1, x + cell, y + cell), outline=self._fill(_FRAME))

    def line(self, left: int, right: int, y: int) -> None:
        """Draw a thin horizontal line."""
        self._draw.line((left, y, right, y), fill=self._fill(_FRAME))

    def png(self) -> bytes:
        buffer = io.BytesIO()
        self._image.save(buffer, "PNG")
        return buffer.getvalue()


def picture(pixels: Gray) -> Image.Image:
    """Return uint8 [H, W] as a gray image whose longer side is SMALLEST to LARGEST pixels."""
    image = Image.fromarray(pixels)
    longest = max(image.size)
    if longest < SMALLEST:
        return _enlarged(image, -(-SMALLEST // longest))
    return _scaled(image, LARGEST / longest) if longest > LARGEST else image


def heated(pixels: Gray, heat: NDArray[np.float32]) -> Image.Image:
    """Return the picture of uint8 [H, W] under a heat map, float32 [H, W] of 0 to 1.

    Colour grows with heat; a white line surrounds everything above one half.
    """
    image = picture(pixels)
    smooth = np.asarray(Image.fromarray(heat).resize(image.size, Image.Resampling.BICUBIC))
    colour, opacity = colored(smooth)
    mixed = np.asarray(image, dtype=np.float32)[..., None] * (1 - opacity) + colour * opacity
    mixed[_outline(smooth > 0.5)] = _LINE
    return Image.fromarray((mixed + 0.5).astype(np.uint8))


def colored(heat: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return colours [H, W, 3], 0 to 255, and opacity [H, W, 1], 0 to 1, of heat [H, W]."""
    h = np.clip(heat, 0, 1)[..., None]
    return _COOL + h * (_HOT - _COOL), _OPACITY * h


def _outline(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels, bool [H, W], that are inside and touch one outside; the picture's border does not count."""
    padded = np.pad(inside, 1, mode="edge")
    around = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~around


def _enlarged(image: Image.Image, factor: int) -> Image.Image:
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _scaled(image: Image.Image, scale: float) -> Image.Image:
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def webp(image: Image.Image, *, lossless: bool = False, quality: int = 82) -> bytes:
    """Encode as WebP. Lossless keeps the edges of enlarged pixels, and is the smaller file for them."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=lossless, quality=quality, method=4)
    return buffer.getvalue()


def smaller(png: bytes) -> bytes:
    """Return a PNG as lossy WebP, for pages that embed it."""
    with Image.open(io.BytesIO(png)) as image:
        return webp(image, quality=80)


def drawable(text: str) -> str:
    """Replace control characters, and characters that the font lacks, by their code: \\u7f3a."""
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
