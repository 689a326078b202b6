"""Near-duplicates: the same picture encoded, scaled, toned or cropped a little differently.

Three steps, each of which spares the next most of its work: a perceptual hash of every image; the
pairs whose hashes are close, found by sorting, not by comparing all with all; and a look at the
pixels of those pairs, because where all images look alike (cells of one module, pages of one form,
digits) close hashes mean little. Mirrored and turned copies are not looked for.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from resnet_core.images.statistics import HASH_BYTES, Pixels

_Floats = NDArray[np.float32]

# Hashes that agree in one of 31 choices of 4 nibbles, out of the 12 of lowest frequency, are sorted side
# by side, and each is compared with the 16 that follow it. Where more than 4 agree in the first half,
# which is the same half whatever the choice, only the 4 eldest are; the others are compared with those.
_MAX_DISTANCE = 32  # bits of 128
NEAREST = 4
_KEY_NIBBLES = 4
_TABLES = tuple(combinations(range(12), _KEY_NIBBLES))[::16]
_WINDOW = 16
_LEADERS = 4
_FEW = 4096  # hashes, of which all neighbours are taken at once
_WAITING_PAIRS = 1_000_000  # at 8 bytes, before all but the nearest are dropped

# A pair is packed into 64 bits, so that sorting brings an image's pairs together, the nearest first:
# the younger image's row (28 bits), the distance (8), the elder's row (28).
_MAX_IMAGES = 2**28
_YOUNGER, _DISTANCE = np.uint64(36), np.uint64(28)

_UNEXPLAINED = 0.02  # share of an image's variance
_UNEXPLAINED_SMALL = 0.006  # below _COARSE pixels, where fewer pixels are more often alike by chance
_COARSE, _FINE = 32, 64  # pixels
_HOPEFUL = 0.1  # the same when coarse: above it, fine is not tried
_MOST_MOVED = 0.1  # halves of the image's side
_LEAST_CONTRAST = 1.0  # gray levels, standard deviation
_CHUNK = 32  # pairs worked on at a time: more would not fit the processor's cache
_SMALLEST_WEIGHT = 1e-9  # a Gauss curve's ends are denormal in float32, and products with those take ten times as long


@dataclass(frozen=True)
class _Pairs:
    """`left` is the elder image, `right` the younger (int64 [M], row numbers); `distance` is the number
    of bits in which their hashes differ (uint8 [M]). Sorted by `right`, then distance, then `left`."""

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    distance: NDArray[np.uint8]


def candidates(
    hashes: NDArray[np.uint8], new: NDArray[np.bool_], nearest: int = NEAREST, max_distance: int = _MAX_DISTANCE
) -> _Pairs:
    """The pairs whose pixels are worth a look: each new image with the `nearest` of its elders by hash,
    among those found within `max_distance` bits. `hashes`: uint8 [N, HASH_BYTES]; `new`: bool [N].

    An image's elders are all that are not new, and the new ones in rows before its own. Images that come
    over several nights so give the pairs that they would have given in one, if rows keep their order.

    Never more than N x `nearest` pairs, whatever the hashes: where thousands are close, each is compared
    with 16 neighbours in each of 31 sorted orders only, where thousands are equal, with their 4 eldest,
    and so they are chained together. Time grows as N log N on a first night; on a later one with the new
    images and those that share a key with them, and one pass over the rest. After Charikar 2002,
    "Similarity estimation techniques from rounding algorithms", section 3, and Manku et al. 2007,
    "Detecting near-duplicates for web crawling", section 3.
    """
    if hashes.shape != (len(new), HASH_BYTES) or len(new) > _MAX_IMAGES:
        raise ValueError(f"hashes of shape {hashes.shape} for {len(new)} images: need [N, {HASH_BYTES}], N <= 2**28")
    by_age = np.argsort(new, kind="stable")
    columns, new = np.take(hashes.T, by_age, axis=1), new[by_age]
    held, waiting = np.empty(0, np.uint64), list[NDArray[np.uint64]]()
    farthest = np.full(len(new), np.iinfo(np.uint64).max)  # of the pairs held of each image that has enough
    for table in _TABLES:
        for found in _neighbours(columns, new, table, max_distance):
            waiting.append(found[found < farthest[found >> _YOUNGER]])
            if sum(map(len, waiting)) > _WAITING_PAIRS:
                held = _keep_nearest(np.concatenate([held, *waiting]), nearest)
                waiting.clear()
                last = held[nearest - 1 :][
                    held[nearest - 1 :] >> _YOUNGER == held[: len(held) - nearest + 1] >> _YOUNGER
                ]
                farthest[last >> _YOUNGER] = last
    held = _keep_nearest(np.concatenate([held, *waiting]), nearest)
    left = by_age[(held & np.uint64(_MAX_IMAGES - 1)).view(np.int64)]
    right = by_age[(held >> _YOUNGER).view(np.int64)]
    return _Pairs(left, right, (held >> _DISTANCE & np.uint64(255)).astype(np.uint8))


def _neighbours(
    columns: NDArray[np.uint8], new: NDArray[np.bool_], table: tuple[int, ...], max_distance: int
) -> Iterator[NDArray[np.uint64]]:
    """Packed pairs that have a new image in them, in batches that fit memory."""
    key = _nibbles(columns, table)
    wanted = np.zeros(16**_KEY_NIBBLES, np.bool_)
    wanted[key[new]] = True
    rows = np.flatnonzero(wanted[key])
    # The rest of the hash follows the key, so that within a key, too, the closest tend to be neighbours.
    rest = [nibble for nibble in range(2 * HASH_BYTES) if nibble not in table]
    columns, split = columns[:, rows], HASH_BYTES - _KEY_NIBBLES
    first = _nibbles(columns, [*table, *rest[:split]])
    order = np.argsort(first, kind="stable")
    first, second, rows = first[order], _nibbles(columns, rest[split:])[order], rows[order]
    key, new = first >> np.uint64(4 * split), new[rows]

    def pairs(a: slice | NDArray[np.int64], b: slice | NDArray[np.int64]) -> NDArray[np.uint64]:
        distance = np.bitwise_count(first[a] ^ first[b]) + np.bitwise_count(second[a] ^ second[b])
        close = (key[a] == key[b]) & (distance <= max_distance) & (new[a] | new[b])
        one, other = rows[a][close].astype(np.uint64), rows[b][close].astype(np.uint64)
        return (
            np.maximum(one, other) << _YOUNGER | distance[close].astype(np.uint64) << _DISTANCE | np.minimum(one, other)
        )

    led = np.zeros(len(rows), np.bool_)
    led[_LEADERS:] = first[_LEADERS:] == first[:-_LEADERS]
    if led.any():
        followers = np.flatnonzero(led)
        eldest = np.searchsorted(first, first[followers])
        for place in range(_LEADERS if table == _TABLES[0] else 0):  # they would be the same pairs again
            yield pairs(eldest + place, followers)
        first, second, rows, key, new = first[~led], second[~led], rows[~led], key[~led], new[~led]
    steps = range(1, min(_WINDOW, len(rows) - 1) + 1)
    if len(rows) < _FEW:
        left, gap = np.nonzero(np.add.outer(np.arange(len(rows)), steps) < len(rows))
        yield pairs(left, left + gap + 1)
    else:
        for step in steps:
            yield pairs(slice(-step), slice(step, None))


def _nibbles(columns: NDArray[np.uint8], places: tuple[int, ...] | list[int]) -> NDArray[np.uint64]:
    """Half-bytes of the hashes (uint8 [HASH_BYTES, N]) one after the other, as uint64 [N]."""
    words = np.zeros(columns.shape[1], np.uint64)
    for place in places:
        byte = columns[place // 2]
        words <<= np.uint64(4)
        words |= byte & 15 if place % 2 else byte >> 4
    return words


def _keep_nearest(packed: NDArray[np.uint64], nearest: int) -> NDArray[np.uint64]:
    """Each pair once, and of each younger image's the first `nearest`."""
    packed.sort()
    keep = np.ones(len(packed), np.bool_)
    keep[1:] = packed[1:] != packed[:-1]
    packed = packed[keep]
    younger = (packed >> _YOUNGER).astype(np.uint32)
    keep = np.ones(len(packed), np.bool_)
    keep[nearest:] = younger[nearest:] != younger[:-nearest]
    return packed[keep]


