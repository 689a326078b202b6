"""A network for scoring alone: the same function of an image, in fewer and larger steps.

- Batch norm is a factor and a summand for each channel, and goes into the weights of the convolution
  before it.
- A 3x3 convolution of an image of 1x1 or 2x2 pixels sees all of it from everywhere: it is one product
  with a matrix, which computes nothing outside of the image, and is twice as fast.
- Where torch has oneDNN, a convolution does its ReLU and its block's sum while the values are still in
  the cache, and its weights lie as the processor wants them. These are the operations that
  torch.compile generates for a CPU, without the compiler.
"""

import copy
import platform
from collections import defaultdict
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from resnet_core.model.resnet import BasicBlock, Bottleneck, ResNet
from resnet_core.model.sized import Network, by_side

_SMALL_SIDE = 2  # pixels up to which a convolution is done as a product
_MOST_INPUTS = 2048  # of such a product: its matrix takes 16 MiB

_Sides = dict[nn.Module, set[int]]  # of the images that each convolution is given


def fold(network: Network, sides: Sequence[int], onednn: int | None = None) -> Network:
    """A copy for evaluation alone, on the network's device, channels last. The network stays as it is.

    sides: those of the images, in pixels, that it will be given; others it takes as well.
    onednn: use torch's oneDNN operations, with weights laid out for batches of that many images; others are slower.
        They cannot be exported, compiled or moved to another device.
    """
    return by_side(network, sides, partial(_fold_one, onednn=onednn))


def _fold_one(network: ResNet, sides: Sequence[int], onednn: int | None) -> ResNet:
    made = copy.deepcopy(network).eval().requires_grad_(False)
    # Before anything is replaced: it is the convolutions themselves that are looked at.
    seen = sides_of(made, sides)
    onednn = onednn if has_onednn() and next(made.parameters()).device.type == "cpu" else None
    made.conv1 = step(made.conv1, made.bn1, seen, onednn)  # type: ignore[assignment]
    made.bn1 = made.relu = nn.Identity()  # type: ignore[assignment]
    for name in ("layer1", "layer2", "layer3", "layer4"):
        blocks = [_Block(block, seen, onednn) for block in getattr(made, name)]
        setattr(made, name, nn.Sequential(*blocks))
    if made.head is not None:
        for project in made.head.projections:
            assert isinstance(project, nn.Sequential)
            linear, norm = project
            assert isinstance(linear, nn.Linear)
            assert isinstance(norm, nn.BatchNorm1d)
            project[0], project[1] = fuse_linear_bn_eval(linear, norm), nn.Identity()
    return made.requires_grad_(False).to(memory_format=torch.channels_last)


def has_onednn() -> bool:
    """Whether this build of torch has the operations; they are the compiler's, and may change their names. On
    other processors nobody has measured them."""
    names = ("_convolution_pointwise", "_convolution_pointwise_")
    known = platform.machine().lower() in ("x86_64", "amd64") and torch.backends.mkldnn.is_available()
    return known and all(hasattr(torch.ops.mkldnn, name) for name in names)


def sides_of(network: ResNet, sides: Sequence[int]) -> _Sides:
    """By a pass of one black image of each side."""
    found: _Sides = defaultdict(set)
    hooks = [
        module.register_forward_pre_hook(lambda module, inputs: found[module].add(inputs[0].shape[-1]))
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    ]
    weight = network.conv1.weight
    with torch.inference_mode():
        for side in sides:
            network(weight.new_zeros((1, 1, side, side)))
    for hook in hooks:
        hook.remove()
    return found


class Step(nn.Module):
    """Convolution, the sum with something else, ReLU: float32 [B, I, H, W] -> [B, O, H', W'], each but the first
    only where it is asked for."""

    def __init__(self, conv: nn.Conv2d, sides: set[int]) -> None:
        super().__init__()
        self.conv = conv
        self.products = nn.ModuleDict({str(side): product(conv, side) for side in sides if _is_small(conv, side)})

    def forward(self, x: Tensor, other: Tensor | None = None, relu: bool = True) -> Tensor:
        name = str(x.shape[-1])
        y = _multiplied(self.products[name], x) if name in self.products else self.conv(x)
        if other is not None:
            y = y + other
        return F.relu(y, inplace=True) if relu else y


