"""timm's inference script, through timm's own parts, with the values it has by default.

`inference.py` of timm's repository: the folder reader, the loader with two workers and its prefetcher, batches of 256.
The model runs in evaluation mode under `inference_mode`, then softmax and the five most probable classes.
All results are kept until the end, then written as a table of file names and a CSV file.
The weights, sides and normalisation are those that it is given.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import timm
import torch
from timm.data import create_dataset, create_loader
from torch import Tensor, nn

BATCH = 256
WORKERS = 2


@dataclass(frozen=True)
class Given:
    """A trained model: weights by the names of a torchvision ResNet-18 with one input channel; none: random ones."""

    weights: dict[str, Tensor]
    classes: int
    side: int
    mean: float
    std: float


def build(given: Given) -> nn.Module:
    model = timm.create_model("resnet18", in_chans=1, num_classes=given.classes)
    if given.weights:
        model.load_state_dict(given.weights)
    return model.eval()


def infer(folder: Path, model: nn.Module, given: Given, output: Path) -> pd.DataFrame:
    """A row a file that could be read; a file that could not gets its neighbour's prediction."""
    dataset = create_dataset("", root=str(folder), input_img_mode="L", class_map={"": 0})
    loader = create_loader(
        dataset, input_size=(1, given.side, given.side), batch_size=BATCH, num_workers=WORKERS,
        device=torch.device("cpu"), mean=(given.mean,), std=(given.std,),
        interpolation="bilinear", crop_pct=1.0, crop_mode="squash",
    )  # fmt: skip
    probabilities, labels = [], []
    with torch.inference_mode():
        for images, _ in loader:
            found = model(images).softmax(-1)
            found, index = found.topk(min(5, given.classes))
            probabilities.append(found.cpu().numpy())
            labels.append(index.cpu().numpy())
    table = pd.DataFrame({"filename": dataset.filenames(basename=False, absolute=True)})
    best, places = np.concatenate(probabilities), np.concatenate(labels)
    for k in range(best.shape[1]):
        table[f"label_{k}"], table[f"prob_{k}"] = places[:, k], best[:, k]
    table.to_csv(output, index=False)
    return table
