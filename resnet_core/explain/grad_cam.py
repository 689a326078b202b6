"""Where in an image the classifier saw its class: Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391), by captum.

A map is of the last stage whose output is fine enough to show a place. As a score is the mean over mirror
images and sizes, so is its map: each look is explained by itself and turned back.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from resnet_core.model.classifier import MIRRORED, Classifier
from resnet_core.model.inputs import resize_batch, to_input
from resnet_core.model.resnet import ModelConfig
from resnet_core.model.sized import Network

_STAGES = ("layer4", "layer3", "layer2", "layer1")
# A coarser map says little more than "in this image".
_FEWEST_CELLS = 4
AT_ONCE = 32


@dataclass(frozen=True)
class _Look:
    """An image as the network sees it, and how to get back to the image as it is."""

    image: Tensor  # float32 [B, 1, s, s]
    transposed: bool
    axes: tuple[int, ...]

    def undo(self, maps: Tensor) -> Tensor:
        """float32 [B, 1, S, S] of this look -> the same of the image."""
        maps = maps.flip(self.axes) if self.axes else maps
        return maps.transpose(-1, -2) if self.transposed else maps


class Maps(NamedTuple):
    layer: str
    heat: NDArray[np.float32]  # [N, S, S], 0 to 1; all 0 where nothing spoke for the class


def grad_cam(classifier: Classifier, pixels: NDArray[np.uint8], classes: NDArray[np.int64]) -> Maps:
    """What spoke for a class in each image, by place. Each map's largest value is 1: maps are not for
    comparing how much two images have of it.

    pixels: uint8 [N, S, S]. classes: int64 [N], places in the class names.
    """
    layer = finest(classifier.network, pixels.shape[1])
    heat = np.zeros(pixels.shape, dtype=np.float32)
    for start in range(0, len(pixels), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        x = to_input(
            torch.from_numpy(np.ascontiguousarray(pixels[some])).to(classifier.device), classifier.normalisation
        )
        heat[some] = _maps(classifier, layer, x, torch.from_numpy(classes[some]).to(classifier.device))
    return Maps(layer, heat)


def finest(network: Network, side: int) -> str:
    """The last stage that puts out 4 x 4 cells or more for images of `side` pixels; the first where none does."""
    cells, at = {}, network.eval().at(side)
    with torch.inference_mode():
        device = next(network.parameters()).device
        stages = at.stages(at.stem(torch.zeros(1, 1, side, side, device=device)))
    for name, found in zip(reversed(_STAGES), stages, strict=True):
        cells[name] = found.shape[-1]
    return next((name for name in _STAGES if cells[name] >= _FEWEST_CELLS), _STAGES[-1])


def _maps(classifier: Classifier, layer: str, x: Tensor, classes: Tensor) -> NDArray[np.float32]:
    """float32 [B, 1, S, S] -> [B, S, S]."""
    from captum.attr import LayerGradCam  # takes a second to import

    classifier.network.eval()
    side = x.shape[-1]
    total = torch.zeros_like(x)
    for look in _looks(x, classifier.config):
        network = classifier.network.at(look.image.shape[-1])
        cam = LayerGradCam(network, getattr(network, layer))
        found = cam.attribute(look.image, target=classes, relu_attributions=True)
        assert isinstance(found, Tensor)
        found = found.detach().float()
        # Looks of different sizes have sums of different sizes; each counts as much as the others.
        total += look.undo(functional.interpolate(_scaled(found), (side, side), mode="bicubic").clamp_min(0))
    return _scaled(total)[:, 0].cpu().numpy()


def _scaled(maps: Tensor) -> Tensor:
    """float32 [B, 1, h, w], each map divided by its largest value; one without any stays 0."""
    most = maps.amax((1, 2, 3), keepdim=True)
    return maps / torch.where(most > 0, most, torch.ones_like(most))


def _looks(x: Tensor, config: ModelConfig) -> Iterator[_Look]:
    """The sizes and mirror images of float32 [B, 1, S, S] that a score is the mean over."""
    for side in config.score_scales or (x.shape[-1],):
        resized = resize_batch(x, side)
        for transposed in (False, True) if config.score_flips == "dihedral" else (False,):
            image = resized.transpose(-1, -2) if transposed else resized
            for axes in MIRRORED[config.score_flips]:
                yield _Look(image.flip(axes) if axes else image, transposed, axes)