class _OneDnnStep(Step):
    """The same in one operation; `other` is overwritten."""

    def __init__(self, conv: nn.Conv2d, sides: set[int], batch: int) -> None:
        super().__init__(conv, sides)
        self.bias = conv.bias
        self.how = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        # No parameter: what oneDNN packs is no tensor for anybody else. The plain weights are not kept beside it.
        # The layout depends on the image: with another one, each call would lay them out anew.
        shape, pack = (batch, conv.in_channels, max(sides), max(sides)), torch._C._nn.mkldnn_reorder_conv2d_weight
        self.packed: Tensor = pack(conv.weight.to_mkldnn(), *self.how, shape)  # type: ignore[call-arg]
        self.conv = nn.Identity()  # type: ignore[assignment]

    def forward(self, x: Tensor, other: Tensor | None = None, relu: bool = True) -> Tensor:
        if str(x.shape[-1]) in self.products:
            return super().forward(x, other, relu)
        ops = torch.ops.mkldnn
        if other is None:
            return ops._convolution_pointwise(
                x, self.packed, self.bias, *self.how, "relu" if relu else "none", [], "",
            )  # fmt: skip
        return ops._convolution_pointwise_.binary(
            other, x, self.packed, self.bias, *self.how, "add", 1.0, "relu" if relu else None, [], "",
        )  # fmt: skip


class _Block(nn.Module):
    """A residual block of either kind, folded. Its input is overwritten where it has no shortcut of its own:
    no stage ends with such an input, so nobody else looks at it again."""

    def __init__(self, block: BasicBlock | Bottleneck, sides: _Sides, onednn: int | None) -> None:
        super().__init__()
        pairs = [(block.conv1, block.bn1), (block.conv2, block.bn2)]
        if isinstance(block, Bottleneck):
            pairs.append((block.conv3, block.bn3))
        self.steps = nn.ModuleList(step(conv, norm, sides, onednn) for conv, norm in pairs)
        self.shortcut: Step | None = None
        if block.downsample is not None:
            self.shortcut = step(block.downsample[0], block.downsample[1], sides, onednn)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for each in self.steps[:-1]:
            y = each(y)
        return self.steps[-1](y, x if self.shortcut is None else self.shortcut(x, relu=False))


def step(conv: nn.Conv2d, norm: nn.BatchNorm2d, sides: _Sides, onednn: int | None) -> Step:
    folded = fuse_conv_bn_eval(conv, norm)
    return Step(folded, sides[conv]) if onednn is None else _OneDnnStep(folded, sides[conv], onednn)


def _is_small(conv: nn.Conv2d, side: int) -> bool:
    same = (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
    return same and side <= _SMALL_SIDE and conv.in_channels * side**2 <= _MOST_INPUTS


def product(conv: nn.Conv2d, side: int) -> nn.Linear:
    """The matrix of a convolution of side x side pixels: rows, columns and channels in this order, on both sides."""
    pixels, weight = side * side, conv.weight
    linear = nn.Linear(pixels * conv.in_channels, pixels * conv.out_channels, device=weight.device)
    places = torch.arange(side, device=weight.device)
    taps = places - places[:, None] + 1  # [made, seen]: the kernel's row that brings one to the other
    each = weight[:, :, taps[:, None, :, None], taps[None, :, None, :]]  # O, I, made row, column, seen row, column
    assert conv.bias is not None
    with torch.no_grad():
        linear.weight.copy_(each.permute(2, 3, 0, 4, 5, 1).reshape(linear.weight.shape))
        linear.bias.copy_(conv.bias.repeat(pixels))
    return linear


def _multiplied(linear: nn.Module, x: Tensor) -> Tensor:
    """[B, I, s, s] -> [B, O, s, s]; channels last on both sides, nothing is copied."""
    made = linear(x.permute(0, 2, 3, 1).flatten(1))
    return made.unflatten(1, (x.shape[2], x.shape[3], -1)).permute(0, 3, 1, 2)
