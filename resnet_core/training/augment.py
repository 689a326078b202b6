"""Random changes of a whole batch of gray levels, [B, H, W], on its device.

Flips, shifts and erasing keep uint8; the rest returns float32. An operation that is off draws no random numbers. These
come from a generator on the CPU, so that every device draws alike.
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Le, Lt
from torch import Tensor

from resnet_core.model.inputs import Flips

ERASED_AREA = (0.02, 0.33)  # shares of the image (Zhong et al. 2020, section 4.2)
_ERASED_ASPECT = (0.3, 1 / 0.3)  # height over width


@dataclass(frozen=True)
class AugmentConfig:
    """flips: mirror images that are as likely as the original (`dihedral` adds quarter turns).
    shift: the largest move along an axis, as a share of the side; the mirrored border enters.
    rotate: degrees at most, either way. zoom: 0.1 is 0.9 to 1.1 times.
    brightness: levels at most, either way, as a share of 255.
    contrast: 0.1 is 0.9 to 1.1 times the distance from the image's mean.
    noise: standard deviation as a share of 255. erase: the share of the images that lose a rectangle.
    mixup, cutmix: alpha of the Beta distribution, see `mix`; 0 is off.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    flips: Flips = "horizontal"
    shift: Annotated[float, Ge(0), Le(0.5)] = 0.06
    rotate: Annotated[float, Ge(0), Le(180)] = 0.0
    zoom: Annotated[float, Ge(0), Lt(1)] = 0.0
    brightness: Annotated[float, Ge(0), Le(1)] = 0.0
    contrast: Annotated[float, Ge(0), Le(1)] = 0.0
    noise: Annotated[float, Ge(0), Le(1)] = 0.0
    erase: Annotated[float, Ge(0), Le(1)] = 0.0
    mixup: Annotated[float, Ge(0)] = 0.0
    cutmix: Annotated[float, Ge(0)] = 0.0


def weaker(config: AugmentConfig, strength: float) -> AugmentConfig:
    """Multiply everything but the flips by `strength`, 0 to 1 (Tan & Le 2021, arXiv:2104.00298, section 4.2)."""
    names = ("shift", "rotate", "zoom", "brightness", "contrast", "noise", "erase", "mixup", "cutmix")
    return replace(config, **{name: strength * getattr(config, name) for name in names})


