"""The classifier of bulk scoring: `Classifier.probabilities` against plain eager PyTorch.

Ours takes uint8 images and normalises them, in batches of its own choice. The peer has normalised float tensors ready,
contiguous as torch makes them, in batches of 128. It runs the same weights under `inference_mode`. Both end with
softmax. Reading files is not included: see `decode` and `ingest`.
The difference is between the two softmax outputs.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.images import cells
from benchmarks.rounds import Comparison, Difference, Result, Track, interleave, timed
from resnet_core.images.preprocessing import Preprocessing
from resnet_core.model.classifier import Classifier
from resnet_core.model.inputs import Normalisation, to_input
from resnet_core.model.resnet import ModelConfig, ResNet, build
from resnet_core.reading.pool import read_file

SIZE = 64  # pixels
BATCH = 128
IMAGES = 4 * BATCH
MODEL = ModelConfig("resnet18")
CLASSES = ("defective", "functional")
ROUNDS = 7


def run(folder: Path, track: Track) -> Result:
    pixels, floats, network, ours = contestants(folder)
    rates = interleave(
        ROUNDS,
        {
            "ours": timed(lambda: len(ours.probabilities(pixels))),
            "peer": timed(lambda: len(eager(network, floats))),
        },
        track,
    )
    gap = np.abs(ours.probabilities(pixels) - eager(network, floats).numpy())
    return Result(
        "score",
        f"{MODEL.arch}, {SIZE} px, batch {ours.usual_batch()} and {BATCH}, {torch.get_num_threads()} torch threads",
        (
            Comparison(
                "Classifier.probabilities",
                "eager inference_mode, contiguous",
                rates["ours"],
                rates["peer"],
                Difference(float(gap.mean()), float(gap.max()), "probability"),
            ),
        ),
    )


def contestants(folder: Path) -> tuple[NDArray[np.uint8], Tensor, ResNet, Classifier]:
    """Return cells as uint8 [N, S, S] and as the peer's tensors, the peer's network, and the classifier."""
    read = [read_file(str(path), Preprocessing(SIZE)).pixels for path in cells(IMAGES)]
    pixels = np.stack([image for image in read if image is not None])
    normalisation = Normalisation(float(pixels.mean()) / 255, float(pixels.std()) / 255)
    floats = to_input(torch.from_numpy(pixels), normalisation).contiguous(memory_format=torch.contiguous_format)
    network = lively_network(floats[:BATCH])
    # Through the disk, as scoring gets it: what `load` does to a network is part of ours.
    Classifier(network, MODEL, CLASSES, Preprocessing(SIZE), normalisation).save(folder)
    return pixels, floats, network, Classifier.load(folder, "cpu")


def lively_network(x: Tensor) -> ResNet:
    """A network in which every layer has a say. A fresh one's residual branches are multiplied by zero: two ways to
    compute zero would agree too easily.
    """
    network = build(MODEL, size=SIZE, classes=len(CLASSES))
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.fill_(0.5)
        network.train()
        for _ in range(8):  # moves the running statistics of batch norm to those of these images
            network(x)
        # Logits of mean 0 and deviation 1 over the images: a softmax near 0 or 1 hides differences.
        logits = network.eval()(x)
        network.fc.bias.sub_(logits.mean(0)).div_(logits.std(0))
        network.fc.weight.div_(logits.std(0)[:, None])
    return network


def eager(network: ResNet, x: Tensor) -> Tensor:
    """float32 [N, C]."""
    with torch.inference_mode():
        return torch.cat([network(batch).softmax(1) for batch in x.split(BATCH)])
