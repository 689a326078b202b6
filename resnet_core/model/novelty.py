"""Novelty: how far an image lies from all that was learned, in `novelty.safetensors` beside the model.

tensor      shape    content
centre      [F]      mean features of the training images: D of the last layer's input, E of the first two stages
directions  [D, R]   directions in which the classes differ, whitened within the classes
means       [K, R]   mean of each class's training images in these directions
shrunk      [R]      1 / (1 + variance of the class means)
early       [E, E]   whitening of the first two stages' means
early_means [K, E]   mean of each class's training images in them
scale       [4]      median and 95% quantile less median of both distances, on the training images
held_out    [N]      distances of held-out images, ascending

Two distances are added, each in units of its spread. The first is Mahalanobis's to the nearest class, less that to all
images (relative Mahalanobis; Ren et al. 2021, arXiv:2106.09022): only directions in which classes differ remain. It
tells images near the known ones. The second is Mahalanobis's in early layers (Lee et al. 2018, arXiv:1807.03888), which
tells other kinds of images.

The p-value is the share of held-out images at least as far: (1 + count) / (N + 1), by split conformal prediction (Bates
et al. 2023, arXiv:2104.08279). So at most a share `level` of images like the held-out ones is called unknown.
"""

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

NOVELTY = "novelty.safetensors"
_FACTS = "grayline"  # the key of the header's metadata
_TENSORS = ("centre", "directions", "means", "shrunk", "early", "early_means", "scale")
_NONE = np.empty(0, np.float32)

Distances = NDArray[np.float32]  # [N]


@dataclass(frozen=True, eq=False)
class Novelty:
    """The measure of unknown images. `held_out` is empty until an evaluation has measured it.

    level: an image is unknown if its p-value is below.
    """

    level: float
    centre: Tensor
    directions: Tensor
    means: Tensor
    shrunk: Tensor
    early: Tensor
    early_means: Tensor
    scale: Tensor
    held_out: Distances = field(default_factory=lambda: _NONE)

    def to(self, device: torch.device) -> "Novelty":
        return replace(self, **{name: getattr(self, name).to(device) for name in _TENSORS})

    def distances(self, features: Tensor) -> Tensor:
        """Return the distance of each row of features, float32 [B, F] -> [B]."""
        near, far = self.both(features)
        return (near - self.scale[0]) / self.scale[1] + (far - self.scale[2]) / self.scale[3]

    def both(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two distances [B] before they are scaled."""
        last, early = (features - self.centre).split([len(self.directions), len(self.early)], 1)
        points = last @ self.directions
        near = _nearest(points, self.means) - points.square() @ self.shrunk
        return near, _nearest(early @ self.early, self.early_means)

    def p_values(self, distances: Distances) -> NDArray[np.float32]:
        """Return the share of held-out images at least as far, float32 [N]."""
        nearer = np.searchsorted(self.held_out, distances, side="left")
        return ((1 + len(self.held_out) - nearer) / (1 + len(self.held_out))).astype(np.float32)

    def translated(self, distances: Distances, held_out: Distances) -> Distances:
        """Translate distances that other arithmetic measures; held_out: what it measures of the held-out images.

        Ranks among them become the same ranks among our own.
        """
        others, first = np.unique(held_out, return_index=True)
        beyond = np.maximum(distances - others[-1], 0)
        return (np.interp(distances, others, self.held_out[first]) + beyond).astype(np.float32)

    def is_unknown(self, p_values: NDArray[np.float32]) -> NDArray[np.bool_]:
        return p_values < np.float32(self.level)

    @property
    def depth(self) -> int:
        """Return how many of N + 1 ranks are below the level: 0 if there are too few held-out images."""
        return math.ceil(self.level * (len(self.held_out) + 1) - 1e-9) - 1

    def save(self, folder: Path) -> None:
        tensors = {name: getattr(self, name).contiguous().cpu() for name in _TENSORS}
        save_file(
            tensors | {"held_out": torch.from_numpy(self.held_out)},
            folder / NOVELTY,
            {_FACTS: json.dumps({"level": self.level})},
        )


def _nearest(points: Tensor, means: Tensor) -> Tensor:
    """Return the squared distance of each point, [B, R], to the nearest mean, [K, R]."""
    squares = points.square().sum(1, keepdim=True) - 2 * points @ means.T + means.square().sum(1)
    return squares.amin(1).clamp_min(0)


def load_novelty(folder: Path, last: int, early: int) -> Novelty | None:
    """Read the file of `save`; None without one.

    Raises ValueError for tensors that are not of `last` features of the last layer and `early` ones.
    """
    path = folder / NOVELTY
    if not path.exists():
        return None
    refusal = ValueError(f"{NOVELTY} does not fit the network, which has {last} and {early} features")
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in _TENSORS}
            held_out = file.get_tensor("held_out")
            level = float(json.loads(file.metadata()[_FACTS])["level"])
    except (SafetensorError, KeyError, TypeError) as error:
        raise refusal from error
    classes, ranks = tensors["means"].shape if tensors["means"].dim() == 2 else (0, 0)
    shapes = ((last + early,), (last, ranks), (classes, ranks), (ranks,), (early, early), (classes, early), (4,))
    if tuple(tuple(tensor.shape) for tensor in tensors.values()) != shapes or held_out.dim() != 1 or not classes:
        raise refusal
    if not all(t.dtype == torch.float32 and torch.isfinite(t).all() for t in (*tensors.values(), held_out)):
        raise refusal
    return Novelty(level, **tensors, held_out=held_out.numpy())
