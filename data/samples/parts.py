"""Parts: 300 drawn pieces of brushed metal, 75 of them with a scratch, and 20 new ones without a label.

`labelled/` has a folder per class. `new/` holds 19 images and a file that was cut off while it was copied.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

LICENCE = "CC0 1.0, drawn by Grayline"
COUNT, NEW, SIDE = 300, 20, 48


def make(to: Path) -> int:
    """Write the images; returns their number."""
    rng = np.random.default_rng(0)
    for number in range(COUNT + NEW):
        scratched = number % 4 == 0
        folder = to / "new" if number >= COUNT else to / "labelled" / ("scratch" if scratched else "good")
        folder.mkdir(parents=True, exist_ok=True)
        draw(rng, scratched).save(folder / f"{number:03}.png")
    cut = to / "new" / f"{COUNT + NEW - 1:03}.png"
    cut.write_bytes(cut.read_bytes()[:600])
    return COUNT + NEW


def draw(rng: np.random.Generator, scratched: bool) -> Image.Image:
    """Draw a part: brushed lines, uneven light, a stamped hole. A scratch is thin, short, brighter or darker."""
    down, across = np.mgrid[:SIDE, :SIDE] / SIDE
    lines = rng.normal(0, 9, (SIDE, 1)) + rng.normal(0, 4, (SIDE, SIDE))
    light = rng.uniform(110, 150) + 40 * (rng.uniform(-1, 1) * down + rng.uniform(-1, 1) * across)
    image = Image.fromarray(np.clip(light + lines, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    x, y = rng.uniform(14, 34, 2)
    pen.ellipse((x - 5, y - 5, x + 5, y + 5), fill=int(rng.integers(40, 70)))
    if scratched:
        (x, y), angle, length = rng.uniform(10, 38, 2), rng.uniform(0, np.pi), rng.uniform(12, 26)
        step = length / 2 * np.array([np.cos(angle), np.sin(angle)])
        level = int(light.mean() + rng.choice([-1, 1]) * rng.uniform(45, 75))
        pen.line((x - step[0], y - step[1], x + step[0], y + step[1]), fill=level, width=int(rng.integers(1, 3)))
    return image.filter(ImageFilter.GaussianBlur(0.6))
