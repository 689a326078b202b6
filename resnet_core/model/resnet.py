"""ResNet for one-channel images (He et al. 2015, arXiv:1512.03385), with torchvision's names.

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

A block adds its input to the output of its convolutions. Where the shape changes, the input passes a 1x1 convolution
first. The stride of a bottleneck is on its 3x3 convolution ("ResNet v1.5"), as in torchvision. All weights have
torchvision's names and shapes, except those of `head.*` and the first convolution's single input channel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le, Lt, MultipleOf
from torch import Tensor, nn

from resnet_core.model.inputs import Flips

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

# An image up to this side keeps its resolution through the stem. 8x8 digits and 32x32 thumbnails would shrink to a
# pixel before the last stage. For larger images, a stem without strides costs 12 times more.
SMALL_IMAGE = 40

# Channels that the multi-scale head projects each stage to, in widths of the first stage.
_PROJECTED_WIDTHS = 2


@dataclass(frozen=True)
class ModelConfig:
    """The network's shape, its first weights, and the views that a score averages.

    width: channels of the first stage, 16 or more. With fewer, oneDNN's backward pass of channels-last convolutions
      writes beyond its memory: the process dies (torch 2.14.1, AVX-512, odd batch sizes).
    head: `plain` classifies the last stage's mean, `multiscale` the means and maxima of all stages.
    drop_path: probability with which an image skips the last block in training; it grows linearly with depth
      (stochastic depth, Huang et al. 2016, arXiv:1603.09382).
    pretrained: `none`, `imagenet` or the path of a .safetensors file (see `pretrained`).
    score_scales, score_flips: sides in pixels and mirror images over which a score averages its
      probabilities; by default the image as it is.
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


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def _conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, stride, bias=False)


def _projection(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """The shortcut's 1x1 convolution; None where the block keeps the shape."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(_conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))


def _stochastic_depth(rate: float) -> nn.Module | None:
    """Leave out a block's convolutions for an image with probability `rate`, in training.

    Huang et al. 2016, arXiv:1603.09382; survivors are scaled up in training instead of down afterwards. It draws
    from torch's global generator.
    """
    if rate == 0:
        return None
    from torchvision.ops import StochasticDepth  # not needed to use a finished model

    return StochasticDepth(rate, mode="row")


def _mean_and_maximum(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, 2 C], over rows and columns."""
    return torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)


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
        return _add_shortcut(self, x, self.bn2(self.conv2(y)))


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
        return _add_shortcut(self, x, self.bn3(self.conv3(y)))


def _add_shortcut(block: BasicBlock | Bottleneck, x: Tensor, y: Tensor) -> Tensor:
    """ReLU of a block's input x, projected where the shape changes, plus its convolutions' output y."""
    if block.drop_path is not None:
        y = block.drop_path(y)
    return block.relu(y + (x if block.downsample is None else block.downsample(x)))


def _stage(
    block: type[BasicBlock] | type[Bottleneck], inputs: int, planes: int, stride: int, drop_paths: Sequence[float]
) -> nn.Sequential:
    """A residual block for each of `drop_paths`; the first one changes the shape."""
    outputs = planes * block.expansion
    rest = [block(outputs, planes, 1, rate) for rate in drop_paths[1:]]
    return nn.Sequential(block(inputs, planes, stride, drop_paths[0]), *rest)


class _MultiScaleHead(nn.Module):
    """Feature maps [B, C_k, H_k, W_k] of all stages -> [B, width], for any size of the image.

    The early stages see small and faint things that the last stage averages away. A stage's mean and maximum,
    [B, 2 C_k], are projected to the same width and normalised: all stages weigh the same.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * count, width, bias=False), nn.BatchNorm1d(width)) for count in channels
        )

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        projected = [project(_mean_and_maximum(x)) for project, x in zip(self.projections, stages, strict=True)]
        return F.relu(torch.stack(projected).sum(0))


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
        drop = _drop_paths(config)
        self.layer1 = _stage(block, w, w, 1, drop[0])
        self.layer2 = _stage(block, out, 2 * w, 2, drop[1])
        self.layer3 = _stage(block, 2 * out, 4 * w, 2, drop[2])
        self.layer4 = _stage(block, 4 * out, 8 * w, 2, drop[3])
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.head: _MultiScaleHead | None = None
        pooled = 8 * out
        if config.head == "multiscale":
            pooled = _PROJECTED_WIDTHS * w
            self.head = _MultiScaleHead([out, 2 * out, 4 * out, 8 * out], pooled)
        self.fc = nn.Linear(pooled, classes)
        if not self.fc.weight.is_meta:
            _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.stages(self.stem(x))))

    def described(self) -> tuple[int, int]:
        """Return the numbers of features in the input of `fc` and in `early`."""
        return self.fc.in_features, sum(_channels(layer) for layer in (self.layer1, self.layer2))

    def early(self, stages: list[Tensor]) -> Tensor:
        """Return the means over rows and columns of the first two stages, [B, 3e w]."""
        return torch.cat([stage.mean((2, 3)) for stage in stages[:2]], 1)

    def at(self, side: int) -> "ResNet":
        """Return the network for images of that side, which is this one (`sized.SizedResNet` has several)."""
        return self

    def stem(self, x: Tensor) -> Tensor:
        return self.maxpool(self.relu(self.bn1(self.conv1(x))))

    def stages(self, x: Tensor) -> list[Tensor]:
        """Return the outputs of the four stages, from the stem's output."""
        outputs = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            outputs.append(x)
        return outputs

    def pool(self, stages: list[Tensor]) -> Tensor:
        """Return the input of `fc`: [B, 8e w], with the multi-scale head [B, 2w]."""
        return self.avgpool(stages[-1]).flatten(1) if self.head is None else self.head(stages)


def _channels(layer: nn.Module) -> int:
    """Return the channels of a stage's output: those of its last normalisation."""
    norms = [module.num_features for module in layer.modules() if isinstance(module, nn.BatchNorm2d)]
    return norms[-1]


def _initialise(model: nn.Module) -> None:
    """Initialise convolutions by He et al. 2015 (arXiv:1502.01852), and blocks as the identity.

    Their last batch norms start at zero (Goyal et al. 2017, arXiv:1706.02677, section 5.1).
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    for module in model.modules():
        if isinstance(module, BasicBlock):
            nn.init.zeros_(module.bn2.weight)
        elif isinstance(module, Bottleneck):
            nn.init.zeros_(module.bn3.weight)


def _drop_paths(config: ModelConfig) -> list[list[float]]:
    """Return the blocks' probabilities of being skipped, by stage: block l of L has l/L of the largest."""
    blocks, depth, rates = _BLOCKS[config.arch], 0, []
    for count in blocks:
        rates.append([config.drop_path * (depth + k) / sum(blocks) for k in range(1, count + 1)])
        depth += count
    return rates


def find_stem(config: ModelConfig, size: int) -> Stem:
    """Return the stem for images of `size` x `size` pixels."""
    if config.stem != "auto":
        return config.stem
    return "small" if size <= SMALL_IMAGE else "imagenet"


def build(config: ModelConfig, *, size: int, classes: int, seed: int = 0) -> ResNet:
    """Return a fresh network for `size` x `size` images; the same seed gives the same weights.

    Pretrained weights are loaded by `load_pretrained`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ResNet(config, find_stem(config, size), classes)
