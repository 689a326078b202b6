"""Are two sets of vectors from the same distribution? Maximum mean discrepancy, and how often chance alone makes it
as large (Gretton et al. 2012, A Kernel Two-Sample Test, JMLR 13:723-773)."""

import numpy as np
from numpy.typing import NDArray

PERMUTATIONS = 1999  # the least p is 1 in 2,000
AT_ONCE = 500  # permutations whose sums are in memory, 8 bytes for each of them and each vector

Vectors = NDArray[np.floating]


def discrepancy(one: Vectors, other: Vectors, seed: int = 0) -> tuple[float, float]:
    """Two sets of vectors, float [N, D] and [M, D], N and M from 2 on -> the distance and its p.

    The distance is the root of the unbiased estimate (lemma 6 there), 0 where that is negative; the kernel is
    exp(-d^2 / 2 s^2) with s the median distance between any two of the vectors. 0: alike; 1 would be two clouds that
    are far apart and tight. p: of PERMUTATIONS divisions of all vectors into N and M, those with at least this
    estimate. Takes the time and memory of (N + M)^2.
    """
    kernel = gaussian_kernel(np.concatenate([one, other]).astype(np.float32))
    n, m = len(one), len(other)
    first = np.zeros((n + m, 1), np.float32)
    first[:n] = 1
    found = float(estimates(kernel, first)[0])
    generator, reached = np.random.default_rng(seed), 0
    for start in range(0, PERMUTATIONS, AT_ONCE):
        count = min(AT_ONCE, PERMUTATIONS - start)
        drawn = generator.permuted(np.repeat(first, count, axis=1), axis=0)
        reached += int((estimates(kernel, drawn) >= found).sum())
    return max(found, 0.0) ** 0.5, (1 + reached) / (1 + PERMUTATIONS)


def gaussian_kernel(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 [N, N], 0 on the diagonal, where each vector meets itself."""
    centred = vectors - vectors.mean(0)
    squares = np.einsum("ij,ij->i", centred, centred)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2 * centred @ centred.T, 0)
    middle = float(np.median(distances[np.triu_indices(len(vectors), 1)]))
    kernel: NDArray[np.float32] = np.exp(distances / np.float32(-2 * middle or -1))
    np.fill_diagonal(kernel, 0)
    return kernel


def estimates(kernel: NDArray[np.float32], first: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of K divisions of N vectors, float32 [N, K] with 1 for those of the first set: the squared discrepancy."""
    n = float(first[:, 0].sum())
    m = len(first) - n
    within = np.einsum("nk,nk->k", first, kernel @ first, dtype=np.float64)
    sums = kernel.sum(1, dtype=np.float64)
    across = sums @ first - within
    rest = sums.sum() - within - 2 * across
    return within / (n * (n - 1)) + rest / (m * (m - 1)) - 2 * across / (n * m)
