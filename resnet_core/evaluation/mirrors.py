"""Mirrors: learn from the images which mirror images keep every class.

A quick classifier learns from images as they are, and answers for others as they are and mirrored. A mirror by which
a class is recognised far less often changes classes: letters, digits and arrows are examples.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from resnet_core.model.inputs import Flips

_SIDE = 48  # px; larger images are shrunk to it
_FILTERS, _KERNEL, _GRID = 48, 5, 3  # random filters, their side, and the grid over which each is pooled
_FOLDS, _RIDGE = 4, 0.3
_LOST, _LEAST = 0.5, 0.05  # of the recall above chance, and of a class: losing more changes the class
_SURE, _KNOWN = 2.0, 3.0  # standard deviations


@dataclass(frozen=True)
class Mirrors:
    """The mirrors that keep classes, and why. known: whether the quick classifier recognises anything."""

    flips: Flips
    why: str
    known: bool


def learn_mirrors(pixels: NDArray[np.uint8], labels: NDArray[np.int64], classes: tuple[str, ...]) -> Mirrors:
    """Learn from uint8 [N, S, S] and int64 [N]; some hundred images of each class are enough."""
    x = torch.from_numpy(pixels).unsqueeze(1).float() / 255
    if x.shape[-1] > _SIDE:
        x = F.interpolate(x, (_SIDE, _SIDE), mode="area")
    views = [x, x.flip(3), x.flip(2), x.transpose(2, 3)]
    right = _right([_features(view) for view in views], torch.from_numpy(labels), len(classes))
    recalls = np.array([right[0][labels == label].mean() for label in np.unique(labels)])
    chance = 1 / len(recalls)
    error = np.sqrt(chance * (1 - chance) / np.bincount(labels)[np.unique(labels)].astype(float)).mean()
    error /= np.sqrt(len(recalls))
    if recalls.mean() < chance + _KNOWN * error:
        return Mirrors("horizontal", "a quick look tells no class from another, mirrored or not", known=False)
    worst = [_worst(right[0], view, labels, classes) for view in right[1:]]
    across, down, turned = (not each for each in worst)
    flips: Flips = "none"
    if across:
        flips = "dihedral" if down and turned else "both" if down else "horizontal"
    elif down:
        flips = "vertical"
    why = next((each for each in worst if each), "every class is recognised mirrored and turned")
    return Mirrors(flips, why, known=True)


def _features(x: Tensor) -> Tensor:
    """Return the answers of random filters, pooled, float32 [N, D], for [N, 1, S, S]."""
    generator = torch.Generator().manual_seed(0)
    filters = torch.randn(_FILTERS, 1, _KERNEL, _KERNEL, generator=generator)
    filters = F.normalize((filters - filters.mean((2, 3), keepdim=True)).flatten(1)).view_as(filters)
    parts = []
    for scale in (1, 2):
        found = F.conv2d(F.avg_pool2d(x, scale), filters, padding=_KERNEL // 2).relu_()
        parts += [F.adaptive_max_pool2d(found, _GRID).flatten(1), F.adaptive_avg_pool2d(found, _GRID).flatten(1)]
    return torch.cat(parts, 1)


def _right(views: list[Tensor], labels: Tensor, classes: int) -> list[NDArray[np.bool_]]:
    """Return which images of each view are recognised by ridge regression on other images of the first view."""
    shift, scale = views[0].mean(0), views[0].std(0) + 1e-6
    views = [(view - shift) / scale for view in views]
    counts = torch.bincount(labels, minlength=classes).clamp(min=1)
    weights = len(labels) / (len(counts) * counts[labels].float())
    targets = F.one_hot(labels, classes).float()
    targets = targets - 1 / classes
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    order = order[torch.argsort(labels[order], stable=True)]
    fold = torch.empty_like(order)
    fold[order] = torch.arange(len(order)) % _FOLDS
    right = [np.zeros(len(labels), np.bool_) for _ in views]
    for number in range(_FOLDS):
        own, rest = fold == number, fold != number
        known = views[0][rest]
        gram = known @ known.T / known.shape[1] + _RIDGE * torch.diag(1 / weights[rest])
        solved = known.T @ torch.linalg.solve(gram, targets[rest]) / known.shape[1]
        for view, found in zip(views, right, strict=True):
            found[own.numpy()] = ((view[own] @ solved).argmax(1) == labels[own]).numpy()
    return right


def _worst(
    own: NDArray[np.bool_], mirrored: NDArray[np.bool_], labels: NDArray[np.int64], classes: tuple[str, ...]
) -> str:
    """Return the class that a mirror changes most, in words; nothing if it changes none."""
    found = []
    for label in np.unique(labels):
        before, after = own[labels == label], mirrored[labels == label]
        lost, differ = before.mean() - after.mean(), (before != after).sum() / len(before) ** 2
        above = before.mean() - 1 / len(np.unique(labels))
        if lost > max(_LEAST, _LOST * above, _SURE * np.sqrt(differ)):
            text = f"{classes[label]!r} is recognised in {before.mean():.0%}, mirrored in {after.mean():.0%}"
            found.append((lost, text))
    return max(found)[1] if found else ""