def confirm(left: Pixels, right: Pixels) -> NDArray[np.bool_]:
    """Whether the pictures are the same: bool [M] for `left` and `right`, uint8 [M, size, size].

    They are when the right one, shifted and stretched a little and its tones bent (by a parabola),
    explains all but 2% of the left one's variance. Shift and stretch come from least squares on the
    image's slopes, coarse before fine (Lucas & Kanade 1981, "An iterative image registration
    technique"). Below 32 pixels there is too little to fit: only brightness and contrast may differ,
    and 0.6% is allowed. Images that are all but flat match when they are equal.
    """
    same = (left == right).all((1, 2))
    for start in range(0, len(left), _CHUNK):
        rows = start + np.flatnonzero(~same[start : start + _CHUNK])
        (a, contrast), (b, other) = _standard(left[rows]), _standard(right[rows])
        enough = (contrast > _LEAST_CONTRAST) & (other > _LEAST_CONTRAST)
        rows, a, b = rows[enough], a[enough], b[enough]
        if len(rows):
            small = left.shape[1] < _COARSE
            same[rows] = _uncorrelated(a, b) <= _UNEXPLAINED_SMALL if small else _unexplained(a, b) <= _UNEXPLAINED
    return same


def _standard(images: Pixels) -> tuple[_Floats, _Floats]:
    """With mean 0 and standard deviation 1 (a flat image stays 0), and the standard deviations before, in levels."""
    centred = images - images.mean((1, 2), dtype=np.float32, keepdims=True)
    deviation = np.sqrt(np.einsum("nij,nij->n", centred, centred) / centred[0].size)
    centred /= np.where(deviation > 0, deviation, 1)[:, None, None]
    return centred, deviation


