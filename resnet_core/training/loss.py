"""What a step makes small: cross-entropy against a share for each class, weighted by image and class."""

import torch
import torch.nn.functional as F
from torch import Tensor


def class_weights(counts: Tensor, balanced: bool) -> Tensor:
    """int64 [C] images of each class -> float32 [C], with a mean of 1 over the images; all 1 unless balanced."""
    if not balanced:
        return torch.ones(len(counts))
    return counts.sum() / (len(counts) * counts.clamp(min=1)).float()


def adjustment(counts: Tensor, strength: float) -> Tensor:
    """int64 [C] images of each class -> float32 [C] to add to the logits in training (Menon et al. 2020,
    arXiv:2007.07314, section 5): `strength` times the logarithm of each class's share. Without them, afterwards, a
    class is as likely as if it were not rare: at 1 the most likely one is best for the balanced accuracy."""
    return strength * (counts.clamp(min=1) / counts.sum()).float().log()


def as_targets(labels: Tensor, soft: Tensor | None, classes: int) -> Tensor:
    """int64 [B] labels -> float32 [B, C] shares: the soft labels where there are any."""
    return F.one_hot(labels, classes).float() if soft is None else soft


def image_weights(targets: Tensor, weights: Tensor, by_class: Tensor) -> Tensor:
    """float32 [B]: each image's own weight times that of its classes."""
    return weights * (targets @ by_class)


def cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor, smoothing: float) -> Tensor:
    """The weighted sum over a batch, of logits [B, C] against shares [B, C], with label smoothing
    (Szegedy et al. 2015, arXiv:1512.00567, section 7)."""
    losses = F.cross_entropy(logits.float(), targets, reduction="none", label_smoothing=smoothing)
    return (losses * weights).sum()
