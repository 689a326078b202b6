"""IDX, the format of MNIST: many images of one size in a file. Their labels are in a second file beside it.

bytes          content (http://yann.lecun.com/exdb/mnist/)
4              magic number: 0x803 images, 0x801 labels
4 a dimension  count[, height, width], big-endian
rest           one byte per pixel or label

An image is handed out as a PGM file (P5), like a file of its own.
"""

import re
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import IO

import pyarrow as pa

from resnet_core.errors import UserError
from resnet_core.policy import check_members
from resnet_core.sources.listing import BATCH, numbered_rows
from resnet_core.storage.compressed import open_unpacked
from resnet_core.storage.locations import facts, read_ranges

_IMAGES, _LABELS = 0x00000803, 0x00000801
_IMAGES_HEADER, _LABELS_HEADER = struct.Struct(">4L"), struct.Struct(">2L")
_MOST_PACKED = 1032  # bytes that deflate makes of one, at most
_IMAGES_NAME = re.compile(r"(.*images[-.])idx3-ubyte(\.gz)?", re.DOTALL)
_LABELS_NAME = re.compile(r"(.*labels[-.])idx1-ubyte(\.gz)?", re.DOTALL)


def is_images(name: str) -> bool:
    """Return whether a file's name is that of IDX images."""
    return _IMAGES_NAME.fullmatch(name) is not None


def is_labels(name: str) -> bool:
    """Return whether a file's name is that of IDX labels."""
    return _LABELS_NAME.fullmatch(name) is not None


def find_copies(places: Sequence[str]) -> dict[str, str]:
    """Return the files of images that others hold, too, each with the one to read.

    Such files have the same name but for `.gz` and the dot, and the same first mebibyte. The unpacked file is read.
    """
    kept: dict[tuple[str, bytes], str] = {}
    copies = {}
    names = Counter(map(_plain_name, places))
    for place in sorted(places, key=lambda place: (place.endswith(".gz"), place.count("/"), place)):
        if names[_plain_name(place)] > 1:
            with open_unpacked(place) as file:
                key = _plain_name(place), file.read(1024**2)
            if key in kept:
                copies[place] = kept[key]
            kept.setdefault(key, place)
    return copies


def _plain_name(place: str) -> str:
    return place.rpartition("/")[2].removesuffix(".gz").replace(".", "-")


def list_images(place: str, path: str) -> Iterator[pa.RecordBatch]:
    """Yield one row per image. `path`: of the file, relative to the source.

    Raises UserError for files that are not IDX, or do not belong together.
    """
    count, height, width = _open_images(place)
    labels = _read_labels(place, count)
    length = height * width
    columns = {
        "size": len(_pgm_header(width, height)) + length,
        "modified": facts(place)["modified"],
        "kind": "idx",
        "length": length,
    }
    for start in range(0, count, BATCH):
        numbers = range(start, min(start + BATCH, count))
        columns["label"] = [str(label) for label in labels[start : numbers.stop]] if labels is not None else None
        columns["offset"] = [_IMAGES_HEADER.size + number * length for number in numbers]
        yield numbered_rows(place, path, numbers, columns)


def read_images(place: str, offsets: Sequence[int], lengths: Sequence[int]) -> Iterator[bytes | OSError]:
    """Yield the images whose bytes begin at these offsets of an uncompressed file, as PGM files."""
    (head,) = read_ranges(place, [(0, _IMAGES_HEADER.size)])
    if isinstance(head, OSError) or len(head) < _IMAGES_HEADER.size:
        error = head if isinstance(head, OSError) else OSError("the file is cut short")
        yield from (error for _ in offsets)
        return
    _, _, height, width = _IMAGES_HEADER.unpack(head)
    ranges = [(offset, offset + length) for offset, length in zip(offsets, lengths, strict=True)]
    for pixels in read_ranges(place, ranges):
        if isinstance(pixels, OSError):
            yield pixels
        elif len(pixels) != height * width:
            yield OSError("has changed since it was listed")
        else:
            yield _pgm_header(width, height) + pixels


def pieces(file: IO[bytes]) -> Iterator[tuple[int, int]]:
    """Yield offset and length of the header and the images; what follows is nobody's."""
    head = file.read(_IMAGES_HEADER.size)
    if len(head) == _IMAGES_HEADER.size:
        _, count, height, width = _IMAGES_HEADER.unpack(head)
        yield 0, _IMAGES_HEADER.size + count * height * width


def image_place(place: str, number: int) -> tuple[int, int]:
    """Return the offset and the length of an image's bytes. Raises OSError."""
    try:
        _, height, width = _open_images(place)
    except UserError as error:
        raise OSError(str(error)) from None
    return _IMAGES_HEADER.size + number * height * width, height * width


def _pgm_header(width: int, height: int) -> bytes:
    return b"P5\n%d %d\n255\n" % (width, height)


def _open_images(place: str) -> tuple[int, int, int]:
    """Return count, height and width of the images."""
    with open_unpacked(place) as file:
        head = file.read(_IMAGES_HEADER.size)
        if len(head) < _IMAGES_HEADER.size or _IMAGES_HEADER.unpack(head)[0] != _IMAGES:
            raise UserError(f"{place}: not an IDX file of images (idx3-ubyte). Fetch it again, or correct `source:`.")
        _, count, height, width = _IMAGES_HEADER.unpack(head)
        end = _IMAGES_HEADER.size + count * height * width
        if count and not height * width:
            raise UserError(f"{place}: its images have {width} x {height} pixels. Fetch it again.")
        # A count that the file cannot hold is refused before anything is unpacked.
        if end > facts(place)["size"] * _MOST_PACKED >= 0:
            raise UserError(f"{place}: cut short, {count:,} images need {end:,} bytes. Fetch it again.")
        check_members(place, count)
        if count:
            file.seek(end - 1)
            if not file.read(1):
                raise UserError(f"{place}: cut short, {count:,} images need {end:,} bytes. Fetch it again.")
    return count, height, width


def _read_labels(images: str, count: int) -> bytes | None:
    """Return the labels in the file beside the images, compressed or not; None without such a file."""
    folder, slash, name = images.rpartition("/")
    match = _IMAGES_NAME.fullmatch(name)
    stem = re.sub(r"images([-.])$", r"labels\1", match[1]) if match else ""
    for place in (f"{folder}{slash}{stem}idx1-ubyte{packed}" for packed in ("", ".gz")):
        try:
            facts(place)
        except FileNotFoundError:  # the other name, or no labels
            continue
        with open_unpacked(place) as file:
            head = file.read(_LABELS_HEADER.size)
            labels = file.read(count)
        if len(head) < _LABELS_HEADER.size or _LABELS_HEADER.unpack(head) != (_LABELS, count) or len(labels) < count:
            raise UserError(f"{place}: not the labels of the {count:,} images beside it. Fetch it again.")
        return labels
    return None
