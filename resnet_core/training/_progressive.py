"""Training at several sizes: drawn for each batch, growing over the epochs, or both.

Growing sizes: progressive learning, Tan & Le 2021 (EfficientNetV2, arXiv:2104.00298, section 4.2). They end at the full
side, at which the model is used: a network is off at sizes that it has not seen (Touvron et al. 2019,
arXiv:1906.06423).
"""

import torch

from resnet_core.training.config import TrainConfig

STEP = 8  # pixels: every new shape costs an allocation, a choice of kernels, a compilation
_WEAKEST = 0.5  # regularisation at the smallest size


def draw_sides(config: TrainConfig, size: int, epoch: int, steps: int, generator: torch.Generator) -> list[int]:
    """Return the side in pixels of each of the epoch's `steps` batches; epochs count from 1.

    A side is drawn from `config.scales`, or is `size`. `config.progressive` is the first epoch's share of it. The share
    grows linearly up to the last third of the epochs, which has all of it. Smaller sides are multiples of STEP.
    """
    drawn, scales = [size] * steps, config.scales
    if scales:
        drawn = [scales[k] for k in torch.randint(0, len(scales), (steps,), generator=generator).tolist()]
    if config.progressive == 0:
        return drawn
    share = config.progressive + (1 - config.progressive) * _growth(epoch, config.epochs)
    return [side if share == 1 else min(side, max(STEP, round(share * side / STEP) * STEP)) for side in drawn]


def strength(config: TrainConfig, epoch: int) -> float:
    """Return the regularisation for the epoch's size: from 0.5 to 1, as the size grows."""
    return 1.0 if config.progressive == 0 else _WEAKEST + (1 - _WEAKEST) * _growth(epoch, config.epochs)


def _growth(epoch: int, epochs: int) -> float:
    """Return 0 for the first epoch, 1 from the first of the last third on."""
    full = 1 + 2 * epochs // 3
    return 1.0 if epoch >= full else (epoch - 1) / (full - 1)