def _uncorrelated(a: _Floats, b: _Floats) -> _Floats:
    """What no brightness and contrast of b explain of a, as a share: float32 [M]."""
    return 1 - np.maximum((a * b).mean((1, 2)), 0) ** 2


def _unexplained(a: _Floats, b: _Floats) -> _Floats:
    """What no shift, stretch and tones of b explain of a, as a share: float32 [M]. It is exact where it
    matters: a pair that is far from being the same when small is not looked at any closer."""
    small_a, small_b = _reduced(a, _COARSE, blur=0.7), _reduced(b, _COARSE, blur=0.7)
    moved, _ = _fit(small_a, small_b, np.zeros((len(a), 4), np.float32))
    moved, share = _fit(small_a, small_b, moved)
    size = min(_FINE, a.shape[1])
    for low, high in (
        (-np.inf, _HOPEFUL),
        (_UNEXPLAINED, 2 * _UNEXPLAINED),
    ):  # one fine step may leave a crop a bit off
        again = np.flatnonzero((share > low) & (share <= high))
        if len(again):
            fine_a, fine_b = _reduced(a[again], size, blur=1.5), _reduced(b[again], size, blur=1.5)
            moved[again], share[again] = _fit(fine_a, fine_b, moved[again])
    return share


def _reduced(images: _Floats, size: int, blur: float) -> _Floats:
    """float32 [M, H, H] -> [M, size, size], averaged and then blurred (standard deviation in pixels):
    what a re-encoding changes is mostly fine, what makes two pictures different is mostly not."""
    weights = _weights(images.shape[1], size, blur)
    return weights @ (images @ weights.T)


