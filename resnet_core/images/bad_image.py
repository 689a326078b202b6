"""Why a file gives no image: one of a closed list of reasons, and the decoder's own words."""

from typing import Literal

# The last two are given by whoever watches the decoder from outside.
Reason = Literal["empty", "unsupported", "truncated", "too large", "unreadable", "over time", "crashed the decoder"]

# Pillow's own threshold against decompression bombs.
MAX_PIXELS = 89_478_485


class BadImageError(Exception):
    """The bytes give no image: `reason` is one of a closed list, `detail` the decoder's own words."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises BadImageError when there are more pixels than `max_pixels`: to be asked before any is decoded."""
    if width * height > max_pixels:
        raise BadImageError("too large", f"{width} x {height} pixels, over the limit of {max_pixels:,}")
