"""Which split an image belongs to: a pure function of its key and the seed.

The key is the image's content (or its group, where images belong together), not its place in a
list: an image never changes sides as the data set grows, and the same image never stands on both.
"""

import hashlib
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Lt

from resnet_core.shards import Split


@dataclass(frozen=True)
class SplitConfig:
    """`test` and `validation` are shares of the images, in expectation."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    test: Annotated[float, Gt(0), Lt(1)] = 0.25
    validation: Annotated[float, Ge(0), Lt(1)] = 0.0
    seed: int = 0


def assign(key: str, config: SplitConfig) -> Split:
    """Hash the key to a number in [0, 1): the lowest `test` are held out, the next are validation."""
    place = position(key, config.seed)
    if place < config.test:
        return "test"
    if place < config.test + config.validation:
        return "validation"
    return "train"


def position(key: str, seed: int) -> float:
    """Uniform in [0, 1) over keys."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