@lru_cache(maxsize=8)
def _weights(source: int, size: int, blur: float) -> _Floats:
    """float32 [size, source]: along one side."""
    scale = source / size
    centres = (np.arange(size) + 0.5) * scale - 0.5
    average = np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(source)) / scale)
    gauss = np.exp(-0.5 * (np.subtract.outer(np.arange(size), np.arange(size)) / blur) ** 2)
    both = gauss @ (average / average.sum(1, keepdims=True))
    both[both < _SMALLEST_WEIGHT] = 0
    return (both / both.sum(1, keepdims=True)).astype(np.float32)


def _fit(a: _Floats, b: _Floats, moved: _Floats) -> tuple[_Floats, _Floats]:
    """One step of the search: b's movement (float32 [M, 4], see `_move`) made better, and the share of
    a's variance left by b so moved. The margin, where b may lack what a shows, does not count."""
    count, size = len(a), a.shape[1]
    margin = size // 16
    inner, before, after = (slice(margin + k, size - margin + k) for k in (0, -1, 1))
    place = np.linspace(-1, 1, size, dtype=np.float32)[inner]
    b = _move(b, moved)
    terms = np.empty((count, 8, len(place), len(place)), np.float32)
    terms[:, 0] = 1
    terms[:, 1] = b[:, inner, inner]
    terms[:, 2] = terms[:, 1] ** 2
    terms[:, 4] = b[:, inner, after] - b[:, inner, before]
    terms[:, 3] = terms[:, 4] * place
    terms[:, 6] = b[:, after, inner] - b[:, before, inner]
    terms[:, 5] = terms[:, 6] * place[:, None]
    terms[:, 7] = a[:, inner, inner]
    flat = terms.reshape(count, 8, -1)
    products = (flat @ flat.transpose(0, 2, 1)).astype(np.float64)
    among, toward, total = products[:, :7, :7], products[:, :7, 7:], products[:, 7, 7]
    ridge = 1e-6 * np.trace(among, axis1=1, axis2=2)[:, None, None] * np.eye(7)
    weights = np.linalg.solve(among + ridge, toward)
    rest = total - (weights * (2 * toward - among @ weights)).sum((1, 2))
    gain = weights[:, 1]
    share = np.where(gain[:, 0] > 0, rest / (total - toward[:, 0, 0] ** 2 / flat.shape[2] + 1e-6), np.inf)
    step = weights[:, 3:, 0] / np.where(gain > 1e-3, gain, np.inf) * (4 / (size - 1))
    step = np.clip(step, -_MOST_MOVED, _MOST_MOVED)
    stretch, shift = 1 + moved[:, ::2], moved[:, 1::2]
    better = np.stack([stretch * (1 + step[:, ::2]) - 1, shift + stretch * step[:, 1::2]], 2).reshape(count, 4)
    return np.clip(better, -_MOST_MOVED, _MOST_MOVED).astype(np.float32), share.astype(np.float32)


def _move(images: _Floats, moved: _Floats) -> _Floats:
    """Bilinear. `moved` [M, 4]: stretch and shift across, stretch and shift down, in halves of the side:
    what is at u comes from (1 + stretch) u + shift."""
    size = images.shape[1]
    place = np.linspace(-1, 1, size, dtype=np.float32)
    at = (1 + moved[:, ::2, None]) * place + moved[:, 1::2, None]  # [M, across and down, size]
    at = np.clip((at + 1) * ((size - 1) / 2), 0, size - 1)
    across, down = np.maximum(0, 1 - np.abs(at[..., None] - np.arange(size, dtype=np.float32))).transpose(1, 0, 2, 3)
    return down @ images @ across.transpose(0, 2, 1)


def clusters(count: int, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 [count]: the lowest row of all that an image is joined with by the pairs, directly or through
    others; its own row where there are none."""
    from scipy.sparse import coo_matrix  # takes 0.3 s to import, and reading images does without it
    from scipy.sparse.csgraph import connected_components

    links = coo_matrix((np.ones(len(left), np.bool_), (left, right)), (count, count))
    _, component = connected_components(links, directed=False)
    _, lowest = np.unique(component, return_index=True)
    return lowest[component].astype(np.int64)
