"""One file's bytes, read once: its hash, its size, whether it decodes, and the pixels for the model."""

import hashlib
from dataclasses import dataclass

from resnet_core.grayscale import MAX_PIXELS, BadImageError, decode
from resnet_core.preprocessing import Gray, Preprocessing, resize
from resnet_core.sources import read_bytes


@dataclass(frozen=True)
class ReadImage:
    """`image_id` is the SHA-256 of the bytes, None when there were none to be had. Either `pixels`
    (uint8 [size, size]) is there or `reason` is, never both."""

    image_id: str | None
    width: int | None = None
    height: int | None = None
    pixels: Gray | None = None
    reason: str | None = None


def read_image(data: bytes, settings: Preprocessing, max_pixels: int = MAX_PIXELS) -> ReadImage:
    """Never raises for bad bytes: a bad image is data, with a reason."""
    image_id = hashlib.sha256(data).hexdigest()
    try:
        gray = decode(data, background=settings.background, max_pixels=max_pixels)
    except BadImageError as error:
        return ReadImage(image_id, reason=str(error))
    height, width = gray.shape
    return ReadImage(image_id, width, height, pixels=resize(gray, settings))


def read_file(uri: str, settings: Preprocessing, max_pixels: int = MAX_PIXELS) -> ReadImage:
    """A file that cannot be opened is as bad as one that does not decode, and no worse."""
    try:
        data = read_bytes(uri)
    except OSError as error:
        return ReadImage(None, reason=f"unreadable: {error.strerror or error}")
    return read_image(data, settings, max_pixels)
