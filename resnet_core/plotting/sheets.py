"""Sheets: PNG pictures of many images, with text.

function        shows                                                              read by
contact_sheet   samples of every class                                             data checks
conflict_sheet  images that occur under two labels                                 data checks
gallery_sheet   errors with heat map and nearest training images, and samples      explanation
label_sheet     training images whose labels are probably wrong                    label issues
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_core.errors import plural
from resnet_core.explain.gallery import Kind
from resnet_core.images.preprocessing import Gray
from resnet_core.plotting.canvas import GRAY, Canvas, heated, picture

MARGIN = 20  # pixels, as all lengths here

# Contact sheet: at most so many images of a class, and so many classes.
SAMPLES, CLASSES = 16, 50
CELL, GAP, _ACROSS = 72, 6, 8
WIDTH = 2 * MARGIN + _ACROSS * (CELL + GAP) - GAP

# Conflicts.
PAIRS = 20
_CONFLICT_CELL = 200
_HALF = (WIDTH - 3 * MARGIN) // 2

# Suspect labels.
SUSPECTS = 48
_SUSPECT_CELL, _SUSPECT_GAP, _SUSPECT_TEXT, _SUSPECTS_ACROSS = 152, 14, 76, 6
_SUSPECT_WIDTH = 2 * MARGIN + _SUSPECTS_ACROSS * (_SUSPECT_CELL + _SUSPECT_GAP) - _SUSPECT_GAP

# Gallery: a row for an error, a card for any other image.
NEIGHBOURS = 5
_LARGE, _NEIGHBOUR, _SPACE, _TEXT = 150, 96, 8, 200
_GALLERY_WIDTH = 2 * MARGIN + 2 * _LARGE + _TEXT + NEIGHBOURS * (_NEIGHBOUR + _SPACE) + 3 * _SPACE
_CARDS_ACROSS = 4
_CARD = (_GALLERY_WIDTH - 2 * MARGIN + _SPACE) // _CARDS_ACROSS
_CARD_CELL = (_CARD - 2 * _SPACE) // 2
_TITLES: dict[Kind, str] = {
    "confident error": "The most confident errors",
    "most uncertain": "The most uncertain",
    "sample": "Samples of each class",
}


def _lines(count: int, across: int) -> int:
    return -(-count // across)


def _corners(count: int, across: int, step: tuple[int, int], top: int) -> Iterator[tuple[int, int]]:
    """Yield the top left corner of `count` cells, row by row. step: from one cell to the next, across and down."""
    for number in range(count):
        line, column = divmod(number, across)
        yield MARGIN + column * step[0], top + line * step[1]


def contact_sheet(images_by_class: Mapping[str, Sequence[Gray]], title: str) -> bytes:
    """Draw up to SAMPLES images, uint8 [H, W], of each of up to CLASSES classes under the class's name."""
    shown = {name: images[:SAMPLES] for name, images in list(images_by_class.items())[:CLASSES]}
    heading, row = 30, CELL + GAP
    cut = len(images_by_class) - len(shown)
    rows = sum(heading + row * _lines(len(images), _ACROSS) for images in shown.values())
    canvas = Canvas(WIDTH, MARGIN + 34 + rows + (26 if cut else 0) + MARGIN)
    whole = WIDTH - 2 * MARGIN
    canvas.text((MARGIN, MARGIN), title, 18, width=whole)
    y = MARGIN + 34
    for name, images in shown.items():
        canvas.text((MARGIN, y + 7), name if images else f"{name} (no samples)", 14, width=whole)
        y += heading
        for pixels, corner in zip(images, _corners(len(images), _ACROSS, (row, row), y), strict=True):
            canvas.paste(Image.fromarray(pixels), corner, CELL)
        y += row * _lines(len(images), _ACROSS)
    if cut:
        canvas.text((MARGIN, y + 6), f"and {plural(cut, 'class', 'classes')} more", 13, width=whole, level=GRAY)
    return canvas.png()


