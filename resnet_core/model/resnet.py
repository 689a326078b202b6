"""ResNet for one-channel images (He et al. 2015, arXiv:1512.03385), after torchvision's naming.

    stem      imagenet: 7x7 conv /2, batch norm, ReLU, 3x3 max pool /2     [B, w,    H/4,  W/4 ]
              small:    3x3 conv,    batch norm, ReLU                      [B, w,    H,    W   ]
    layer1    residual blocks                                              [B, e w,  as the stem's]
    layer2-4  residual blocks, the first one /2, twice the channels each   [B, 8e w, /8 of it]
    avgpool   head plain: mean over rows and columns of layer4             [B, 8e w]
    head      head multiscale, instead of avgpool: of each layer
                mean and maximum over rows and columns, side by side       [B, 2e w], ... [B, 16e w]
                linear without bias, batch norm                            [B, 2w] each
              and ReLU of the four's sum                                   [B, 2w]
    fc        linear                                                       [B, C]

(w is the width, 64 in the paper; e is 4 for bottleneck blocks, else 1; sides are rounded up.)

A block adds its input to what its convolutions make of it; where the shape changes, the input
passes a 1x1 convolution first. As in torchvision, the stride of a bottleneck is on its 3x3
convolution ("ResNet v1.5"). Every weight has torchvision's name and shape, the first convolution
aside, which has one input channel, and the multi-scale head's, which are `head.*`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le, Lt, MultipleOf
from torch import Tensor, nn

from resnet_core.model.inputs import Flips

# Channels that the multi-scale head projects each stage to, in widths of the first stage.
_PROJECTED_WIDTHS = 2


class _MultiScaleHead(nn.Module):
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
        projected = [project(_mean_and_maximum(x)) for project, x in zip(self.projections, stages, strict=True)]
        return F.relu(torch.stack(projected).sum(0))


def _mean_and_maximum(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, 2 C], over rows and columns."""
    return torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def _conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, stride, bias=False)


def _projection(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """The shortcut's 1x1 convolution, needed only where the block changes the shape."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(_conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))


def _stochastic_depth(rate: float) -> nn.Module | None:
    """What leaves out a block's convolutions for an image with probability `rate`, in training (Huang et
    al. 2016, arXiv:1603.09382, with the survivors scaled up in training instead of down afterwards).

    It draws from torch's global generator: who needs an epoch to be repeatable seeds that.
    """
    if rate == 0:
        return None
    # Here, and not at the top: where a finished model is only used there need be no torchvision.
    from torchvision.ops import StochasticDepth

    return StochasticDepth(rate, mode="row")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions: [B, inputs, H, W] -> [B, planes, H/stride, W/stride]."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.conv1 = _conv3x3(inputs, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = _conv3x3(planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(inputs, planes, stride)
        self.drop_path = _stochastic_depth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.drop_path is not None:
            y = self.drop_path(y)
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1: [B, inputs, H, W] -> [B, 4 planes, H/stride, W/stride]."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int, drop_path: float = 0.0) -> None:
        super().__init__()
        outputs = planes * self.expansion
        self.conv1 = _conv1x1(inputs, planes)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = _conv3x3(planes, planes, stride)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = _conv1x1(planes, outputs)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(inputs, outputs, stride)
        self.drop_path = _stochastic_depth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        if self.drop_path is not None:
            y = self.drop_path(y)
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


def stage(
    block: type[BasicBlock] | type[Bottleneck], inputs: int, planes: int, stride: int, drop_paths: Sequence[float]
) -> nn.Sequential:
    """A residual block for each of `drop_paths`, of which the first changes the shape."""
    outputs = planes * block.expansion
    rest = [block(outputs, planes, 1, rate) for rate in drop_paths[1:]]
    return nn.Sequential(block(inputs, planes, stride, drop_paths[0]), *rest)


def _initialise(model: nn.Module) -> None:
    """He et al. 2015 (arXiv:1502.01852) for convolutions; each block starts as the identity, its
    last batch norm at zero (Goyal et al. 2017, arXiv:1706.02677, section 5.1)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    for module in model.modules():
        if isinstance(module, BasicBlock):
            nn.init.zeros_(module.bn2.weight)
        elif isinstance(module, Bottleneck):
            nn.init.zeros_(module.bn3.weight)


Arch = Literal["resnet10", "resnet14", "resnet18", "resnet34", "resnet50"]
Stem = Literal["small", "imagenet"]
Head = Literal["plain", "multiscale"]

