"""Thumbnails: small pictures of many images, from any source, for pages that embed them."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, ImageOps

from resnet_core.images.decode import FORMATS
from resnet_core.images.limits import Limits
from resnet_core.images.preprocessing import Gray, Preprocessing
from resnet_core.reading.pool import iterate_files
from resnet_core.reading.shard_rows import iterate_rows
from resnet_core.shards import format as shards
from resnet_core.sources import shard_files
from resnet_core.sources.fetch import open_files
from resnet_core.sources.locate import locate
from resnet_core.storage.files import to_path

_Level = TypeVar("_Level", np.uint8, np.float32)
SIDE = 224  # pixels at most, unless the caller has room for more
LEAST = 8
LOSSLESS = 64  # pixels; smaller pictures are enlarged on the page, and show every pixel
QUALITY = 80
_COLORED = ("RGB", "RGBA", "P", "CMYK", "YCbCr")  # Pillow's modes


@dataclass(frozen=True)
class Thumbnail:
    """A WebP of `width` x `height` pixels, or the `reason` for its absence; `image_id` is of the source's bytes."""

    image_id: str | None
    reason: str | None = None
    webp: bytes = b""
    width: int = 0
    height: int = 0


def thumbnails(
    uris: list[str], sides: list[int | None], limits: Limits, most: int = SIDE
) -> Iterator[tuple[int, Thumbnail]]:
    """Yield the number and the picture of each URI, in any order; whole, and in the file's own colors.

    sides: the longer side of each image in pixels, None if unknown; small images are not enlarged. most: the longer
    side of a picture.
    """
    files = locate(uris)
    targets = np.array([min(most, max(LEAST, side or most)) for side in sides], dtype=np.int64)
    is_shard = np.array([kind == shard_files.KIND for kind in files["kind"].to_pylist()], dtype=bool)
    exists = files["size"].is_valid().to_numpy()
    for number in np.flatnonzero(~exists).tolist():
        yield number, Thumbnail(None, "the file is gone")
    for side in np.unique(targets[exists & ~is_shard]).tolist():
        numbers = in_order(files, np.flatnonzero(exists & ~is_shard & (targets == side)))
        settings = Preprocessing(side, "fit", decode="fast", levels="data", decided=None)
        pictures = _numbered(numbers, iterate_files(files.take(numbers), settings, limits), side)
        for (number, picture), data in zip(pictures, open_files(files.take(numbers)), strict=True):
            yield number, _colored(picture, data)
    yield from _of_shards(files, in_order(files, np.flatnonzero(exists & is_shard)))


def in_order(files: pa.Table, numbers: np.ndarray) -> list[int]:
    """Sort by place, so that an archive or table is read from front to back."""
    holders, offsets = files["container"].to_pylist(), files["offset"].to_pylist()
    return sorted(numbers.tolist(), key=lambda number: (holders[number] or "", offsets[number] or 0, number))


def _numbered(numbers: list[int], tables: Iterator[pa.Table], side: int) -> Iterator[tuple[int, Thumbnail]]:
    start = 0
    for table in tables:
        pixels = shards.unpacked(table["pixels"], side)
        columns = (table[name].to_pylist() for name in ("image_id", "reason", "width", "height"))
        for place, (image_id, reason, width, height) in enumerate(zip(*columns, strict=True)):
            number = numbers[start + place]
            if reason is not None:
                yield number, Thumbnail(image_id, reason)
            else:
                yield number, _encoded(without_bars(pixels[place], width or side, height or side), image_id)
        start += len(table)


def without_bars(square: NDArray[_Level], width: int, height: int) -> NDArray[_Level]:
    """Cut off the bars that `preprocessing.resize` put around an image to make it square."""
    size = len(square)
    scale = size / max(width, height)
    columns, rows = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (size - columns) // 2, (size - rows) // 2
    return square[top : top + rows, left : left + columns]


def _encoded(pixels: Gray, image_id: str | None) -> Thumbnail:
    """Encode uint8 [H, W] or [H, W, 3] as WebP."""
    buffer, lossless = io.BytesIO(), max(pixels.shape) < LOSSLESS
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=lossless, quality=QUALITY, method=4)
    return Thumbnail(image_id, None, buffer.getvalue(), pixels.shape[1], pixels.shape[0])


def _colored(picture: Thumbnail, data: bytes | OSError) -> Thumbnail:
    """Return the picture in its file's colors. A file that a reader could decode is decoded here again."""
    if not picture.webp or isinstance(data, OSError):
        return picture
    size = (picture.width, picture.height)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as file:
            if file.mode not in _COLORED:
                return picture
            file.draft("RGB", size)
            upright = ImageOps.exif_transpose(file).convert("RGBA")
    except Exception:  # noqa: BLE001 kinds that Pillow does not read; other decoders made the picture
        return picture
    ground = Image.new("RGBA", upright.size, "black")
    ground.alpha_composite(upright)
    pixels = np.asarray(ground.convert("RGB").resize(size, Image.Resampling.BILINEAR))
    if (pixels == pixels[:, :, :1]).all():
        return picture  # gray, stored as colors
    return _encoded(pixels, picture.image_id)


def _of_shards(files: pa.Table, numbers: list[int]) -> Iterator[tuple[int, Thumbnail]]:
    """Yield pictures from the pixels in shards."""
    places = files["container"].to_pylist()
    for place, group in groupby(numbers, key=lambda number: places[number]):
        part = list(group)
        side = shards.image_size(shards.open_file(to_path(place)))
        yield from _numbered(part, iterate_rows(files.take(part), side, 128), side)
