"""Mixup and CutMix: pairs of training images made into one, their targets with them.

torchvision.transforms.v2 has both, but draws from the global generator (a resumed run would differ)
and takes integer labels only (ours may be soft).
"""

import math

import numpy as np
import torch
from torch import Tensor

from resnet_core.training.augment import AugmentConfig


def mix(
    x: Tensor, targets: Tensor, weights: Tensor, config: AugmentConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Mix each image of the batch with one that a random permutation gives it.

    x: float32 [B, 1, H, W].
    targets: float32 [B, C], each row summing to 1.
    weights: float32 [B].
    generator: on the CPU, so that every device draws alike.

    One share for the whole batch, from Beta(alpha, alpha); where both are asked for, a coin decides
    for the batch. Returns the same shapes, and the arguments themselves where neither is asked for.
    """
    if not (config.mixup or config.cutmix):
        return x, targets, weights
    cut = config.cutmix > 0
    if config.mixup and config.cutmix:
        cut = bool(torch.randint(0, 2, (), generator=generator))
    # torch draws from a Beta distribution with the global generator only
    numbers = np.random.default_rng(int(torch.randint(0, 2**62, (), generator=generator)))
    alpha = config.cutmix if cut else config.mixup
    share = numbers.beta(alpha, alpha)
    partner = torch.randperm(len(x), generator=generator).to(x.device)
    if cut:
        x, share = cutmix(x, partner, share, numbers)
    else:
        x = mixup(x, partner, share)
    return x, *mix_targets(targets, weights, partner, share)


def mixup(x: Tensor, partner: Tensor, share: float) -> Tensor:
    """`share` of each image and the rest of its partner (Zhang et al. 2018, arXiv:1710.09412)."""
    return x[partner].lerp_(x, share)


def cutmix(x: Tensor, partner: Tensor, share: float, numbers: np.random.Generator) -> tuple[Tensor, float]:
    """Each image with a rectangle of its partner's in the same place (Yun et al. 2019, arXiv:1905.04899,
    appendix A), and the share of the pixels that are still its own: the rectangle ends at the border."""
    height, width = x.shape[-2:]
    side = math.sqrt(1 - share)  # of the rectangle, as a share of the image's
    (top, bottom), (left, right) = (cut(length, side, numbers) for length in (height, width))
    mixed = x.clone()
    mixed[..., top:bottom, left:right] = x[..., top:bottom, left:right][partner]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def cut(length: int, share: float, numbers: np.random.Generator) -> tuple[int, int]:
    """First and last + 1 of `share` of `length` pixels about a random one, as far as they are inside."""
    half, centre = round(share * length) / 2, numbers.integers(length)
    return max(0, math.ceil(centre - half)), min(length, math.ceil(centre + half))


def mix_targets(targets: Tensor, weights: Tensor, partner: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Targets and weights whose loss is `share` of the image's own weighted loss and the rest of its
    partner's: an image of weight 0 says nothing in a pair either."""
    mixed = share * weights + (1 - share) * weights[partner]
    shares = torch.where(mixed > 0, share * weights / mixed, share)[:, None]
    return shares * targets + (1 - shares) * targets[partner], mixed
