"""Neighbours: the training images that a classifier finds most similar to an image.

Similarity is the cosine between pooled features, the input of the last layer (`pool` of `resnet.features`).
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

# Training images to search at most: a pass over a million takes longer than the other pages of a night.
MOST_IMAGES = 20_000
_BATCH = 128


@dataclass(frozen=True, order=True)
class Neighbour:
    """A training image; `similarity` is a cosine, 1 for the same direction."""

    similarity: float
    image_id: str
    label: int = field(compare=False)  # place in the class names
    pixels: Gray = field(compare=False)  # uint8 [S, S]


def embed(classifier: Classifier, pixels: NDArray[np.uint8]) -> _Embeddings:
    """uint8 [N, S, S] -> float32 [N, D] of length 1, from the images as they are, without mirror images."""
    embeddings: _Embeddings = normalize(torch.from_numpy(embedding.embed(classifier, pixels, _BATCH))).numpy()
    return embeddings


def nearest(
    classifier: Classifier, queries: NDArray[np.uint8], pieces: Iterable[Images], count: int
) -> list[list[Neighbour]]:
    """Return the `count` most similar images for each of `queries`, uint8 [Q, S, S], the nearest first.

    pieces: the training images; one piece and the neighbours found so far are in memory.
    """
    best: list[list[Neighbour]] = [[] for _ in queries]
    if not len(queries):
        return best
    targets = embed(classifier, queries)
    for images in pieces:
        if not len(images):
            continue
        similarity = targets @ embed(classifier, images.pixels).T  # [Q, N]
        for query, row in enumerate(similarity):
            for k in np.argsort(-row, kind="stable")[:count]:
                neighbour = Neighbour(
                    float(row[k]), images.image_ids[k], int(images.labels[k]), images.pixels[k].copy()
                )
                best[query].append(neighbour)
            best[query] = heapq.nlargest(count, best[query])
    return best


def sampled(pieces: Iterable[Images], of: int, most: int = MOST_IMAGES) -> Iterable[Images]:
    """Yield about `most` of `of` images, or all if there are fewer.

    The sample has the lowest ids: digests of bytes, so that it is the same every time.
    """
    for images in pieces:
        yield images if of <= most else _chosen(images, most / of)


def _chosen(images: Images, share: float) -> Images:
    low = np.array([int(image[:8], 16) < share * 2**32 for image in images.image_ids], dtype=bool)
    return Images(images.image_ids[low], images.labels[low], images.weights[low], images.pixels[low])
