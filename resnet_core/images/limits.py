"""Limits: the most that an image may cost. The imports are light, for the settings of every command need them."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

MAX_PIXELS = 89_478_485  # Pillow's own threshold against decompression bombs


@dataclass(frozen=True)
class Limits:
    """Limits of an image: `bytes` of its file, decoded `pixels`, and `seconds` from opening the file to its pixels."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    bytes: Annotated[int, Ge(1)] = 256 * 2**20
    pixels: Annotated[int, Ge(1)] = MAX_PIXELS
    seconds: Annotated[float, Gt(0)] = 30.0


DEFAULT_LIMITS = Limits()
