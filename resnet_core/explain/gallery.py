"""Which held-out images a person should look at, and how a picture of one is made."""

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_core.images.preprocessing import Gray

Kind = Literal["confident error", "most uncertain", "sample"]

ERRORS = 12
UNCERTAIN = 12
SAMPLES = 4  # a class
CLASSES = 12

# Sides in pixels: what is smaller is enlarged, so that a browser need not blur it.
SMALLEST, LARGEST = 160, 256
# Two bright colours, for images may be dark or light.
COOL, HOT, LINE = (np.array(c, dtype=np.float32) for c in ((255, 190, 40), (235, 30, 60), (255, 255, 255)))
OPACITY = 0.75


@dataclass(frozen=True)
class Chosen:
    """A held-out image by its row among the predictions."""

    kind: Kind
    row: int


def choose(
    image_ids: list[str], labels: NDArray[np.int64], predicted: NDArray[np.int64], confidence: NDArray[np.float32]
) -> list[Chosen]:
    """The most confident errors, the least confident of the rest, and some of each of up to CLASSES
    classes; no image twice.

    labels, predicted: int64 [N], places in the class names. A sample is of those whose ids, digests of
    their bytes, are lowest: as good as drawn, and the same ones every night.
    """
    by_confidence = np.lexsort((np.array(image_ids), confidence))
    errors = [int(row) for row in by_confidence[::-1] if labels[row] != predicted[row]][:ERRORS]
    taken = set(errors)
    uncertain = [int(row) for row in by_confidence if row not in taken][:UNCERTAIN]
    taken |= set(uncertain)
    found = [Chosen("confident error", row) for row in errors]
    found += [Chosen("most uncertain", row) for row in uncertain]
    order = np.argsort(np.array(image_ids))
    for label in np.unique(labels)[:CLASSES]:
        rows = [int(row) for row in order if labels[row] == label and row not in taken][:SAMPLES]
        found += [Chosen("sample", row) for row in rows]
    return found


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
    colour = COOL + h * (HOT - COOL)
    opacity = OPACITY * h
    mixed = np.asarray(image, dtype=np.float32)[..., None] * (1 - opacity) + colour * opacity
    mixed[outline(h[..., 0] > 0.5)] = LINE
    return Image.fromarray((mixed + 0.5).astype(np.uint8))


def outline(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The places, bool [H, W], that are inside and touch one that is not; the picture's border is none."""
    padded = np.pad(inside, 1, mode="edge")
    around = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~around


def webp(image: Image.Image, *, lossless: bool = False) -> bytes:
    """As a file. Without loss squares keep their edges, and take less room than with it."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=lossless, quality=82, method=4)
    return buffer.getvalue()
