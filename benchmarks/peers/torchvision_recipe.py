"""torchvision's reference recipe for ResNet-18, on one device.

`references/classification` of torchvision's repository, with its script's defaults and its README's values for
ResNet-18:

- SGD of rate 0.1 and momentum 0.9, weight decay 1e-4 on everything, batches of 32;
- the rate divided by ten after every third of 90 epochs;
- a random resized crop and a mirror image in training, the middle 224/256 in evaluation;
- ImageNet's mean and deviation;
- a DataLoader over an ImageFolder, which makes three equal channels of a gray image.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
import torchvision
from torch import nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks.peers.recipe import Trained, alternate

EPOCHS = 90
BATCH = 32
WORKERS = 2
NORMALISE = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def train(data: Path, side: int, epochs: int, device: torch.device) -> Iterator[Trained]:
    """See `peers.recipe.Recipe`."""
    images, held_out = loaders(data, side)
    model = torchvision.models.resnet18(num_classes=len(list((data / "train").iterdir()))).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    schedule = StepLR(optimizer, step_size=max(1, round(epochs / 3)), gamma=0.1)
    loss_of = nn.CrossEntropyLoss()

    def one_epoch(epoch: int) -> None:
        for x, labels in images:
            loss = loss_of(model(x.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()

    yield from alternate(epochs, one_epoch, model, held_out, device)


def loaders(data: Path, side: int) -> tuple["DataLoader[tuple[torch.Tensor, int]]", ...]:
    """For training and for evaluation."""
    last = (transforms.PILToTensor(), transforms.ConvertImageDtype(torch.float), NORMALISE)
    varied = transforms.Compose([transforms.RandomResizedCrop(side), transforms.RandomHorizontalFlip(), *last])
    middle = transforms.Compose([transforms.Resize(round(side * 256 / 224)), transforms.CenterCrop(side), *last])
    return (
        DataLoader(ImageFolder(str(data / "train"), varied), BATCH, shuffle=True, num_workers=WORKERS),
        DataLoader(ImageFolder(str(data / "val"), middle), BATCH, num_workers=WORKERS),
    )
