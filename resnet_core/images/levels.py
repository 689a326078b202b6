"""Gray levels: which stored level is black and which is white, decided in one place for every decoder.

A decoder hands over a `Stored`: levels as the file has them, and the file's own word. `to_gray` makes 8 bits of it.
Levels are scaled, never wrapped.
Luma is ITU-R BT.601 on the file's own (gamma-encoded) levels, as in JPEG and in Pillow's mode "L".
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from resnet_core.reasons import Reason, ReasonCode

Gray = NDArray[np.uint8]
Pair = tuple[float, float]  # black and white, the lower one first
Kind = Literal["bytes", "integers", "floats"]

_BT601 = (0.299, 0.587, 0.114)
_BLOCK = 2**20  # levels scaled at a time: float copies of a large image would take eight times its size
_BYTE = np.dtype(np.uint8)
MARGIN = 0.1  # share of a range by which noise and resampling may go beyond it, and are clipped
QUANTILES = 256  # of an image, for percentiles of the data set


class BadImageError(Exception):
    """The bytes give no image."""

    def __init__(self, code: ReasonCode, detail: str) -> None:
        self.reason = Reason.of(code, detail)
        super().__init__(self.reason.text)


class Stored(NamedTuple):
    """Gray levels as a file stores them, and what the file itself says of them.

    levels: [H, W], integers or floats; of colors, their luma. Neither inverted nor scaled.
    stated: black and white by the format: 12 bits a sample, PNM's maxval, DICOM's window. Levels beyond are clipped.
    claimed: the same by a field that writers use in several ways (sBIT, SignificantBits, MaxSampleValue, ImageJ's
    display range, DICOM's BitsStored). It counts if it is true of every image of the data set.
    inverted: whether the lowest level is white.
    padding: a level, or a mask [H, W], of pixels without a measurement; NaN always is. They show the background.
    """

    levels: NDArray[Any]
    stated: Pair | None = None
    claimed: Pair | None = None
    inverted: bool = False
    padding: float | NDArray[np.bool_] | None = None

    @property
    def kind(self) -> Kind:
        if self.levels.dtype.kind == "f":
            return "floats"
        return "bytes" if self.levels.dtype.itemsize == 1 else "integers"


def depth(bits: int) -> Pair:
    """Return black and white of unsigned levels of so many bits."""
    return 0, 2**bits - 1


def claim(low: float, high: float) -> Pair | None:
    """Return what a file claims, if that is a whole depth, such as 0..4095. Other ranges are one image's contrast."""
    return (low, high) if low == 0 and high > 0 and (int(high) + 1).bit_count() == 1 and high == int(high) else None


@dataclass(frozen=True)
class Percentiles:
    """The data set's percentiles that become black and white."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    percentiles: tuple[Annotated[float, Ge(0), Le(100)], Annotated[float, Ge(0), Le(100)]]


Bits = Literal[8, 10, 12, 14, 16]
Setting = Bits | Pair | Literal["data"] | Percentiles | None


@dataclass(frozen=True)
class Decided:
    """Black and white for images that do not say themselves, decided over a whole data set, by kind of levels.

    None: the data set has no such image. claims: whether the claims of its files are true.
    """

    bytes: Pair | None = None
    integers: Pair | None = None
    floats: Pair | None = None
    claims: bool | None = None

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Decided":
        """Make it of its JSON."""
        pairs: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
        }
        return cls(**pairs)


class Rule(NamedTuple):
    """How levels become gray. decided: None scales each file by itself, as older releases did.

    With the setting `data`, that is its own range, for pictures that a person looks at.
    """

    setting: Setting = None
    clip: bool = False
    decided: Decided | None = None
    background: int = 0

    @property
    def spans_bytes(self) -> bool:
        """Return whether levels of 8 bits are scaled, too."""
        if self.setting is None:
            return False
        if isinstance(self.setting, tuple):
            return self.setting[0] >= 0 and self.setting[1] <= 255
        return self.decided is not None and (self.setting == "data" or isinstance(self.setting, Percentiles))


class UndecidedError(BadImageError):
    """The rule has no range yet for such an image. `found` are the facts that decide."""

    def __init__(self, detail: str, found: "Found") -> None:
        super().__init__(ReasonCode.LEVELS_UNKNOWN, detail)
        self.found = found


class Found(NamedTuple):
    """Facts of an image that needs a rule: its range without padding, its claim, and its quantiles if asked for."""

    kind: Kind
    low: float
    high: float
    claimed: Pair | None = None
    quantiles: Sequence[float] = ()


def to_gray(stored: Stored, rule: Rule) -> Gray:
    """Scale stored levels [H, W] to uint8 [H, W]: black becomes 0, white 255. Levels of 8 bits are not copied.

    Raises BadImageError for levels beyond the data set's range, and UndecidedError for images without a range.
    """
    levels, stated, _, inverted, padding = stored
    if (
        levels.dtype == _BYTE
        and padding is None
        and not inverted
        and (stated is None or stated == (0, 255))
        and not rule.spans_bytes
    ):
        return levels
    if rule.decided is None and stated is None:
        black, white = _of_the_file(stored, stretched=rule.setting == "data")
    else:
        black, white = _range(stored, rule)
    mask = _mask(stored)
    if mask is not None and levels.dtype.kind == "f":
        levels = np.where(mask, black, levels)
    gray = scale(levels, white, black) if inverted else scale(levels, black, white)
    return gray if mask is None else np.where(mask, np.uint8(rule.background), gray)


def _range(stored: Stored, rule: Rule) -> Pair:
    """Return black and white: of the setting, the file's word, or the data set's range, in this order."""
    setting, kind, decided = rule.setting, stored.kind, rule.decided or Decided()
    if isinstance(setting, tuple) and (kind != "bytes" or rule.spans_bytes):
        return _checked(stored, setting, rule, strict=kind != "floats")
    if setting != "data" and not isinstance(setting, Percentiles):
        if stored.stated is not None:
            return stored.stated
        if kind == "bytes":
            return (0, 255) if stored.levels.dtype.kind == "u" else (-128, 127)
        if isinstance(setting, int) and kind == "integers":
            return _checked(stored, depth(setting), rule, strict=True)
        if stored.claimed and decided.claims is not False:
            if decided.claims is None:
                raise _undecided(stored, rule)
            return _checked(stored, stored.claimed, rule, strict=True)
    found: Pair | None = getattr(decided, kind)
    if found is None:
        raise _undecided(stored, rule)
    return _checked(stored, found, rule, strict=kind == "integers" and claim(*found) is not None)


def _undecided(stored: Stored, rule: Rule) -> BadImageError:
    """Return the error of an image without a range. A flat image tells nothing, and decides nothing."""
    found = measured(stored, quantiles=isinstance(rule.setting, Percentiles))
    if found.low == found.high:
        return _blank(found)
    return UndecidedError(
        f"{stored.levels.dtype} levels, {found.low:g} to {found.high:g}, without a stated white, and the data set had "
        "no such image. Set `image: {levels: ...}` in its file, or add such images, and retrain",
        found,
    )


def _blank(found: Found) -> BadImageError:
    return BadImageError(ReasonCode.BLANK, f"every pixel is {found.low:g}")


def _checked(stored: Stored, span: Pair, rule: Rule, *, strict: bool) -> Pair:
    """Return the range if the levels lie within it. strict: without a margin."""
    if rule.clip or isinstance(rule.setting, Percentiles):
        return span
    margin = 0 if strict else MARGIN * (span[1] - span[0])
    found = measured(stored)
    if found.low >= span[0] - margin and found.high <= span[1] + margin:
        return span
    if found.low == found.high:
        raise _blank(found)
    worst = found.low if found.low < span[0] - margin else found.high
    raise BadImageError(
        ReasonCode.BEYOND_LEVELS,
        f"a level of {worst:,g} is beyond the data set's range, {span[0]:,g} to {span[1]:,g}. "
        "Set `image: {levels: ...}` in its file, or `image: {beyond: clip}`, and all pixels are made anew",
    )


def _mask(stored: Stored) -> NDArray[np.bool_] | None:
    """Return which pixels are padding, None if no one is."""
    levels, padding = stored.levels, stored.padding
    if isinstance(padding, np.ndarray):
        mask = padding
    elif padding is not None and not np.isnan(padding):
        # A float32 image holds the nearest float32 of what is written as text.
        mask = levels == (levels.dtype.type(padding) if levels.dtype.kind == "f" else padding)
    else:
        mask = None
    if levels.dtype.kind == "f":
        empty = np.isnan(levels)
        mask = empty if mask is None else mask | empty
    return mask if mask is not None and mask.any() else None


def measured(stored: Stored, *, quantiles: bool = False) -> Found:
    """Return the range of the levels that are measurements. Raises BadImageError if there are none, or infinite."""
    mask = _mask(stored)
    levels = stored.levels if mask is None else stored.levels[~mask]
    if not levels.size:
        raise BadImageError(ReasonCode.DAMAGED, "every pixel is padding, or not a number")
    low, high = float(levels.min()), float(levels.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise BadImageError(ReasonCode.DAMAGED, "some gray levels are not finite numbers")
    shares = np.quantile(levels, (np.arange(QUANTILES) + 0.5) / QUANTILES).tolist() if quantiles else ()
    return Found(stored.kind, low, high, stored.claimed, shares)


def _of_the_file(stored: Stored, *, stretched: bool) -> Pair:
    """Return the range of one file, by the rule of older releases, for versions trained under it.

    White is 1 for fractions and 65,535 for levels that fit into 16 bits; others are stretched to their own range.
    """
    if stored.levels.dtype == np.uint8:
        return 0, 255
    if stored.levels.dtype.kind == "u" and stored.levels.dtype.itemsize == 2 and not stretched:
        return 0, 65535
    found = measured(stored)
    if not stretched and found.low >= 0 and found.high <= 65535:
        return 0, 1 if found.high <= 1 else 65535
    return found.low, found.high


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise BadImageError for more pixels than `max_pixels`; called before any pixel is decoded."""
    if width * height > max_pixels:
        raise BadImageError(ReasonCode.TOO_LARGE, f"{width} x {height} pixels, over the limit of {max_pixels:,}")


def luma(rgb: NDArray[Any]) -> NDArray[np.float64]:
    """Levels [..., 3 or more], red, green and blue first -> float64 [...] on the same scale, not rounded."""
    return rgb[..., :3].astype(np.float64) @ np.array(_BT601)


def whole_luma(rgb: NDArray[Any]) -> NDArray[Any]:
    """Levels [..., 3 or more] -> their luma, rounded, in the same type."""
    levels = luma(rgb)
    return (levels if rgb.dtype.kind == "f" else np.rint(levels)).astype(rgb.dtype)


def scale(levels: NDArray[Any], black: float, white: float) -> Gray:
    """Levels [...] -> uint8 [...], rounded: `black` becomes 0, `white` 255, and levels beyond are clipped.

    If `black` is the larger one, the image is inverted.
    """
    if levels.dtype.kind in "iu" and levels.dtype.itemsize <= 2:
        table: Gray = _table(levels.dtype.kind == "i", levels.dtype.itemsize, black, white).take(levels)
        return table
    return _scale(levels, black, white)


@lru_cache(maxsize=16)
def _table(signed: bool, size: int, black: float, white: float) -> Gray:
    """Return the gray of every level of a type; negative levels index from the end."""
    values = np.arange(2 ** (8 * size))
    return _scale(values - (values >= len(values) // 2) * len(values) if signed else values, black, white)


def _scale(levels: NDArray[Any], black: float, white: float) -> Gray:
    gray = np.empty(levels.shape, dtype=np.uint8)
    if black == white:
        gray[:] = 0
        return gray
    for source, target in _blocks(levels, gray):
        scaled = (source.astype(np.float64) - black) * (255 / (white - black))
        target[:] = np.rint(scaled).clip(0, 255)
    return gray


def _blocks(levels: NDArray[Any], gray: Gray) -> Iterator[tuple[NDArray[Any], Gray]]:
    """Yield the same rows of both arrays, about _BLOCK levels at a time."""
    rows = max(1, _BLOCK * len(levels) // max(levels.size, 1)) if levels.ndim else 1
    for row in range(0, len(levels), rows):
        yield levels[row : row + rows], gray[row : row + rows]
