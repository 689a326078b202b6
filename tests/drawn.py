"""Data sets that are drawn: cards by deck, characters by family, a part on a jig, a form's pages.

Each yields (class, group, pixels uint8 [H, W]). They are hard to split: groups look alike, or everything does.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Picture = tuple[str, str, np.ndarray]

SUITS = {"clubs": "\u2663", "diamonds": "\u2666", "hearts": "\u2665", "spades": "\u2660"}
RANKS = ("A", *map(str, range(2, 11)), "J", "Q", "K")
LETTERS = "abdefghkmnrstxz"


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"), size)


def cards(decks: int = 30, ranks: int = 13) -> Iterator[Picture]:
    """Yield 4 suits of every deck. A deck has its own paper, font, sizes and lines; some differ in little else."""
    for deck in range(decks):
        rng = np.random.default_rng(deck // 2)  # two decks of a maker share the drawing
        font = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono")[int(rng.integers(4))]
        corner, middle = int(rng.integers(14, 20)), int(rng.integers(40, 58))
        paper = int(rng.integers(225, 256)) - 6 * (deck % 2)
        for suit, sign in SUITS.items():
            for rank in RANKS[:ranks]:
                image = Image.new("L", (96, 136), paper)
                draw = ImageDraw.Draw(image)
                draw.rounded_rectangle((2, 2, 93, 133), 8, outline=40, width=1 + deck % 2)
                draw.text((8, 6), rank, 10, _font(font, corner))
                draw.text((8, 8 + corner), sign, 10, _font("DejaVuSans", corner))
                draw.text((48, 72), sign, 10, _font("DejaVuSans", middle), anchor="mm")
                yield suit, f"deck{deck:02}", np.asarray(image)


def characters(families: int = 40) -> Iterator[Picture]:
    """Yield letters of font families: the few fonts at hand, made bolder, narrower and slanted."""
    fonts = (
        "DejaVuSans",
        "DejaVuSerif",
        "DejaVuSansMono",
        "STIXGeneral",
        "cmr10",
        "cmss10",
        "cmtt10",
        "DejaVuSans-Bold",
    )
    for family in range(families):
        rng = np.random.default_rng(family)
        font, slant, narrow = fonts[family % len(fonts)], rng.uniform(-0.2, 0.2), rng.uniform(0.8, 1.2)
        for letter in LETTERS:
            image = Image.new("L", (48, 48), 255)
            ImageDraw.Draw(image).text(
                (24, 24), letter, 0, _font(font, int(rng.integers(28, 36))), anchor="mm", stroke_width=family // 8 % 2
            )
            turned = (narrow, slant, 24 - 24 * narrow - 24 * slant, 0, 1, 0)
            yield (
                letter,
                f"family{family:02}",
                np.asarray(image.transform((48, 48), Image.Transform.AFFINE, turned, fillcolor=255)),
            )


def jig(count: int = 300, share: float = 0.1, seed: int = 9) -> Iterator[Picture]:
    """Yield one part under a fixed camera: shifted by 2 pixels, noisy, light or dark. Some have a scratch or a spot."""
    from skimage import data, draw

    rng = np.random.default_rng(seed)
    part = data.coins()[20:180, 20:180]
    for number in range(count):
        down, right = rng.integers(0, 5, 2)
        levels = part[down + 5 : down + 145, right + 5 : right + 145] * rng.uniform(0.93, 1.07)
        pixels = np.clip(levels + rng.normal(0, 4, (140, 140)), 0, 255).astype(np.uint8)
        defect = number < count * share
        if defect:
            row, column = (int(place) for place in rng.integers(20, 120, 2))
            if rng.random() < 0.5:
                rows, columns = draw.line(
                    row, column, row + int(rng.integers(8, 19)), column + int(rng.integers(8, 19))
                )
                pixels[rows.clip(0, 139), columns.clip(0, 139)] = 255
            else:
                pixels[draw.disk((row, column), int(rng.integers(3, 6)), shape=pixels.shape)] = 20
        yield "defect" if defect else "ok", "", pixels


def forms(count: int = 300) -> Iterator[Picture]:
    """Yield pages of one form, filled in differently, and shifted as by a scanner."""
    rng = np.random.default_rng(3)
    font = _font("DejaVuSans", 14)
    for number in range(count):
        page = Image.new("L", (420, 594), 250)
        draw = ImageDraw.Draw(page)
        draw.rectangle((20, 20, 400, 80), outline=0, width=2)
        draw.text((30, 40), "APPLICATION FORM 7-B", 0, font)
        for line, y in enumerate(range(100, 560, 40)):
            draw.line((20, y, 400, y), 80)
            draw.text((30, y - 22), ("Name", "Street", "City", "Date", "Amount", "Ref", "Sign")[line % 7], 0, font)
            text = "".join(chr(97 + code) for code in rng.integers(0, 26, int(rng.integers(3, 18))))
            draw.text((150, y - 22), text, 30, font)
        shifted = np.roll(np.asarray(page) + rng.normal(0, 3, (594, 420)), tuple(rng.integers(-4, 5, 2)), (0, 1))
        yield "ab"[number % 2], "", np.clip(shifted, 0, 255).astype(np.uint8)
