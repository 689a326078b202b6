"""The real images that are measured on: scikit-image's photographs and ELPV's solar cells, both from
installed packages."""

import io
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image

QUALITY = 90


def photographs(each: int, width: int = 1024, height: int = 768) -> Iterator[bytes]:
    """JPEG files, 4:2:0, `each` different crops of every photograph.

    The photographs are smaller than that: they go on mirrored beyond their borders, which keeps
    their detail, where enlarging would smooth it and make them cheaper to decode than a camera's.
    """
    rng = np.random.default_rng(0)
    for photograph in known_photographs():
        for _ in range(each):
            yield jpeg(crop(photograph, rng, width, height))


def scenes(count: int, width: int = 1024, height: int = 768, quality: int = QUALITY) -> Iterator[bytes]:
    """JPEG files like `photographs`, each a blend of crops of two of them: as in a collection, no two look
    the same, where thousands of crops of three photographs would be near-duplicates of each other."""
    rng = np.random.default_rng(1)
    known = known_photographs()
    for _ in range(count):
        one, other = rng.permutation(len(known))[:2]
        share = rng.uniform(0.35, 0.65)
        blend = share * crop(known[one], rng, width, height) + (1 - share) * crop(known[other], rng, width, height)
        yield jpeg(blend.astype(np.uint8), quality)


def known_photographs() -> list[NDArray[np.uint8]]:
    return [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.rocket()]


def crop(photograph: NDArray[np.uint8], rng: np.random.Generator, width: int, height: int) -> NDArray[np.uint8]:
    """uint8 [height, width, 3] from anywhere in the photograph, mirrored beyond its borders."""
    rows, columns, _ = photograph.shape
    top, left = rng.integers(rows), rng.integers(columns)
    large = np.pad(photograph, ((0, height), (0, width), (0, 0)), mode="symmetric")
    return large[top : top + height, left : left + width]


def jpeg(rgb: NDArray[np.uint8], quality: int = QUALITY) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return file.getvalue()


def cells(count: int) -> list[Path]:
    """The first of ELPV's 2,624 solar cells: gray PNG files of 300 x 300 pixels."""
    folder = Path(str(files("elpv_dataset"))) / "data" / "images"
    return sorted(folder.glob("*.png"))[:count]
