"""Near-duplicates: the same picture encoded, scaled, toned or cropped a little differently.

step                     result
`statistics` of images   a perceptual hash of every image
`candidates`             pairs with close hashes, found by sorting
`residuals`              how far their pixels differ

Close hashes mean little where all images look alike, as digits or pages of one form do.
So do small residuals under a fixed camera: `ties` decides which pairs are the same picture.
Mirrored and rotated copies are not found.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from resnet_core.images.statistics import HASH_BYTES, Pixels

_Floats = NDArray[np.float32]

# Keys are 31 choices of 4 nibbles among the 12 of lowest frequency. Hashes are sorted by a key and compared with the
# next _WINDOW. If more than _LEADERS agree in their first half, the others are compared only with the _LEADERS eldest.
_MAX_DISTANCE = 32  # bits of 128
NEAREST = 4
_KEY_NIBBLES = 4
_TABLES = tuple(combinations(range(12), _KEY_NIBBLES))[::16]
_WINDOW = 16
_LEADERS = 4
_FEW = 4096  # hashes whose neighbours are all compared at once
_WAITING_PAIRS = 1_000_000  # of 8 bytes, before all but the nearest are dropped

# A pair is 64 bits: the younger image's row (28), the distance (8), the elder's row (28). Sorted, an image's pairs
# stand together, the nearest first.
_MAX_IMAGES = 2**28
_YOUNGER, _DISTANCE = np.uint64(36), np.uint64(28)

_UNEXPLAINED = 0.02  # share of an image's variance
_UNEXPLAINED_SMALL = 0.006  # the same below _COARSE pixels: few pixels are alike by chance more often
_COARSE, _FINE = 32, 64  # pixels
# The most after the first step. There 3,600 copies of photographs and cells (crops, tones, codes, sizes) had at most
# 0.15. Only 1% of other pairs had less than 0.47.
_WORTH = 0.4
_HOPEFUL = 0.1  # the same at _COARSE; above it, _FINE is not tried
_MOST_MOVED = 0.1  # halves of the image's side
_LEAST_CONTRAST = 1.0  # gray levels, standard deviation
_CHUNK = 64  # pairs at a time; more would not fit the processor's cache
_SMALLEST_WEIGHT = 1e-9  # smaller ones may be denormal in float32, which is ten times slower


@dataclass(frozen=True)
class Candidates:
    """Rows of the elder images, `left`, and of the younger ones, `right`, int64 [M].

    `distance`, uint8 [M], is the number of bits in which their hashes differ. Sorted by right, distance, left.
    """

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    distance: NDArray[np.uint8]


def candidates(
    hashes: NDArray[np.uint8], new: NDArray[np.bool_], nearest: int = NEAREST, max_distance: int = _MAX_DISTANCE
) -> Candidates:
    """Pair every new image with its `nearest` elders by hash, among those found within `max_distance` bits.

    hashes: uint8 [N, HASH_BYTES]. new: bool [N]. An image's elders are all images that are not new, and new ones
    in earlier rows. So images give the same pairs in one night or in several, if their order is the same.

    There are at most N x `nearest` pairs. Among thousands of close hashes, an image is compared with 16 neighbours in
    every sorted order; among thousands of equal ones, with the 4 eldest. The time is O(N log N) for a first night.
    Later it grows with the new images and those that share a key with them.

    After Charikar 2002, "Similarity estimation techniques from rounding algorithms", section 3, and Manku et al.
    2007, "Detecting near-duplicates for web crawling", section 3.
    """
    if hashes.shape != (len(new), HASH_BYTES) or len(new) > _MAX_IMAGES:
        raise ValueError(f"hashes of shape {hashes.shape} for {len(new)} images: need [N, {HASH_BYTES}], N <= 2**28")
    by_age = np.argsort(new, kind="stable")
    columns, new = np.take(hashes.T, by_age, axis=1), new[by_age]
    held, waiting = np.empty(0, np.uint64), list[NDArray[np.uint64]]()
    farthest = np.full(len(new), np.iinfo(np.uint64).max)  # an image's last pair, if it has `nearest`
    for table in _TABLES:
        for pairs in _neighbours(columns, new, table, max_distance):
            waiting.append(pairs[pairs < farthest[pairs >> _YOUNGER]])
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
    return Candidates(left, right, (held >> _DISTANCE & np.uint64(255)).astype(np.uint8))


def _neighbours(
    columns: NDArray[np.uint8], new: NDArray[np.bool_], table: tuple[int, ...], max_distance: int
) -> Iterator[NDArray[np.uint64]]:
    """Yield packed pairs with a new image, in batches."""
    key = _nibbles(columns, table)
    has_new = np.zeros(16**_KEY_NIBBLES, np.bool_)
    has_new[key[new]] = True
    rows = np.flatnonzero(has_new[key])
    # The rest of the hash follows, so that close hashes tend to be neighbours within a key, too.
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
        for place in range(_LEADERS if table == _TABLES[0] else 0):  # other tables give the same pairs
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
    """Join nibbles of the hashes, uint8 [HASH_BYTES, N], to numbers, uint64 [N]."""
    words = np.zeros(columns.shape[1], np.uint64)
    for place in places:
        byte = columns[place // 2]
        words <<= np.uint64(4)
        words |= byte & 15 if place % 2 else byte >> 4
    return words


def _keep_nearest(packed: NDArray[np.uint64], nearest: int) -> NDArray[np.uint64]:
    """Drop repeated pairs, and keep the first `nearest` of every younger image."""
    packed.sort()
    keep = np.ones(len(packed), np.bool_)
    keep[1:] = packed[1:] != packed[:-1]
    packed = packed[keep]
    younger = (packed >> _YOUNGER).astype(np.uint32)
    keep = np.ones(len(packed), np.bool_)
    keep[nearest:] = younger[nearest:] != younger[:-nearest]
    return packed[keep]


def look_alike(size: int) -> float:
    """Return the largest residual of look-alikes, for images of `size` pixels a side."""
    return _UNEXPLAINED_SMALL if size < _COARSE else _UNEXPLAINED


def copy_of(most: float) -> float:
    """Return the largest residual of copies: the same picture encoded, scaled or toned again. most: of look-alikes."""
    return most / 8


def residuals(left: Pixels, right: Pixels) -> _Floats:
    """Return the share of the left pictures' variance that the right ones leave unexplained, float32 [M].

    left, right: uint8 [M, size, size]. 0: equal pixels. Pictures with a share of at most `look_alike` look the same.

    The right one is shifted and stretched a little, and its tones are bent by a parabola. Shift and stretch are least
    squares on the slopes, coarse before fine. After Lucas & Kanade 1981, "An iterative image registration technique".

    Below 32 pixels only brightness and contrast may differ. Flat images have no share: infinite unless they are equal.
    """
    share = np.where((left == right).all((1, 2)), 0, np.inf).astype(np.float32)
    for start in range(0, len(left), _CHUNK):
        rows = start + np.flatnonzero(share[start : start + _CHUNK])
        if not len(rows):  # every pair of the block has equal pixels
            continue
        (a, contrast), (b, other) = _standard(left[rows]), _standard(right[rows])
        enough = (contrast > _LEAST_CONTRAST) & (other > _LEAST_CONTRAST)
        rows, a, b = rows[enough], a[enough], b[enough]
        if len(rows):
            share[rows] = np.maximum(0, _uncorrelated(a, b) if left.shape[1] < _COARSE else _unexplained(a, b))
    return share


def _standard(images: Pixels) -> tuple[_Floats, _Floats]:
    """Scale images to mean 0 and standard deviation 1, flat ones to 0. Also return the deviations, in gray levels."""
    centred = images - images.mean((1, 2), dtype=np.float32, keepdims=True)
    deviation = np.sqrt(np.einsum("nij,nij->n", centred, centred) / centred[0].size)
    centred /= np.where(deviation > 0, deviation, 1)[:, None, None]
    return centred, deviation


def _uncorrelated(a: _Floats, b: _Floats) -> _Floats:
    """Return the share of a's variance that b explains with no brightness and contrast, float32 [M]."""
    return 1 - np.maximum((a * b).mean((1, 2)), 0) ** 2


