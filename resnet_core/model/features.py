"""Outputs of the network's layers. Those of `pool` are an embedding: similar images lie near each other."""

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


def compute(
    classifier: Classifier, pixels: NDArray[np.uint8], layer: Layer, batch_size: int = BATCH
) -> NDArray[np.float32]:
    """Return a layer's output, float32 [N, ...] (see `features`), for preprocessed uint8 [N, S, S].

    The images are taken as they are: no mirror images, no other sizes, no calibration.
    """
    parts = []
    network = classifier.network.eval()
    with torch.inference_mode():
        for batch in torch.from_numpy(np.ascontiguousarray(pixels)).split(batch_size):
            x = to_input(batch.to(classifier.device), classifier.normalisation)
            parts.append(features(network, x)[layer].contiguous().cpu())
    return torch.cat(parts).numpy()


def shape_of(classifier: Classifier, layer: Layer) -> tuple[int, ...]:
    """Return the shape of one image's features."""
    size = classifier.preprocessing.size
    return compute(classifier, np.zeros((1, size, size), np.uint8), layer).shape[1:]


def embed(classifier: Classifier, pixels: NDArray[np.uint8], batch_size: int = 128) -> NDArray[np.float32]:
    """Return the input of the last layer, float32 [N, D], for preprocessed uint8 [N, S, S]; N may be 0."""
    return compute(classifier, pixels, "pool", batch_size)


def features(model: Network, x: Tensor) -> dict[str, Tensor]:
    """Return the outputs of all layers of one forward pass over float32 [B, 1, H, W].

    stem    [B, w, h, w']            h = H, or H/4 with the imagenet stem
    stage1  [B, e w, h, w']          e and w: see `resnet`
    stage2  [B, 2e w, h/2, w'/2]     sides are rounded up
    stage3  [B, 4e w, h/4, w'/4]
    stage4  [B, 8e w, h/8, w'/8]
    pool    [B, 8e w]                [B, 2w] with the multi-scale head
    logits  [B, C]
    """
    model = model.at(x.shape[-1])
    stem = model.stem(x)
    stages = model.stages(stem)
    pool = model.pool(stages)
    named = {f"stage{number}": output for number, output in enumerate(stages, start=1)}
    return {"stem": stem, **named, "pool": pool, "logits": model.fc(pool)}
