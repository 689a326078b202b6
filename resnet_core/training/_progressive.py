"""Training at several sizes: drawn for each batch, growing over the epochs, or both.

Growing sizes: progressive learning, Tan & Le 2021 (EfficientNetV2, arXiv:2104.00298, section 4.2).
They end at the full side, at which the model is used: a network that only ever saw another size
is off at this one (Touvron et al. 2019, arXiv:1906.06423).
"""

from collections.abc import Sequence

import torch

STEP = 8  # pixels: every new shape costs an allocation, a choice of kernels, a compilation
_WEAKEST = 0.5  # regularisation at the smallest size


def sides(
    scales: Sequence[int],
    progressive: float,
    size: int,
    epoch: int,
    epochs: int,
    steps: int,
    generator: torch.Generator,
) -> list[int]:
    """The side in pixels of each of the epoch's `steps` batches; epochs count from 1.

    scales: sides of which one is drawn for each batch; empty: `size`.
    progressive: the first epoch's share of that side, 0 to 1; 0 is off. The share grows linearly
        until the last third of the epochs, which has all of it. A lesser side is a multiple of STEP.
    """
    drawn = [size] * steps
    if scales:
        drawn = [scales[k] for k in torch.randint(0, len(scales), (steps,), generator=generator).tolist()]
    if progressive == 0:
        return drawn
    share = progressive + (1 - progressive) * growth(epoch, epochs)
    return [side if share == 1 else min(side, max(STEP, round(share * side / STEP) * STEP)) for side in drawn]


def strength(epoch: int, epochs: int, progressive: float) -> float:
    """How much regularisation the epoch's size wants: from WEAKEST to 1, as the size grows."""
    return 1.0 if progressive == 0 else _WEAKEST + (1 - _WEAKEST) * growth(epoch, epochs)


def growth(epoch: int, epochs: int) -> float:
    """0 in the first epoch, 1 from the first of the last third on."""
    full = 1 + 2 * epochs // 3
    return 1.0 if epoch >= full else (epoch - 1) / (full - 1)
