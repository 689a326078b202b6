"""Read an image: hash, size, statistics and the model's pixels, in one pass over the file's bytes.

`schema` has the columns of a table of read images.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resnet_core.images.decode import decode_square
from resnet_core.images.levels import BadImageError, Found, UndecidedError
from resnet_core.images.limits import DEFAULT_LIMITS, Limits
from resnet_core.images.preprocessing import Gray, Preprocessing
from resnet_core.images.statistics import HASH_BYTES, measure, perceptual_hash
from resnet_core.reasons import Reason, ReasonCode

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class ReadImage:
    """Either `pixels` (uint8 [size, size]) or a `reason`. `image_id`: SHA-256 of the bytes, None if not read."""

    image_id: str | None
    width: int | None = None
    height: int | None = None
    reason: Reason | None = None
    pixels: Gray | None = None
    range: Found | None = None  # of an image whose white level is not decided yet


def read_image(data: bytes, settings: Preprocessing, limits: Limits = DEFAULT_LIMITS) -> ReadImage:
    """Read a file's bytes. Never raises for bad bytes: they give a reason."""
    if len(data) > limits.bytes:
        return too_many_bytes(len(data), limits)
    image_id = hashlib.sha256(data).hexdigest()
    try:
        square = decode_square(data, settings, limits.pixels)
    except BadImageError as error:
        found = error.found if isinstance(error, UndecidedError) else None
        return ReadImage(image_id, reason=error.reason, range=found)
    except MemoryError:
        return ReadImage(image_id, reason=NO_MEMORY)
    return ReadImage(image_id, square.width, square.height, pixels=square.pixels)


NO_MEMORY = Reason.of(ReasonCode.TOO_LARGE, "decoding needs more memory than a reader may have")


def too_many_bytes(size: int, limits: Limits) -> ReadImage:
    return ReadImage(
        None, reason=Reason.of(ReasonCode.TOO_LARGE, f"{size:,} bytes, over the limit of {limits.bytes:,}")
    )


def unreachable(error: OSError) -> ReadImage:
    """Return the row of a file whose bytes cannot be read now; the next run tries it again."""
    return ReadImage(None, reason=Reason.of(ReasonCode.UNREACHABLE, error.strerror or str(error)))


def schema(size: int) -> "pa.Schema":
    """Return the columns of read images; statistics are of the pixels that the model sees."""
    import pyarrow as pa

    return pa.schema(
        [
            ("image_id", pa.string()),  # SHA-256 of the bytes; null: not read
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("reason_code", pa.string()),  # null: a good image
            ("reason", pa.string()),
            ("phash", pa.binary(HASH_BYTES)),
            ("brightness", pa.float32()),
            ("contrast", pa.float32()),
            ("sharpness", pa.float32()),
            ("range", pa.string()),  # JSON of `levels.Found`; null: the white level is known
            pa.field("pixels", pa.binary(size * size), nullable=False),  # uint8 [size, size]; zeros without an image
        ]
    )


def as_columns(images: Sequence[ReadImage], size: int) -> tuple[dict[str, list[Any]], NDArray[np.uint8]]:
    """Return the columns of `schema` as JSON holds them (hashes in hexadecimal), and pixels, uint8 [N, size, size]."""
    blank = np.zeros((size, size), dtype=np.uint8)
    squares = [blank if image.pixels is None else image.pixels for image in images]
    pixels = np.array(squares, dtype=np.uint8).reshape(-1, size, size)
    hashes = [None if image.pixels is None else perceptual_hash(image.pixels).hex() for image in images]
    columns = {name: [getattr(image, name) for image in images] for name in ("image_id", "width", "height")}
    reasons = [image.reason or (None, None) for image in images]
    columns["reason_code"], columns["reason"] = [code for code, _ in reasons], [text for _, text in reasons]
    columns["range"] = [None if image.range is None else json.dumps(image.range) for image in images]
    columns["phash"] = hashes
    for name, numbers in zip(("brightness", "contrast", "sharpness"), measure(pixels), strict=True):
        rounded = numbers.astype(np.float32).tolist()
        columns[name] = [None if phash is None else number for phash, number in zip(hashes, rounded, strict=True)]
    return columns, pixels


def from_columns(columns: dict[str, list[Any]], pixels: NDArray[np.uint8]) -> "pa.Table":
    """Make a table of `schema` from the result of `as_columns`; the pixels are not copied."""
    import pyarrow as pa

    size = pixels.shape[1]
    columns = {**columns, "phash": [None if text is None else bytes.fromhex(text) for text in columns["phash"]]}
    fields = schema(size)
    arrays = [pa.array(columns[field.name], field.type) for field in fields if field.name != "pixels"]
    packed = pa.Array.from_buffers(fields.field("pixels").type, len(pixels), [None, pa.py_buffer(pixels)])
    return pa.Table.from_arrays([*arrays, packed], schema=fields)


def as_table(images: Sequence[ReadImage], size: int) -> "pa.Table":
    """Make a table of `schema`, one row per image."""
    return from_columns(*as_columns(images, size))
