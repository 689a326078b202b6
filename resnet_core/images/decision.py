"""Decision: which gray levels are black and white in images that do not say, over a whole data set."""

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Any

import numpy as np

from resnet_core.images.levels import MARGIN, Decided, Found, Kind, Pair, Percentiles, Rule, Setting, depth

DEPTHS = (8, 10, 12, 14, 16)  # bits
KINDS: dict[Kind, str] = {"bytes": "8-bit images", "integers": "deeper images", "floats": "float images"}
_SCALES = ((0, 1), (-1, 1), (0, 255), (0, 65535))  # of floats
_MOST = 20_000  # images whose quantiles count, at even distances


def decide(found: Sequence[Found], rule: Rule) -> Decided:
    """Decide what the rule has not decided yet, over all images that need it."""
    decided = rule.decided or Decided()
    ranged = rule.setting == "data" or isinstance(rule.setting, Percentiles)
    claimed = [image for image in found if image.claimed]
    if claimed and decided.claims is None and not ranged:
        decided = replace(decided, claims=all(map(_is_true, claimed)))
    spans: dict[str, Any] = {}
    for kind in KINDS:
        some = [image for image in found if image.kind == kind and (ranged or not (image.claimed and decided.claims))]
        if some and getattr(decided, kind) is None:
            spans[kind] = _span(kind, some, rule.setting)
    return replace(decided, **spans)


def _is_true(found: Found) -> bool:
    """Return whether the image's levels lie within what its file claims."""
    low, high = found.claimed or (-inf, inf)
    return low <= found.low and found.high <= high


def _span(kind: Kind, found: Sequence[Found], setting: Setting) -> Pair:
    """Return black and white for images of one kind."""
    low, high = min(image.low for image in found), max(image.high for image in found)
    if isinstance(setting, Percentiles):
        some = found[:: -(-len(found) // _MOST)]
        levels = np.concatenate([np.asarray(image.quantiles, np.float32) for image in some])
        black, white = np.percentile(levels, setting.percentiles)
        return (float(black), float(white)) if black < white else (low, high)
    if setting == "data":
        return low, high
    if kind == "floats":
        return _float_span(low, high)
    if low < 0:
        return low, high
    return next((depth(bits) for bits in DEPTHS if high < 2**bits), (0, high))


def _float_span(low: float, high: float) -> Pair:
    """Return the scale that floats are written on, if they use a quarter of it, else their own range."""
    for black, white in _SCALES:
        margin, used = MARGIN * (white - black), -low if black else high
        if black - margin <= low and high <= white + margin and used > white / 4:
            return black, white
    return low, high


def in_words(rule: Rule) -> list[str]:
    """Return a line for each kind of images with the range that was decided, or that the setting says."""
    decided = rule.decided
    if decided is None:
        return ["each file by its own range, the rule of older releases"]
    lines = [f"{KINDS[kind]} {_words(span)}" for kind in KINDS if (span := getattr(decided, kind))]
    if decided.claims is not None:
        lines.append("by the files' own fields" if decided.claims else "the files' own fields are not true of all")
    if isinstance(rule.setting, int):
        lines.append(f"{KINDS['integers']} {_words(depth(rule.setting))}")
    elif isinstance(rule.setting, tuple):
        lines.append(_words(rule.setting))
    return lines


def _words(span: Pair) -> str:
    bits = next((f"{bits} bits, " for bits in DEPTHS if span == depth(bits)), "")
    return f"{bits}{span[0]:,.6g} to {span[1]:,.6g}"