# Blocks in each stage. The paper begins with 18 layers; 10 and 14 are those of pytorchcv.
_BLOCKS: dict[str, tuple[int, int, int, int]] = {
    "resnet10": (1, 1, 1, 1),
    "resnet14": (2, 2, 1, 1),
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
}

# Up to here an image keeps its resolution through the stem: 8x8 digits and 32x32 thumbnails would
# be one pixel wide before the last stage otherwise, and larger ones cost 12 times more without it.
SMALL_IMAGE = 40


@dataclass(frozen=True)
class ModelConfig:
    """What the network looks like, what its weights begin as, and how it is asked.

    width: channels of the first stage. Not below 16: there oneDNN's backward pass of channels-last
      convolutions writes beyond its memory and kills the process (torch 2.14.1, AVX-512, odd batch sizes).
    head: `plain` classifies the last stage's mean, `multiscale` the means and maxima of all stages.
    drop_path: probability with which an image skips the last block in training; that of the others
      grows linearly with depth up to it (stochastic depth, Huang et al. 2016, arXiv:1603.09382).
    pretrained: `none`, `imagenet` or the path of a .safetensors file (see `pretrained`).
    score_scales, score_flips: sides in pixels and mirror images over which a score averages its
      probabilities; by default the image as it is, once.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    arch: Arch = "resnet18"
    stem: Literal["auto"] | Stem = "auto"
    width: Annotated[int, Ge(16), MultipleOf(8)] = 64
    head: Head = "plain"
    drop_path: Annotated[float, Ge(0), Lt(1)] = 0.0
    pretrained: str = "none"
    score_scales: tuple[Annotated[int, Ge(8), Le(1024)], ...] = ()
    score_flips: Flips = "none"


class ResNet(nn.Module):
    """float32 [B, 1, H, W] -> logits [B, C], H and W from 8 pixels on."""

    def __init__(self, config: ModelConfig, stem: Stem, classes: int) -> None:
        super().__init__()
        block = Bottleneck if config.arch == "resnet50" else BasicBlock
        w, out = config.width, config.width * block.expansion
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(1, w, 7, stride=2, padding=3, bias=False)
            self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1)
        else:
            self.conv1 = _conv3x3(1, w)
            self.maxpool = nn.Identity()
        self.bn1 = nn.BatchNorm2d(w)
        self.relu = nn.ReLU(inplace=True)
        drop = drop_paths(config)
        self.layer1 = stage(block, w, w, 1, drop[0])
        self.layer2 = stage(block, out, 2 * w, 2, drop[1])
        self.layer3 = stage(block, 2 * out, 4 * w, 2, drop[2])
        self.layer4 = stage(block, 4 * out, 8 * w, 2, drop[3])
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.head: _MultiScaleHead | None = None
        pooled = 8 * out
        if config.head == "multiscale":
            pooled = _PROJECTED_WIDTHS * w
            self.head = _MultiScaleHead([out, 2 * out, 4 * out, 8 * out], pooled)
        self.fc = nn.Linear(pooled, classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.stages(self.stem(x))))

    def at(self, side: int) -> "ResNet":
        """The network for images of that side: this one, whatever the side (`sized.SizedResNet` has several)."""
        return self

    def stem(self, x: Tensor) -> Tensor:
        return self.maxpool(self.relu(self.bn1(self.conv1(x))))

    def stages(self, x: Tensor) -> list[Tensor]:
        """What each of the four stages puts out, from the stem's."""
        found = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            found.append(x)
        return found

    def pool(self, stages: list[Tensor]) -> Tensor:
        """What is classified: [B, 8e w], with the multi-scale head [B, 2w]."""
        return self.avgpool(stages[-1]).flatten(1) if self.head is None else self.head(stages)


def drop_paths(config: ModelConfig) -> list[list[float]]:
    """Each block's probability of being skipped, stage by stage: block l of L has l/L of the largest."""
    blocks, depth, rates = _BLOCKS[config.arch], 0, []
    for count in blocks:
        rates.append([config.drop_path * (depth + k) / sum(blocks) for k in range(1, count + 1)])
        depth += count
    return rates


def find_stem(config: ModelConfig, size: int) -> Stem:
    """The stem for images of `size` x `size` pixels."""
    if config.stem != "auto":
        return config.stem
    return "small" if size <= SMALL_IMAGE else "imagenet"


def build(config: ModelConfig, *, size: int, classes: int, seed: int = 0) -> ResNet:
    """A fresh network for `size` x `size` images; the same seed gives the same weights, and leaves
    `config.pretrained` to `load_pretrained`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ResNet(config, find_stem(config, size), classes)
