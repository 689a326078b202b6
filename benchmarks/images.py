"""The real images that are measured on: scikit-image's photographs and ELPV's solar cells, both from
installed packages."""

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import simplejpeg
import skimage.data
from numpy.typing import NDArray

QUALITY = 90
PHOTOGRAPHS = 3


def photographs(each: int, width: int = 1024, height: int = 768) -> Iterator[bytes]:
    """Yield JPEG files, 4:2:0, `each` different crops of every photograph.

    The photographs are smaller than the files, so they are mirrored beyond their borders. Enlarging would smooth them
    and make them cheaper to decode than a camera's.
    """
    rng = np.random.default_rng(0)
    for photograph in range(PHOTOGRAPHS):
        for _ in range(each):
            yield jpeg(crop(photograph, rng, width, height))


def scenes(count: int, width: int = 1024, height: int = 768, quality: int = QUALITY) -> Iterator[bytes]:
    """Yield JPEG files like `photographs`, blends of crops of two of them.

    As in a collection, no two look the same. Thousands of crops of three photographs would be near-duplicates.
    """
    rng = np.random.default_rng(1)
    for _ in range(count):
        one, other = rng.permutation(PHOTOGRAPHS)[:2]
        share = np.uint16(rng.integers(90, 167))  # of 256
        blend = share * crop(one, rng, width, height) + (256 - share) * crop(other, rng, width, height)
        yield jpeg((blend >> 8).astype(np.uint8), quality)


def crop(photograph: int, rng: np.random.Generator, width: int, height: int) -> NDArray[np.uint8]:
    """uint8 [height, width, 3] from anywhere in the photograph, mirrored beyond its borders."""
    large = beyond_its_borders(photograph, width, height)
    top, left = rng.integers(large.shape[0] - height), rng.integers(large.shape[1] - width)
    return large[top : top + height, left : left + width]


@cache
def beyond_its_borders(photograph: int, width: int, height: int) -> NDArray[np.uint8]:
    pixels = (skimage.data.astronaut, skimage.data.coffee, skimage.data.rocket)[photograph]()
    return np.pad(pixels, ((0, height), (0, width), (0, 0)), mode="symmetric")


def jpeg(rgb: NDArray[np.uint8], quality: int = QUALITY) -> bytes:
    return simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), quality, "RGB", "420")


def cells(count: int) -> list[Path]:
    """The first of ELPV's 2,624 solar cells: gray PNG files of 300 x 300 pixels."""
    folder = Path(str(files("elpv_dataset"))) / "data" / "images"
    return sorted(folder.glob("*.png"))[:count]