@dataclass(frozen=True)
class ConflictPair:
    """Two images that look the same, with a line for each; pixels are uint8 [H, W]."""

    pixels_a: Gray
    label_a: str
    uri_a: str
    pixels_b: Gray
    label_b: str
    uri_b: str


def conflict_sheet(pairs: Sequence[ConflictPair]) -> bytes:
    """Draw the two images of up to PAIRS pairs side by side, with label and URI."""
    shown = pairs[:PAIRS]
    cut = len(pairs) - len(shown)
    row = _CONFLICT_CELL + 64
    canvas = Canvas(WIDTH, MARGIN + len(shown) * row + (26 if cut else 0) + MARGIN)
    y = MARGIN
    for pair in shown:
        sides = ((pair.pixels_a, pair.label_a, pair.uri_a), (pair.pixels_b, pair.label_b, pair.uri_b))
        for x, (pixels, label, uri) in zip((MARGIN, 2 * MARGIN + _HALF), sides, strict=True):
            canvas.text((x, y), label, 15, width=_HALF)
            canvas.paste(Image.fromarray(pixels), (x, y + 24), _CONFLICT_CELL)
            canvas.text((x, y + 28 + _CONFLICT_CELL), uri, 11, width=_HALF, level=GRAY)
        y += row
        if pair is not shown[-1] or cut:
            canvas.line(MARGIN, WIDTH - MARGIN, y - 10)
    if cut:
        canvas.text((MARGIN, y), f"and {cut:,} pairs more", 13, width=WIDTH - 2 * MARGIN, level=GRAY)
    return canvas.png()


@dataclass(frozen=True)
class Suspect:
    """A training image, uint8 [S, S], with its label and the label that is more probable."""

    pixels: Gray
    rank: int
    label: str
    suggested: str
    self_confidence: float
    path: str


def label_sheet(suspects: Sequence[Suspect], title: str, count: int) -> bytes:
    """Draw up to SUSPECTS of `count` images, in the given order."""
    shown = suspects[:SUSPECTS]
    cut = count - len(shown)
    top, step = MARGIN + 66, (_SUSPECT_CELL + _SUSPECT_GAP, _SUSPECT_CELL + _SUSPECT_TEXT)
    height = top + _lines(len(shown), _SUSPECTS_ACROSS) * step[1] + (24 if cut > 0 else 0) + MARGIN
    canvas = Canvas(_SUSPECT_WIDTH, height)
    whole, cell = _SUSPECT_WIDTH - 2 * MARGIN, _SUSPECT_CELL
    canvas.text((MARGIN, MARGIN), title, 20, width=whole)
    note = "In brackets: the probability of the label, by classifiers that were not trained on the image."
    canvas.text((MARGIN, MARGIN + 30), note, 13, width=whole, level=GRAY)
    for suspect, (x, y) in zip(shown, _corners(len(shown), _SUSPECTS_ACROSS, step, top), strict=True):
        canvas.paste(Image.fromarray(suspect.pixels), (x, y), cell)
        label = f"{suspect.rank}. {suspect.label}  ({suspect.self_confidence:.3f})"
        canvas.text((x, y + cell + 5), label, 13, width=cell)
        canvas.text((x, y + cell + 24), f"rather {suspect.suggested}", 13, width=cell)
        canvas.text((x, y + cell + 43), suspect.path, 10, width=cell, level=GRAY)
    if cut > 0:
        canvas.text((MARGIN, height - MARGIN - 18), f"and {cut:,} more", 13, width=whole, level=GRAY)
    return canvas.png()


@dataclass(frozen=True)
class NeighbourImage:
    """A training image that the classifier finds similar; pixels are uint8 [S, S]."""

    pixels: Gray
    label: str
    similarity: float


@dataclass(frozen=True)
class GalleryImage:
    """A held-out image, uint8 [S, S], with its heat map, float32 [S, S] of 0 to 1."""

    kind: Kind
    pixels: Gray
    heat: NDArray[np.float32]
    label: str
    predicted: str
    confidence: float
    uri: str
    neighbours: tuple[NeighbourImage, ...] = ()


