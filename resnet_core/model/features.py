"""An image as the vector that its classification is made of: alike images lie near each other."""

import numpy as np
import torch
from numpy.typing import NDArray

from resnet_core.model.classifier import Classifier
from resnet_core.model.inputs import to_input


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
