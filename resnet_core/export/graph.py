"""Graph: the classifier from gray levels to probabilities, as one graph of tensor operations.

    uint8 [N, S, S], preprocessed  ->  normalise, mirror and resize, the network, softmax, their mean,
                                       the temperature  ->  float32 [N, C], rows summing to 1
                                    with `features`:    ->  float32 [N, F] for `Classifier.novelty`, means of views

An exported file holds all of it, so that its user has no further step to get wrong. The steps are the classifier's
own functions, traced. Decisions and sets of `calibration` travel beside the graph, as text.
"""

import copy
import json
from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from resnet_core.model.calibration import FLOOR
from resnet_core.model.classifier import Classifier, seen, views
from resnet_core.model.inputs import to_input
from resnet_core.model.sized import by_side

INPUT, OUTPUT, FEATURES = "images", "probabilities", "features"
Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # [N, S, S] -> [N, C]: an exported file, loaded
# The same file's outputs in their order: probabilities, and features [N, D] if it has them.
Outputs = Callable[[NDArray[np.uint8]], Sequence[NDArray[np.float32]]]
METADATA = "grayline"  # the name of the text of `describe`, in every format


class ScoringGraph(nn.Module):
    """uint8 [N, S, S] -> float32 [N, C], as `Classifier.probabilities` on a CPU.

    features: also return the features [N, F], by which `Classifier.novelty` tells unknown images.
    """

    def __init__(self, classifier: Classifier, features: bool = False) -> None:
        super().__init__()
        self.features = features
        # The graph holds the weights of the scored sizes only.
        self.network = by_side(copy.deepcopy(classifier.network), classifier.sides, lambda network, _: network)
        self.network = self.network.cpu().to(memory_format=torch.contiguous_format)
        self.network.requires_grad_(False).eval()
        self.config, self.normalisation = classifier.config, classifier.normalisation
        self.temperature = classifier.calibration.temperature

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = to_input(images, self.normalisation)
        outputs: list[tuple[Tensor, ...]] = []
        # Views of one size pass the network together, so that the graph holds it once a size.
        for _, group in groupby(views(x, self.config), key=lambda view: view.shape[-1]):
            of_size = list(group)
            found = seen(self.network, torch.cat(of_size) if len(of_size) > 1 else of_size[0], self.features)
            outputs.append(tuple(output.unflatten(0, (len(of_size), -1)) for output in found))
        means = [(torch.cat(parts) if len(parts) > 1 else parts[0]).mean(0) for parts in zip(*outputs, strict=True)]
        if self.temperature != 1:
            means[0] = (means[0].clamp_min(FLOOR).log() / self.temperature).softmax(1)
        return (means[0], means[1]) if self.features else means[0]


def trace(classifier: Classifier, features: bool = False) -> ExportedProgram:
    """Trace the graph, with its weights, for batches of any size."""
    size = classifier.preprocessing.size
    example = torch.zeros((2, size, size), dtype=torch.uint8)  # the trace would make a batch of 1 a constant
    return torch.export.export(
        ScoringGraph(classifier, features).eval(), (example,), dynamic_shapes={INPUT: {0: Dim("batch")}}, strict=False
    )


def describe(classifier: Classifier, name: str, version: str) -> str:
    """Return the metadata of an exported file as JSON: model, input, output, classes, preprocessing and decisions."""
    size = classifier.preprocessing.size
    facts = {
        "name": name,
        "version": version,
        "input": {"name": INPUT, "type": "uint8", "shape": ["batch", size, size], "content": "gray levels"},
        "output": {"name": OUTPUT, "type": "float32", "shape": ["batch", len(classifier.classes)]},
        **classifier.description(),
        "calibration": classifier.calibration.described(),
    }
    return json.dumps(facts, ensure_ascii=False, sort_keys=True)