def _unexplained(a: _Floats, b: _Floats) -> _Floats:
    """Return the share of a's variance that b explains with no shift, stretch and tones, float32 [M].

    Pairs that differ much when coarse are not compared when fine; their share is rough.
    """
    coarse, fine = (_COARSE, 0.7), (min(_FINE, a.shape[1]), 1.5)
    moved, share = _fit(_reduced(a, *coarse), _reduced(b, *coarse), None)
    # A second fine step corrects crops that the first leaves a little off.
    steps = ((-np.inf, _WORTH, coarse), (-np.inf, _HOPEFUL, fine), (_UNEXPLAINED, 2 * _UNEXPLAINED, fine))
    for low, high, scale in steps:
        again = np.flatnonzero((share > low) & (share <= high))
        if len(again):
            moved[again], share[again] = _fit(_reduced(a[again], *scale), _reduced(b[again], *scale), moved[again])
    return share


def _reduced(images: _Floats, size: int, blur: float) -> _Floats:
    """Average float32 [M, H, H] to [M, size, size] and blur it by a standard deviation in pixels.

    Encoding changes mostly fine detail.
    """
    weights = _weights(images.shape[1], size, blur)
    return weights @ (images @ weights.T)


@lru_cache(maxsize=8)
def _weights(source: int, size: int, blur: float) -> _Floats:
    """Return the matrix for one side, float32 [size, source]."""
    scale = source / size
    centres = (np.arange(size) + 0.5) * scale - 0.5
    average = np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(source)) / scale)
    gauss = np.exp(-0.5 * (np.subtract.outer(np.arange(size), np.arange(size)) / blur) ** 2)
    weights = gauss @ (average / average.sum(1, keepdims=True))
    weights[weights < _SMALLEST_WEIGHT] = 0
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _fit(a: _Floats, b: _Floats, moved: _Floats | None) -> tuple[_Floats, _Floats]:
    """Improve b's movement, float32 [M, 4] as in `_move` or none yet, by one step of least squares.

    Also return the share of a's variance that b leaves. The margin does not count, because b may lack it.
    """
    count, size = len(a), a.shape[1]
    margin = size // 16
    inner, before, after = (slice(margin + k, size - margin + k) for k in (0, -1, 1))
    place = np.linspace(-1, 1, size, dtype=np.float32)[inner]
    b = b if moved is None else _move(b, moved)
    moved = np.zeros((count, 4), np.float32) if moved is None else moved
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
    """Move images bilinearly: the value at u comes from (1 + stretch) u + shift.

    moved: float32 [M, 4], stretch and shift across, then down, in halves of the side.
    """
    size = images.shape[1]
    place = np.linspace(-1, 1, size, dtype=np.float32)
    at = (1 + moved[:, ::2, None]) * place + moved[:, 1::2, None]  # [M, across and down, size]
    at = np.clip((at + 1) * ((size - 1) / 2), 0, size - 1)
    across, down = np.maximum(0, 1 - np.abs(at[..., None] - np.arange(size, dtype=np.float32))).transpose(1, 0, 2, 3)
    return down @ images @ across.transpose(0, 2, 1)


def clusters(count: int, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the lowest row that pairs connect an image with, directly or through others, int64 [count]."""
    from scipy.sparse import coo_matrix  # takes 0.3 s to import, and reading images does not need it
    from scipy.sparse.csgraph import connected_components

    links = coo_matrix((np.ones(len(left), np.bool_), (left, right)), (count, count))
    _, component = connected_components(links, directed=False)
    _, lowest = np.unique(component, return_index=True)
    return lowest[component].astype(np.int64)
