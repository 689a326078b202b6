"""IDX, the format of MNIST: many images of one size in a file, their labels in a second beside it.

http://yann.lecun.com/exdb/mnist/: magic number, then each dimension, as big-endian 32-bit numbers, then
the bytes. An image is handed out as a PGM file (P5), so that nothing after it is special.
"""

import re
import struct
from collections.abc import Iterator, Sequence

import pyarrow as pa

from resnet_core.errors import UserError
from resnet_core.sources.listing import batches
from resnet_core.storage.compressed import open_unpacked, unpacked
from resnet_core.storage.locations import facts, printable, read_ranges

_IMAGES, _LABELS = 0x00000803, 0x00000801
_IMAGES_HEADER, _LABELS_HEADER = struct.Struct(">4L"), struct.Struct(">2L")
_IMAGES_NAME = re.compile(r"(.*images[-.])idx3-ubyte(\.gz)?", re.DOTALL)
_LABELS_NAME = re.compile(r"(.*labels[-.])idx1-ubyte(\.gz)?", re.DOTALL)


def is_images(name: str) -> bool:
    return _IMAGES_NAME.fullmatch(name) is not None


def is_labels(name: str) -> bool:
    return _LABELS_NAME.fullmatch(name) is not None


def list_images(place: str, path: str) -> Iterator[pa.RecordBatch]:
    """A row an image. path: of the file, relative to the source. Raises UserError for files that are no
    IDX, or do not belong together."""
    count, height, width = _open_images(place)
    labels = _read_labels(place, count)
    modified = facts(place)["modified"]
    split = "test" if re.search(r"t10k|test", path.rpartition("/")[2]) else None
    length, size = height * width, len(_pgm_header(width, height)) + height * width
    uri, path = printable(place), printable(path)
    return batches(
        (
            f"{uri}#image={number}", f"{path}#image={number}", size, modified,
            str(labels[number]) if labels is not None else None, split, uri, "idx",
            _IMAGES_HEADER.size + number * length, length, False,
        )
        for number in range(count)
    )  # fmt: skip


def read_images(place: str, offsets: Sequence[int], lengths: Sequence[int]) -> Iterator[bytes | OSError]:
    """The images whose bytes begin at these places, as PGM files."""
    try:
        file = unpacked(place)
        (head,) = read_ranges(file, [(0, _IMAGES_HEADER.size)])
        if isinstance(head, OSError):
            raise head
        _, _, height, width = _IMAGES_HEADER.unpack(head)
    except (OSError, struct.error) as error:
        yield from (error if isinstance(error, OSError) else OSError("is cut short") for _ in offsets)
        return
    ranges = [(offset, offset + length) for offset, length in zip(offsets, lengths, strict=True)]
    for pixels in read_ranges(file, ranges):
        if isinstance(pixels, OSError):
            yield pixels
        elif len(pixels) != height * width:
            yield OSError("has changed since it was listed")
        else:
            yield _pgm_header(width, height) + pixels


def image_place(place: str, number: int) -> tuple[int, int]:
    """Where the bytes of an image begin, and how many they are. Raises OSError."""
    try:
        _, height, width = _open_images(place)
    except UserError as error:
        raise OSError(str(error)) from None
    return _IMAGES_HEADER.size + number * height * width, height * width


def _pgm_header(width: int, height: int) -> bytes:
    return b"P5\n%d %d\n255\n" % (width, height)


def _open_images(place: str) -> tuple[int, int, int]:
    """Images, height, width."""
    with open_unpacked(place) as file:
        head = file.read(_IMAGES_HEADER.size)
        if len(head) < _IMAGES_HEADER.size or _IMAGES_HEADER.unpack(head)[0] != _IMAGES:
            raise UserError(f"{place}: is no IDX file of images (idx3-ubyte). Fetch it again, or correct `source:`.")
        _, count, height, width = _IMAGES_HEADER.unpack(head)
        end = _IMAGES_HEADER.size + count * height * width
        if count:
            file.seek(end - 1)
            if not file.read(1):
                raise UserError(f"{place}: is cut short: {count:,} images need {end:,} bytes. Fetch it again.")
    return count, height, width


def _read_labels(images: str, count: int) -> bytes | None:
    """The labels in the file beside it, compressed or not; None: there is none."""
    folder, slash, name = images.rpartition("/")
    found = _IMAGES_NAME.fullmatch(name)
    stem = re.sub(r"images([-.])$", r"labels\1", found[1]) if found else ""
    for place in (f"{folder}{slash}{stem}idx1-ubyte{packed}" for packed in ("", ".gz")):
        try:
            facts(place)
        except FileNotFoundError:
            continue
        with open_unpacked(place) as file:
            head = file.read(_LABELS_HEADER.size)
            labels = file.read(count)
        if len(head) < _LABELS_HEADER.size or _LABELS_HEADER.unpack(head) != (_LABELS, count) or len(labels) < count:
            raise UserError(f"{place}: does not hold the labels of the {count:,} images beside it. Fetch it again.")
        return labels
    return None
