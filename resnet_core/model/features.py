"""An image as the vector that its classification is made of: alike images lie near each other."""

from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnet_core.model.classifier import Classifier
from resnet_core.model.inputs import to_input
from resnet_core.model.sized import Network

Layer = Literal["stem", "stage1", "stage2", "stage3", "stage4", "pool", "logits"]
LAYERS: tuple[str, ...] = get_args(Layer)
BATCH = 32


def compute(classifier: Classifier, pixels: NDArray[np.uint8], layer: Layer) -> NDArray[np.float32]:
    """Preprocessed uint8 [N, S, S] -> float32 [N, ...], what the layer puts out (see `resnet.features`) for
    the image as it is: no mirror images, no calibration, float32 on every device."""
    parts = []
    with torch.inference_mode():
        for batch in torch.from_numpy(np.ascontiguousarray(pixels)).split(BATCH):
            x = to_input(batch.to(classifier.device), classifier.normalisation)
            parts.append(features(classifier.network.eval(), x)[layer].contiguous().cpu())
    return torch.cat(parts).numpy()


def shape_of(classifier: Classifier, layer: Layer) -> tuple[int, ...]:
    """Of one image's features."""
    size = classifier.preprocessing.size
    return compute(classifier, np.zeros((1, size, size), np.uint8), layer).shape[1:]


def embed(classifier: Classifier, pixels: NDArray[np.uint8], batch_size: int = 128) -> NDArray[np.float32]:
    """Preprocessed uint8 [N, S, S] -> float32 [N, D], what the network's last layer classifies (`resnet.features`'
    `pool`) for the image as it is: no mirror images, no other sizes, float32 on every device. Any N, 0 too."""
    network = classifier.network.eval().at(pixels.shape[-1])
    parts = [torch.empty(0, network.fc.in_features)]
    with torch.inference_mode():
        for batch in torch.from_numpy(np.ascontiguousarray(pixels)).split(batch_size):
            if len(batch):
                x = to_input(batch.to(classifier.device), classifier.normalisation)
                parts.append(network.pool(network.stages(network.stem(x))).float().contiguous().cpu())
    return torch.cat(parts).numpy()


def features(model: Network, x: Tensor) -> dict[str, Tensor]:
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
