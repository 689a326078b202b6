"""One network for images of several sizes: its weights are shared, batch norm's statistics are kept for each size.

A training batch has one size and is normalised by its own mean and deviation. These depend on the size: where
there are fewer pixels, more of them are border, and the maxima are lower. One running average over batches of
all sizes fits none of them (Wang et al. 2020, "Resolution Switchable Networks", arXiv:2007.09558, section 3.2).
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from resnet_core.model.resnet import ResNet


class SizedResNet(nn.Module):
    """float32 [B, 1, H, W] -> logits [B, C], by the network of the side W.

    networks: by the side in pixels, with the same parameters. Each is a plain ResNet with averages of its own.
    In a state the parameters lie once, under their own names; `sides.<side>.*` are the averages.
    """

    def __init__(self, networks: Mapping[int, ResNet]) -> None:
        super().__init__()
        self.sides = nn.ModuleDict({str(side): networks[side] for side in sorted(networks)})
        self.register_state_dict_post_hook(_share)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_spread)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        return self.at(x.shape[-1])(x)

    def networks(self) -> dict[int, ResNet]:
        return {int(side): network for side, network in self.sides.items()}  # type: ignore[misc]

    def at(self, side: int) -> ResNet:
        """The network for images of that side: the one whose side is the nearest, by ratio."""
        networks = self.networks()
        return networks[min(networks, key=lambda known: abs(math.log(known / side)))]


Network = ResNet | SizedResNet


def sized(network: ResNet, sides: Iterable[int]) -> Network:
    """The network, with averages for each side; as it is where there are no sides."""
    wanted = set(sides)
    return SizedResNet({side: twin(network) for side in wanted}) if wanted else network


def averaged_sides(network: Network) -> tuple[int, ...]:
    """Those that have averages of their own."""
    return tuple(network.networks()) if isinstance(network, SizedResNet) else ()


def by_side(network: Network, sides: Sequence[int], change: Callable[[ResNet, Sequence[int]], ResNet]) -> Network:
    """The network for images of these sides alone, changed: `change` is given a network and the sides it is for."""
    if not isinstance(network, SizedResNet):
        return change(network, sides)
    return SizedResNet({side: change(network.at(side), [side]) for side in sides})


def twin(network: ResNet) -> ResNet:
    """A network with the same parameters and its own buffers."""
    return copy.deepcopy(network, {id(parameter): parameter for parameter in network.parameters()})


def _share(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Each parameter once."""
    assert isinstance(module, SizedResNet)
    for side, network in module.sides.items():
        for name, _parameter in network.named_parameters():
            state[prefix + name] = state.pop(f"{prefix}sides.{side}.{name}")


def _spread(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Each parameter for all sides, before it is loaded."""
    assert isinstance(module, SizedResNet)
    for name, _parameter in next(iter(module.sides.values())).named_parameters():
        if (value := state.pop(prefix + name, None)) is not None:
            state |= {f"{prefix}sides.{side}.{name}": value for side in module.sides}
