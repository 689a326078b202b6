"""From feature maps to the vector that is classified: the last stage's mean, or all stages together."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Channels that the multi-scale head projects each stage to, in widths of the first stage.
PROJECTED_WIDTHS = 2


class MultiScaleHead(nn.Module):
    """Feature maps [B, C_k, H_k, W_k] of every stage -> [B, width], whatever the size of the image.

    Small and faint things are seen best by the early stages and are averaged away by the last one. Each
    stage is pooled to its mean and its maximum side by side, [B, 2 C_k], projected to the same width and
    normalised, so that no stage is louder than another; ReLU of their sum.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * count, width, bias=False), nn.BatchNorm1d(width)) for count in channels
        )

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        projected = [project(mean_and_maximum(x)) for project, x in zip(self.projections, stages, strict=True)]
        return F.relu(torch.stack(projected).sum(0))


def mean_and_maximum(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, 2 C], over rows and columns."""
    return torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)
