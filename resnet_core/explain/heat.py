"""Heat maps: where in an image the classifier saw a class, by captum.

way        weight of a channel                             source
grad-cam   its gradient, the mean over all places          Selvaraju et al. 2017, arXiv:1610.02391
layer-cam  its gradient at each place, if it is positive   Jiang et al. 2021, doi:10.1109/TIP.2021.3089943

LayerCAM is used, at the last of the later stages whose output is fine enough to show a place. `python -m benchmarks
heatmaps` found that sharper than Grad-CAM, and than a coarser stage, on planted scratches. A score is the mean over
mirror images and sizes, and so is its map: every view is explained by itself and turned back.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from resnet_core.model.classifier import MIRRORED, Classifier
from resnet_core.model.inputs import resize_batch, to_input
from resnet_core.model.resnet import ModelConfig
from resnet_core.model.sized import Network

Way = Literal["grad-cam", "layer-cam"]
WAY: Way = "layer-cam"
NAMES: dict[Way, str] = {"grad-cam": "Grad-CAM", "layer-cam": "LayerCAM"}
_STAGES = ("layer4", "layer3", "layer2", "layer1")
# So many cells a side show a scratch, and so few a place. The first stage's output is of edges alone.
_FINE, _FEWEST_CELLS = 12, 4
_BATCH = 32


@dataclass(frozen=True)
class _View:
    """A view: an image as the network sees it, and how to return to the original orientation."""

    image: Tensor  # float32 [B, 1, s, s]
    transposed: bool
    axes: tuple[int, ...]

    def undo(self, maps: Tensor) -> Tensor:
        """Turn maps, float32 [B, 1, S, S], of this view back to the image."""
        maps = maps.flip(self.axes) if self.axes else maps
        return maps.transpose(-1, -2) if self.transposed else maps


class _Maps(NamedTuple):
    layer: str
    heat: NDArray[np.float32]  # [N, S, S], 0 to 1; all 0 without evidence for the class


def heat_of(
    classifier: Classifier,
    pixels: NDArray[np.uint8],
    classes: NDArray[np.int64],
    way: Way = WAY,
    layer: str | None = None,
) -> _Maps:
    """Map the evidence for a class in each image.

    pixels: uint8 [N, S, S]. classes: int64 [N], places in the class names. The largest value of every map is 1: maps do
    not tell which of two images has more evidence. layer: by default the `finest`.
    """
    layer = layer or finest(classifier.network, pixels.shape[1])
    heat = np.zeros(pixels.shape, dtype=np.float32)
    for start in range(0, len(pixels), _BATCH):
        some = slice(start, start + _BATCH)
        x = to_input(
            torch.from_numpy(np.ascontiguousarray(pixels[some])).to(classifier.device), classifier.normalisation
        )
        heat[some] = _maps(classifier, (way, layer), x, torch.from_numpy(classes[some]).to(classifier.device))
    return _Maps(layer, heat)


def finest(network: Network, side: int) -> str:
    """Return the stage to look into, for images of `side` pixels.

    It is the last one after the first with 12 x 12 cells or more; else the last one with 4 x 4; else the first.
    """
    cells, at = {}, network.eval().at(side)
    with torch.inference_mode():
        device = next(network.parameters()).device
        stages = at.stages(at.stem(torch.zeros(1, 1, side, side, device=device)))
    for name, found in zip(reversed(_STAGES), stages, strict=True):
        cells[name] = found.shape[-1]
    fine = [name for name in _STAGES[:-1] if cells[name] >= _FINE]
    return next(iter([*fine, *(name for name in _STAGES if cells[name] >= _FEWEST_CELLS)]), _STAGES[-1])


def _maps(classifier: Classifier, how: tuple[Way, str], x: Tensor, classes: Tensor) -> NDArray[np.float32]:
    """float32 [B, 1, S, S] -> [B, S, S]."""
    from captum.attr import LayerGradCam, LayerGradientXActivation  # takes a second to import

    way, layer = how
    classifier.network.eval()
    side = x.shape[-1]
    total = torch.zeros_like(x)
    for view in _views(x, classifier.config):
        network = classifier.network.at(view.image.shape[-1])
        if way == "grad-cam":
            cam = LayerGradCam(network, getattr(network, layer))
            found = cam.attribute(view.image, target=classes, relu_attributions=True)
            assert isinstance(found, Tensor)
        else:  # a stage puts out nothing negative: where the product is positive, the gradient is
            products = LayerGradientXActivation(network, getattr(network, layer)).attribute(view.image, target=classes)
            assert isinstance(products, Tensor)
            found = products.clamp_min(0).sum(1, keepdim=True)
        found = found.detach().float()
        # Sums depend on the size of a view; after scaling all views count alike.
        total += view.undo(functional.interpolate(_scaled(found), (side, side), mode="bicubic").clamp_min(0))
    return _scaled(total)[:, 0].cpu().numpy()


def _scaled(maps: Tensor) -> Tensor:
    """Divide each map, float32 [B, 1, h, w], by its largest value; a map of zeros stays."""
    most = maps.amax((1, 2, 3), keepdim=True)
    return maps / torch.where(most > 0, most, torch.ones_like(most))


def _views(x: Tensor, config: ModelConfig) -> Iterator[_View]:
    """Yield the sizes and mirror images of float32 [B, 1, S, S] over which a score is the mean."""
    for side in config.score_scales or (x.shape[-1],):
        resized = resize_batch(x, side)
        for transposed in (False, True) if config.score_flips == "dihedral" else (False,):
            image = resized.transpose(-1, -2) if transposed else resized
            for axes in MIRRORED[config.score_flips]:
                yield _View(image.flip(axes) if axes else image, transposed, axes)