def augment(pixels: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Change uint8 [B, H, W] at random; return uint8 or float32 [B, H, W], levels 0 to 255."""
    x = flip_and_shift(pixels, config.flips, round(config.shift * pixels.shape[-1]), generator)
    if config.rotate or config.zoom:
        x = _turn(x, config.rotate, config.zoom, generator)
    if config.brightness or config.contrast:
        x = _relight(x, config.brightness, config.contrast, generator)
    if config.noise:
        drawn = torch.randn(x.shape, generator=generator).mul_(255 * config.noise)
        x = drawn.to(x.device).add_(x).clamp_(0, 255)
    if config.erase:
        x = _erase(x, config.erase, generator)
    return x


def flip_and_shift(x: Tensor, flips: Flips, most: int, generator: torch.Generator) -> Tensor:
    """Mirror images with probability a half along every allowed direction, and move them by up to `most` pixels.

    Takes [B, H, W] (dihedral: H = W). It gathers whole rows, from a batch whose rows are mirrored and lengthened at
    both ends. A flip reads an image's rows in another order; a shift reads `width` pixels from another place on.
    """
    if flips == "none" and most == 0:
        return x
    count, height, width = x.shape
    image = torch.arange(count)[:, None]
    row = torch.arange(height)[None, :]
    coins = torch.randint(0, 2, (3, count, 1), generator=generator)
    moves = torch.randint(-most, most + 1, (2, count, 1), generator=generator)
    if flips == "dihedral":  # two mirrors and a transposition make all eight
        chosen = (image + coins[2] * count).view(-1).to(x.device)
        x = torch.cat([x, x.transpose(1, 2)]).index_select(0, chosen)
    rows = x
    if most:
        rows = torch.cat([rows[:, :, 1 : most + 1].flip(2), rows, rows[:, :, -most - 1 : -1].flip(2)], dim=2)
    if flips in ("horizontal", "both", "dihedral"):
        image = image + coins[0] * count
        rows = torch.cat([rows, rows.flip(2)])
    if flips in ("vertical", "both", "dihedral"):
        row = (row - coins[1] * (height - 1)).abs()
    row = (row + moves[0]).abs()
    row = torch.minimum(row, 2 * (height - 1) - row)  # back into the image, the border not repeated
    starts = (image * height + row) * (width + 2 * most) + most + moves[1]
    windows = rows.reshape(-1).unfold(0, width, 1)  # a view: the `width` pixels from each place on
    return windows.index_select(0, starts.view(-1).to(x.device)).view(x.shape)


def _uniform(count: int, most: float, generator: torch.Generator) -> Tensor:
    """Draw float32 [count] between -most and most."""
    return torch.rand(count, generator=generator).mul_(2 * most).sub_(most)


def _turn(x: Tensor, rotate: float, zoom: float, generator: torch.Generator) -> Tensor:
    """Rotate each image about its centre and enlarge or shrink it, bilinearly; float32 [B, H, W]."""
    count, height, width = x.shape
    angle = _uniform(count, math.radians(rotate), generator)
    scale = 1 + _uniform(count, zoom, generator)
    cosine, sine = angle.cos() / scale, angle.sin() / scale
    across = (2 * torch.arange(width) + 1) / width - 1  # pixel centres, the image from -1 to 1
    down = (2 * torch.arange(height) + 1) / height - 1
    places = torch.stack([across.expand(height, width), down[:, None].expand(height, width)]).view(2, -1)
    ratio = height / width  # an angle is one between pixels
    theta = torch.stack([cosine, -sine * ratio, sine / ratio, cosine], dim=1).view(2 * count, 2)
    # a single product for the batch: F.affine_grid multiplies image by image, and is 10 times slower
    grid = (theta.to(x.device) @ places.to(x.device)).view(count, 2, height, width).permute(0, 2, 3, 1)
    return F.grid_sample(x.unsqueeze(1).float(), grid, padding_mode="reflection", align_corners=False).squeeze(1)


def _relight(x: Tensor, brightness: float, contrast: float, generator: torch.Generator) -> Tensor:
    """Stretch each image's levels about their mean, and add to them; float32 [B, H, W]."""
    factor = (1 + _uniform(len(x), contrast, generator)).to(x.device)[:, None, None]
    offset = _uniform(len(x), 255 * brightness, generator).to(x.device)[:, None, None]
    mean = x.mean((1, 2), keepdim=True, dtype=torch.float32)
    return (x * factor).add_(mean * (1 - factor) + offset).clamp_(0, 255)


def _erase(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Fill a rectangle of each image, with probability `share`, with the image's mean; the dtype stays.

    Random erasing (Zhong et al. 2020, arXiv:1708.04896). A side longer than the image is cut to it.
    """
    count, height, width = x.shape
    chosen, area, aspect, top, left = torch.rand(5, count, 1, generator=generator)
    area = height * width * (ERASED_AREA[0] + area * (ERASED_AREA[1] - ERASED_AREA[0]))
    low, high = math.log(_ERASED_ASPECT[0]), math.log(_ERASED_ASPECT[1])
    aspect = torch.exp(low + aspect * (high - low))
    tall = (area * aspect).sqrt().round().clamp(1, height) * (chosen < share)
    wide = (area / aspect).sqrt().round().clamp(1, width)
    top = (top * (height - tall + 1)).floor()
    left = (left * (width - wide + 1)).floor()
    rows, columns = torch.arange(height), torch.arange(width)
    inside = ((rows >= top) & (rows < top + tall)).to(x.device, x.dtype)[:, :, None]
    across = ((columns >= left) & (columns < left + wide)).to(x.device, x.dtype)[:, None, :]
    fill = x.mean((1, 2), keepdim=True, dtype=torch.float32)
    fill = fill if x.is_floating_point() else fill.round().to(x.dtype)
    # products of 0 and 1: torch.where is 5 times slower on uint8
    return x * (1 - inside * across) + (fill * inside) * across


def mix(
    x: Tensor, targets: Tensor, weights: Tensor, config: AugmentConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Mix the images of a batch with those of a random permutation, by mixup or cutmix.

    x: float32 [B, 1, H, W]. targets: float32 [B, C], rows summing to 1. weights: float32 [B].

    The share is the same for the whole batch, from Beta(alpha, alpha); a coin chooses if both are on.
    Returns the same shapes, and the arguments themselves if both are off.
    """
    if not (config.mixup or config.cutmix):
        return x, targets, weights
    cut = config.cutmix > 0
    if config.mixup and config.cutmix:
        cut = bool(torch.randint(0, 2, (), generator=generator))
    # torch draws from a Beta distribution with its global generator only
    numbers = np.random.default_rng(int(torch.randint(0, 2**62, (), generator=generator)))
    alpha = config.cutmix if cut else config.mixup
    share = numbers.beta(alpha, alpha)
    partner = torch.randperm(len(x), generator=generator).to(x.device)
    if cut:
        x, share = _cutmix(x, partner, share, numbers)
    else:
        x = x[partner].lerp_(x, share)  # Zhang et al. 2018, arXiv:1710.09412
    return x, *_mix_targets(targets, weights, partner, share)


def _cutmix(x: Tensor, partner: Tensor, share: float, numbers: np.random.Generator) -> tuple[Tensor, float]:
    """Put a rectangle of the partner into each image (Yun et al. 2019, arXiv:1905.04899, appendix A).

    Returns the images and the share of their own pixels: the rectangle ends at the border.
    """
    height, width = x.shape[-2:]
    side = math.sqrt(1 - share)  # of the rectangle, as a share of the image's
    (top, bottom), (left, right) = (_cut(length, side, numbers) for length in (height, width))
    mixed = x.clone()
    mixed[..., top:bottom, left:right] = x[..., top:bottom, left:right][partner]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def _cut(length: int, share: float, numbers: np.random.Generator) -> tuple[int, int]:
    """Return first and last + 1 of `share` of `length` pixels about a random place, cut at the ends."""
    half, centre = round(share * length) / 2, numbers.integers(length)
    return max(0, math.ceil(centre - half)), min(length, math.ceil(centre + half))


def _mix_targets(targets: Tensor, weights: Tensor, partner: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Mix so that the loss is `share` of the image's own weighted loss, and the rest of its partner's."""
    mixed = share * weights + (1 - share) * weights[partner]
    shares = torch.where(mixed > 0, share * weights / mixed, share)[:, None]
    return shares * targets + (1 - shares) * targets[partner], mixed
