"""Unknown images in a batch: are there more than images like the held-out ones would give?

Take N images like n held-out ones. The number farther than all but k - 1 of these is beta-binomial (k, n + 1 - k). That
is binomial, with a rate that n images only estimate (Rosenbaum 1954 for k = 1). Two depths are tested: k = 1 for a few
images far away, and the depth of the version's level for many nearer ones. The smaller p counts twice.
"""

from dataclasses import dataclass

import numpy as np
import scipy

from resnet_core.drift.drift import MOST, Drift
from resnet_core.errors import plural

FARTHEST = 10  # images that are named


@dataclass(frozen=True)
class Ranks:
    """The ranks behind p-values: of `held_out` + 1, the `depth` first ones are unknown."""

    held_out: int
    depth: int


@dataclass(frozen=True)
class Unknown:
    """Counts of a batch: images with a p-value, those that are unknown, and those farther than all held-out ones."""

    images: int = 0
    unknown: int = 0
    beyond: int = 0

    def __add__(self, other: "Unknown") -> "Unknown":
        return Unknown(self.images + other.images, self.unknown + other.unknown, self.beyond + other.beyond)


def tail(count: int, images: int, held_out: int, depth: int) -> float:
    """Return the probability that `count` or more of `images` are farther than all but depth - 1 held-out images."""
    if images > MOST:
        count, images = round(count * MOST / images), MOST
    if count <= 0:
        return 1.0
    t, a, b = np.arange(count, images + 1, dtype=np.float64), depth, held_out + 1 - depth
    betaln, logsumexp = scipy.special.betaln, scipy.special.logsumexp
    choose = -np.log(images + 1) - betaln(t + 1, images - t + 1)
    return float(min(1.0, np.exp(logsumexp(choose + betaln(t + a, images - t + b) - betaln(a, b)))))


def unknown_drift(found: Unknown, ranks: Ranks, threshold: float | None) -> Drift:
    """Return the drift: its distance is the share of images beyond what the held-out images lead to expect."""
    tests = {1: found.beyond} | ({ranks.depth: found.unknown} if ranks.depth > 1 else {})
    p = min(tail(count, found.images, ranks.held_out, depth) for depth, count in tests.items())
    excess = max(count / found.images - depth / (ranks.held_out + 1) for depth, count in tests.items())
    expected = [found.images * depth / (ranks.held_out + 1) for depth in (ranks.depth, 1)]
    detail = (
        f"{found.unknown:,} of {plural(found.images, 'image')} unknown, {expected[0]:,.0f} expected; {found.beyond:,} "
        f"farther than all {ranks.held_out:,} held-out images, {expected[1]:,.1f} expected"
    )
    return Drift(
        "unknown", "excess", max(0.0, excess), threshold, min(1.0, len(tests) * p), found.images, detail=detail
    )
