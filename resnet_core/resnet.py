"""ResNet for one-channel images (He et al. 2015, arXiv:1512.03385), after torchvision's naming.

    stem      imagenet: 7x7 conv /2, batch norm, ReLU, 3x3 max pool /2     [B, w,  H/4,  W/4]
              small:    3x3 conv,    batch norm, ReLU                      [B, w,  H,    W  ]
    layer1    residual blocks                                              [B, w,  ...        ]
    layer2-4  residual blocks, the first one /2, twice the channels each   [B, 8w, /8         ]
    avgpool   mean over rows and columns                                   [B, 8w]
    fc        linear                                                       [B, C]

(w is the width, 64 in the paper; bottleneck blocks put out four times the channels.)

A block adds its input to what its 3x3 convolutions make of it; where the shape changes, the input
passes a 1x1 convolution first. As in torchvision, the stride of a bottleneck is on its 3x3
convolution ("ResNet v1.5"). Every weight has torchvision's name and shape, the first convolution
aside, which has one input channel: `load_torchvision` sums torchvision's three.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, MultipleOf
from torch import Tensor, nn

Arch = Literal["resnet10", "resnet18", "resnet34", "resnet50"]
Stem = Literal["auto", "small", "imagenet"]

BLOCKS: dict[str, tuple[int, int, int, int]] = {
    "resnet10": (1, 1, 1, 1),
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
}

# Up to here an image keeps its resolution through the stem: 8x8 digits and 32x32 thumbnails would
# be one pixel wide before the last stage otherwise, and larger ones cost 12 times more without it.
SMALL_IMAGE = 40


@dataclass(frozen=True)
class ModelConfig:
    """What the network looks like; `width` is the channels of the first stage.

    Not below 16: there oneDNN's backward pass of channels-last convolutions writes beyond its memory
    and kills the process (torch 2.14.1, AVX-512, odd batch sizes)."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    arch: Arch = "resnet18"
    stem: Stem = "auto"
    width: Annotated[int, Ge(16), MultipleOf(8)] = 64


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, stride, bias=False)


def projection(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """The shortcut's 1x1 convolution, needed only where the block changes the shape."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions: [B, inputs, H, W] -> [B, planes, H/stride, W/stride]."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection(inputs, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1: [B, inputs, H, W] -> [B, 4 planes, H/stride, W/stride]."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        outputs = planes * self.expansion
        self.conv1 = conv1x1(inputs, planes)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes, stride)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = conv1x1(planes, outputs)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


def stage(
    block: type[BasicBlock] | type[Bottleneck], inputs: int, planes: int, blocks: int, stride: int
) -> nn.Sequential:
    """`blocks` residual blocks, of which the first changes the shape."""
    outputs = planes * block.expansion
    rest = [block(outputs, planes, 1) for _ in range(blocks - 1)]
    return nn.Sequential(block(inputs, planes, stride), *rest)


class ResNet(nn.Module):
    """float32 [B, 1, H, W] -> logits [B, C]."""

    def __init__(self, arch: Arch, stem: Literal["small", "imagenet"], width: int, classes: int) -> None:
        super().__init__()
        block = Bottleneck if arch == "resnet50" else BasicBlock
        blocks, w, out = BLOCKS[arch], width, width * block.expansion
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(1, w, 7, stride=2, padding=3, bias=False)
            self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1)
        else:
            self.conv1 = conv3x3(1, w)
            self.maxpool = nn.Identity()
        self.bn1 = nn.BatchNorm2d(w)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = stage(block, w, w, blocks[0], stride=1)
        self.layer2 = stage(block, out, 2 * w, blocks[1], stride=2)
        self.layer3 = stage(block, 2 * out, 4 * w, blocks[2], stride=2)
        self.layer4 = stage(block, 4 * out, 8 * w, blocks[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8 * out, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def initialise(model: nn.Module) -> None:
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


def build(config: ModelConfig, *, size: int, classes: int, seed: int = 0) -> ResNet:
    """A fresh network for `size` x `size` images; the same seed gives the same weights."""
    stem = config.stem
    if stem == "auto":
        stem = "small" if size <= SMALL_IMAGE else "imagenet"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ResNet(config.arch, stem, config.width, classes)


def load_torchvision(model: ResNet, weights: Mapping[str, Tensor]) -> None:
    """Load a torchvision ResNet's state dict of the same architecture, stem and classes.

    A three-channel first convolution is summed over its channels, which gives a gray image the
    logits of its RGB copy.
    """
    state = dict(weights)
    if state["conv1.weight"].shape[1] == 3:
        state["conv1.weight"] = state["conv1.weight"].sum(dim=1, keepdim=True)
    model.load_state_dict(state)
