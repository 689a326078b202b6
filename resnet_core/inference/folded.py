"""Folded networks: the same function of an image for scoring alone, in fewer and larger steps.

- Batch norm, a factor and a summand for each channel, goes into the weights of the convolution before it.
- A 3x3 convolution of 1x1 or 2x2 pixels sees the whole image at every place. It becomes one matrix product, which
  computes nothing outside of the image and is twice as fast.
- With oneDNN, a convolution includes its ReLU and the sum of its block. Its weights have the processor's layout.
  torch.compile generates the same operations for a CPU; no compiler is needed here.
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
    """Return a copy for evaluation alone, on the network's device, channels last. The network does not change.

    sides: of the images, in pixels; images of other sides work, too.
    onednn: batch size for which torch's oneDNN operations lay out the weights; other sizes are slower. Such a copy
        cannot be exported, compiled or moved to another device.
    """
    return by_side(network, sides, partial(_fold_one, onednn=onednn))


def _fold_one(network: ResNet, sides: Sequence[int], onednn: int | None) -> ResNet:
    made = copy.deepcopy(network).eval().requires_grad_(False)
    seen = sides_of(made, sides)  # before any convolution is replaced
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
    """Return True if this build of torch has the operations, which are private to its compiler.

    They are used on x86-64 only, where they were measured.
    """
    names = ("_convolution_pointwise", "_convolution_pointwise_")
    supported = platform.machine().lower() in ("x86_64", "amd64") and torch.backends.mkldnn.is_available()
    return supported and all(hasattr(torch.ops.mkldnn, name) for name in names)


def sides_of(network: ResNet, sides: Sequence[int]) -> _Sides:
    """Return the sides that each convolution sees, by a pass of a black image of each side."""
    seen: _Sides = defaultdict(set)
    hooks = [
        module.register_forward_pre_hook(lambda module, inputs: seen[module].add(inputs[0].shape[-1]))
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    ]
    weight = network.conv1.weight
    with torch.inference_mode():
        for side in sides:
            network(weight.new_zeros((1, 1, side, side)))
    for hook in hooks:
        hook.remove()
    return seen


class Step(nn.Module):
    """Convolution, optional sum with another tensor, optional ReLU: float32 [B, I, H, W] -> [B, O, H', W']."""

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
        # A plain attribute, because only oneDNN can read packed weights; the unpacked weights are dropped.
        # The layout depends on the image's size. For another size, every call would convert it.
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
    """A folded residual block of either kind. Without a shortcut convolution it overwrites its input.

    This is safe because no stage ends with such an input.
    """

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
        for layer in self.steps[:-1]:
            y = layer(y)
        return self.steps[-1](y, x if self.shortcut is None else self.shortcut(x, relu=False))


def step(conv: nn.Conv2d, norm: nn.BatchNorm2d, sides: _Sides, onednn: int | None) -> Step:
    folded = fuse_conv_bn_eval(conv, norm)
    return Step(folded, sides[conv]) if onednn is None else _OneDnnStep(folded, sides[conv], onednn)


def _is_small(conv: nn.Conv2d, side: int) -> bool:
    same = (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
    return same and side <= _SMALL_SIDE and conv.in_channels * side**2 <= _MOST_INPUTS


def product(conv: nn.Conv2d, side: int) -> nn.Linear:
    """Return the matrix of a convolution of side x side pixels; both sides are ordered rows, columns, channels."""
    pixels, weight = side * side, conv.weight
    linear = nn.Linear(pixels * conv.in_channels, pixels * conv.out_channels, device=weight.device)
    places = torch.arange(side, device=weight.device)
    taps = places - places[:, None] + 1  # [output, input]: the kernel's row that connects them
    spread = weight[:, :, taps[:, None, :, None], taps[None, :, None, :]]  # O, I, output row, column, input row, column
    assert conv.bias is not None
    with torch.no_grad():
        linear.weight.copy_(spread.permute(2, 3, 0, 4, 5, 1).reshape(linear.weight.shape))
        linear.bias.copy_(conv.bias.repeat(pixels))
    return linear


def _multiplied(linear: nn.Module, x: Tensor) -> Tensor:
    """[B, I, s, s] -> [B, O, s, s], channels last on both sides, without a copy."""
    made = linear(x.permute(0, 2, 3, 1).flatten(1))
    return made.unflatten(1, (x.shape[2], x.shape[3], -1)).permute(0, 3, 1, 2)
