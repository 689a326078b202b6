"""The images whose labels are probably wrong, as one picture to look through."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from resnet_core.images.preprocessing import Gray
from resnet_core.plotting.canvas import GRAY, PAPER, paste, png, write

SHOWN = 48
_ACROSS = 6
CELL, GAP, MARGIN, _TEXT = 152, 14, 20, 76  # pixels
WIDTH = 2 * MARGIN + _ACROSS * CELL + (_ACROSS - 1) * GAP


@dataclass(frozen=True)
class Suspect:
    """An image, uint8 [S, S], with its label and the one that it probably ought to have."""

    pixels: Gray
    rank: int
    label: str
    suggested: str
    self_confidence: float
    path: str


def label_sheet(suspects: Sequence[Suspect], title: str, count: int) -> bytes:
    """A PNG of up to SHOWN of `count` images, the worst first."""
    shown = suspects[:SHOWN]
    lines = -(-len(shown) // _ACROSS)
    height = 2 * MARGIN + 66 + lines * (CELL + _TEXT) + (24 if count > len(shown) else 0)
    sheet = Image.new("L", (WIDTH, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    whole = WIDTH - 2 * MARGIN
    write(draw, (MARGIN, MARGIN), title, 20, width=whole)
    note = "The number: what classifiers that have not learned from the image give its label."
    write(draw, (MARGIN, MARGIN + 30), note, 13, width=whole, fill=GRAY)
    for place, one in enumerate(shown):
        line, column = divmod(place, _ACROSS)
        x, y = MARGIN + column * (CELL + GAP), MARGIN + 66 + line * (CELL + _TEXT)
        paste(sheet, Image.fromarray(one.pixels), (x, y), CELL)
        write(draw, (x, y + CELL + 5), f"{one.rank}. {one.label}  ({one.self_confidence:.3f})", 13, width=CELL)
        write(draw, (x, y + CELL + 24), f"rather {one.suggested}", 13, width=CELL)
        write(draw, (x, y + CELL + 43), one.path, 10, width=CELL, fill=GRAY)
    if count > len(shown):
        write(draw, (MARGIN, height - MARGIN - 18), f"and {count - len(shown):,} more", 13, width=whole, fill=GRAY)
    return png(sheet)
