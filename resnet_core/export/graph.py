"""Graph: the classifier from gray levels to probabilities, as one graph of tensor operations.

    uint8 [N, S, S], preprocessed  ->  normalise, mirror and resize, the network, softmax, their mean,
                                       the temperature  ->  float32 [N, C], rows summing to 1

An exported file holds all of it, so that its user has no further step to get wrong. The steps are the classifier's
own functions, traced. Decisions and sets of `calibration` travel beside the graph, as text.
"""

import copy
import json
from collections.abc import Callable
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from resnet_core.model.calibration import FLOOR
from resnet_core.model.classifier import Classifier, views
from resnet_core.model.inputs import to_input
from resnet_core.model.sized import by_side

INPUT, OUTPUT = "images", "probabilities"
Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # [N, S, S] -> [N, C]: an exported file, loaded
METADATA = "grayline"  # the name of the text of `describe`, in every format


class ScoringGraph(nn.Module):
    """uint8 [N, S, S] -> float32 [N, C], as `Classifier.probabilities` on a CPU."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        # The graph holds the weights of the scored sizes only.
        self.network = by_side(copy.deepcopy(classifier.network), classifier.sides, lambda network, _: network)
        self.network = self.network.cpu().to(memory_format=torch.contiguous_format)
        self.network.requires_grad_(False).eval()
        self.config, self.normalisation = classifier.config, classifier.normalisation
        self.temperature = classifier.calibration.temperature

    def forward(self, images: Tensor) -> Tensor:
        x = to_input(images, self.normalisation)
        seen = []
        # Views of one size pass the network together, so that the graph holds it once a size.
        for _, group in groupby(views(x, self.config), key=lambda view: view.shape[-1]):
            views_of_size = list(group)
            shares = self.network(torch.cat(views_of_size) if len(views_of_size) > 1 else views_of_size[0]).softmax(1)
            seen.append(shares.unflatten(0, (len(views_of_size), -1)))
        shares = (torch.cat(seen) if len(seen) > 1 else seen[0]).mean(0)
        if self.temperature == 1:
            return shares
        return (shares.clamp_min(FLOOR).log() / self.temperature).softmax(1)


def trace(classifier: Classifier) -> ExportedProgram:
    """Trace the graph, with its weights, for batches of any size."""
    size = classifier.preprocessing.size
    example = torch.zeros((2, size, size), dtype=torch.uint8)  # the trace would make a batch of 1 a constant
    return torch.export.export(
        ScoringGraph(classifier).eval(), (example,), dynamic_shapes={INPUT: {0: Dim("batch")}}, strict=False
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
