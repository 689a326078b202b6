"""A network for images of several sizes: shared weights, batch norm statistics for each size.

A training batch has one size and is normalised by its own mean and deviation, which depend on the size. With fewer
pixels, more of them are border, and the maxima are lower. A running average over all sizes fits none of them
(Wang et al. 2020, "Resolution Switchable Networks", arXiv:2007.09558, section 3.2).
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from resnet_core.model.resnet import ResNet


class SizedResNet(nn.Module):
    """float32 [B, 1, H, W] -> logits [B, C], by the network of the side W.

    networks: by side in pixels. They share their parameters and have their own batch norm statistics.
    A state has the parameters once, under their own names, and the statistics as `sides.<side>.*`.
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
        """Return the network with the nearest side, by ratio."""
        networks = self.networks()
        return networks[min(networks, key=lambda own: abs(math.log(own / side)))]


Network = ResNet | SizedResNet


def sized(network: ResNet, sides: Iterable[int]) -> Network:
    """Return the network with statistics for each side; without sides, the network itself."""
    sides = set(sides)
    return SizedResNet({side: _twin(network) for side in sides}) if sides else network


def averaged_sides(network: Network) -> tuple[int, ...]:
    """Return the sides with statistics of their own."""
    return tuple(network.networks()) if isinstance(network, SizedResNet) else ()


def by_side(network: Network, sides: Sequence[int], change: Callable[[ResNet, Sequence[int]], ResNet]) -> Network:
    """Return the network for these sides alone, changed: `change` takes a network and the sides it is for."""
    if not isinstance(network, SizedResNet):
        return change(network, sides)
    return SizedResNet({side: change(network.at(side), [side]) for side in sides})


def _twin(network: ResNet) -> ResNet:
    """Return a network with the same parameters and its own buffers."""
    return copy.deepcopy(network, {id(parameter): parameter for parameter in network.parameters()})


def _share(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Keep each parameter once in a state that is saved."""
    assert isinstance(module, SizedResNet)
    for side, network in module.sides.items():
        for name, _parameter in network.named_parameters():
            state[prefix + name] = state.pop(f"{prefix}sides.{side}.{name}")


def _spread(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Copy each parameter to all sides of a state that is loaded."""
    assert isinstance(module, SizedResNet)
    for name, _parameter in next(iter(module.sides.values())).named_parameters():
        if (value := state.pop(prefix + name, None)) is not None:
            state |= {f"{prefix}sides.{side}.{name}": value for side in module.sides}