def gallery_sheet(images: Sequence[GalleryImage], title: str, note: str) -> bytes:
    """Draw errors with heat map and neighbours in rows, other images with heat map as cards."""
    groups = {kind: [image for image in images if image.kind == kind] for kind in _TITLES}
    heights = {kind: _group_height(kind, len(group)) for kind, group in groups.items()}
    canvas = Canvas(_GALLERY_WIDTH, 2 * MARGIN + 52 + sum(heights.values()), colour=True)
    whole = _GALLERY_WIDTH - 2 * MARGIN
    canvas.text((MARGIN, MARGIN), title, 20, width=whole)
    canvas.text((MARGIN, MARGIN + 28), note, 12, width=whole, level=GRAY)
    y = MARGIN + 52
    for kind, group in groups.items():
        if group:
            canvas.text((MARGIN, y + 12), _TITLES[kind], 16, width=whole)
        draw, across, step = _layout(kind)
        for image, corner in zip(group, _corners(len(group), across, step, y + 42), strict=True):
            draw(canvas, image, corner)
        y += heights[kind]
    return canvas.png()


_Draw = Callable[[Canvas, GalleryImage, tuple[int, int]], None]


def _layout(kind: Kind) -> tuple[_Draw, int, tuple[int, int]]:
    """Return the drawing function of this kind, the images per row, and the step from image to image."""
    if kind == "confident error":
        return _error, 1, (0, _LARGE + 14)
    return _card, _CARDS_ACROSS, (_CARD, _CARD_CELL + 46)


def _group_height(kind: Kind, count: int) -> int:
    """Return the height of a group with its title, in pixels."""
    _, across, step = _layout(kind)
    return 42 + _lines(count, across) * step[1] if count else 0


def _error(canvas: Canvas, image: GalleryImage, corner: tuple[int, int]) -> None:
    """Draw a row: image, heat map, labels, neighbours."""
    x, y = corner
    canvas.paste(picture(image.pixels), (x, y), _LARGE)
    canvas.paste(heated(image.pixels, image.heat), (x + _LARGE + _SPACE, y), _LARGE)
    x += 2 * (_LARGE + _SPACE) + _SPACE
    width = _TEXT - _SPACE
    canvas.text((x, y + 8), f"labelled {image.label}", 14, width=width)
    canvas.text((x, y + 34), f"predicted {image.predicted}", 14, width=width)
    canvas.text((x, y + 60), f"confidence {image.confidence:.3f}", 13, width=width)
    canvas.text((x, y + 86), image.uri, 11, width=width, level=GRAY)
    for number, neighbour in enumerate(image.neighbours[:NEIGHBOURS]):
        left = x + _TEXT + number * (_NEIGHBOUR + _SPACE)
        canvas.paste(picture(neighbour.pixels), (left, y + 8), _NEIGHBOUR)
        canvas.text((left, y + _NEIGHBOUR + 13), neighbour.label, 12, width=_NEIGHBOUR)
        similarity = f"{neighbour.similarity:.2f} alike"
        canvas.text((left, y + _NEIGHBOUR + 30), similarity, 11, width=_NEIGHBOUR, level=GRAY)
    canvas.line(corner[0], _GALLERY_WIDTH - MARGIN, y + _LARGE + 7)


def _card(canvas: Canvas, image: GalleryImage, corner: tuple[int, int]) -> None:
    """Draw image and heat map side by side, with two lines below."""
    x, y = corner
    canvas.paste(picture(image.pixels), (x, y), _CARD_CELL)
    canvas.paste(heated(image.pixels, image.heat), (x + _CARD_CELL + 2, y), _CARD_CELL)
    outcome = "predicted so" if image.label == image.predicted else f"predicted {image.predicted}"
    canvas.text((x, y + _CARD_CELL + 4), f"{image.label}, {outcome}", 12, width=2 * _CARD_CELL)
    where = f"{image.confidence:.3f}  {image.uri}"
    canvas.text((x, y + _CARD_CELL + 21), where, 11, width=2 * _CARD_CELL, level=GRAY)
