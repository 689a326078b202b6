"""The training images that a classifier finds most like another one: what it may have learned it from.

Likeness is the cosine between what the last layer sees of the two images (`pool` of `resnet.features`).
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from resnet_core.images.preprocessing import Gray
from resnet_core.model import features as embedding
from resnet_core.model.classifier import Classifier
from resnet_core.shards.format import Images

_Embeddings = NDArray[np.float32]  # [N, D], each of length 1

# Of more training images so many are looked at: a pass over a million would cost more than the rest of a night's pages.
MOST_IMAGES = 20_000
AT_ONCE = 128


@dataclass(frozen=True, order=True)
class Neighbour:
    """A training image; `similarity` is a cosine, 1 for the same direction."""

    similarity: float
    image_id: str
    label: int = field(compare=False)  # place in the class names
    pixels: Gray = field(compare=False)  # uint8 [S, S]


def embed(classifier: Classifier, pixels: NDArray[np.uint8]) -> _Embeddings:
    """uint8 [N, S, S] -> float32 [N, D], of the images as they are: one look each."""
    found: _Embeddings = normalize(torch.from_numpy(embedding.embed(classifier, pixels, AT_ONCE))).numpy()
    return found


def nearest(
    classifier: Classifier, queries: NDArray[np.uint8], pieces: Iterable[Images], count: int
) -> list[list[Neighbour]]:
    """For each of `queries`, uint8 [Q, S, S], the `count` images most like it, the nearest first. Of what is
    gone through, `pieces`, no more than one piece and the found images are in memory."""
    best: list[list[Neighbour]] = [[] for _ in queries]
    if not len(queries):
        return best
    wanted = embed(classifier, queries)
    for images in pieces:
        if not len(images):
            continue
        similarity = wanted @ embed(classifier, images.pixels).T  # [Q, N]
        for query, row in enumerate(similarity):
            for k in np.argsort(-row, kind="stable")[:count]:
                found = Neighbour(float(row[k]), images.image_ids[k], int(images.labels[k]), images.pixels[k].copy())
                best[query].append(found)
            best[query] = heapq.nlargest(count, best[query])
    return best


def sampled(pieces: Iterable[Images], of: int, most: int = MOST_IMAGES) -> Iterable[Images]:
    """About `most` of `of` images, the same ones every time: those whose ids, digests of their bytes, are
    lowest. All of them where there are no more."""
    for images in pieces:
        yield images if of <= most else _chosen(images, most / of)


def _chosen(images: Images, share: float) -> Images:
    low = np.array([int(image[:8], 16) < share * 2**32 for image in images.image_ids], dtype=bool)
    return Images(images.image_ids[low], images.labels[low], images.weights[low], images.pixels[low])
