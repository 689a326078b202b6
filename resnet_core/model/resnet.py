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

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Le, Lt, MultipleOf
from torch import Tensor, nn

from resnet_core.model.blocks import BasicBlock, Bottleneck, conv3x3, initialise, stage
from resnet_core.model.heads import PROJECTED_WIDTHS, MultiScaleHead
from resnet_core.training.augment import Flips

if TYPE_CHECKING:
    from resnet_core.model.sized import Network


Arch = Literal["resnet10", "resnet14", "resnet18", "resnet34", "resnet50"]
Stem = Literal["small", "imagenet"]
Head = Literal["plain", "multiscale"]

# Blocks in each stage. The paper begins with 18 layers; 10 and 14 are those of pytorchcv.
BLOCKS: dict[str, tuple[int, int, int, int]] = {
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
            self.conv1 = conv3x3(1, w)
            self.maxpool = nn.Identity()
        self.bn1 = nn.BatchNorm2d(w)
        self.relu = nn.ReLU(inplace=True)
        drop = drop_paths(config)
        self.layer1 = stage(block, w, w, 1, drop[0])
        self.layer2 = stage(block, out, 2 * w, 2, drop[1])
        self.layer3 = stage(block, 2 * out, 4 * w, 2, drop[2])
        self.layer4 = stage(block, 4 * out, 8 * w, 2, drop[3])
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.head: MultiScaleHead | None = None
        pooled = 8 * out
        if config.head == "multiscale":
            pooled = PROJECTED_WIDTHS * w
            self.head = MultiScaleHead([out, 2 * out, 4 * out, 8 * out], pooled)
        self.fc = nn.Linear(pooled, classes)
        initialise(self)

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


def features(model: "Network", x: Tensor) -> dict[str, Tensor]:
    """Everything on the way from float32 [B, 1, H, W] to the logits, of one forward pass:

    stem [B, w, h, w'] with h = H, or H/4 with the imagenet stem; stage1 [B, e w, h, w'], stage2
    [B, 2e w, h/2, w'/2], stage3 [B, 4e w, h/4, w'/4], stage4 [B, 8e w, h/8, w'/8], sides rounded up;
    pool [B, 8e w] ([B, 2w] with the multi-scale head), what `fc` sees; logits [B, C].
    """
    model = model.at(x.shape[-1])
    stem = model.stem(x)
    stages = model.stages(stem)
    pool = model.pool(stages)
    named = {f"stage{number}": found for number, found in enumerate(stages, start=1)}
    return {"stem": stem, **named, "pool": pool, "logits": model.fc(pool)}


def drop_paths(config: ModelConfig) -> list[list[float]]:
    """Each block's probability of being skipped, stage by stage: block l of L has l/L of the largest."""
    blocks, depth, rates = BLOCKS[config.arch], 0, []
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
