"""The residual blocks that a ResNet is made of, and the stochastic depth inside them."""

from collections.abc import Sequence

from torch import Tensor, nn


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, stride, bias=False)


def projection(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """The shortcut's 1x1 convolution, needed only where the block changes the shape."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))


def stochastic_depth(rate: float) -> nn.Module | None:
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
        self.conv1 = conv3x3(inputs, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection(inputs, planes, stride)
        self.drop_path = stochastic_depth(drop_path)

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
        self.conv1 = conv1x1(inputs, planes)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes, stride)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = conv1x1(planes, outputs)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection(inputs, outputs, stride)
        self.drop_path = stochastic_depth(drop_path)

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
