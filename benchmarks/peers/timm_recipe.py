"""timm's training script for ResNet-18, through timm's own parts, with the values it has by default.

`train.py` of timm's repository:

- SGD with Nesterov's momentum of 0.9, and a rate of 0.1 for batches of 256, here 0.05 for 128;
- weight decay 2e-5 on kernels and matrices; label smoothing of 0.1;
- a cosine over 300 epochs after five of warm-up from 1e-5;
- a random resized crop with a random filter, a mirror image and colour jitter of 0.4;
- the middle of the image in evaluation, as the network's own configuration says.

The network has a single input channel: timm averages ImageNet's mean and deviation for it.
"""

from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import timm
import torch
from timm.data import ImageDataset, create_loader, resolve_data_config
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2

from benchmarks.peers.recipe import Trained, alternate

EPOCHS = 300
WARM_UP = 5  # of the 300
BATCH = 128
WORKERS = 2


def train(data: Path, side: int, epochs: int, device: torch.device) -> Iterator[Trained]:
    """See `peers.recipe.Recipe`."""
    classes = len(list((data / "train").iterdir()))
    model = timm.create_model("resnet18", in_chans=1, num_classes=classes).to(device)
    found = resolve_data_config({"in_chans": 1, "img_size": side}, model=model)
    normalise = {name: (mean(found[name]),) for name in ("mean", "std")}
    images = loader(data / "train", device, found, **normalise, is_training=True, interpolation="random")
    held_out = loader(
        data / "val", device, found, **normalise, crop_pct=found["crop_pct"], interpolation=found["interpolation"]
    )
    optimizer = create_optimizer_v2(model, "sgd", lr=0.1 * BATCH / 256, weight_decay=2e-5, momentum=0.9)
    warm_up = max(1, round(epochs * WARM_UP / EPOCHS))
    schedule, _ = create_scheduler_v2(
        optimizer, "cosine", num_epochs=epochs, warmup_epochs=warm_up, warmup_lr=1e-5, min_lr=0
    )
    loss_of = LabelSmoothingCrossEntropy(0.1)

    def one_epoch(epoch: int) -> None:
        for x, labels in images:
            loss = loss_of(model(x), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step(epoch + 1)

    yield from alternate(epochs, one_epoch, model, held_out, device)


def loader(folder: Path, device: torch.device, found: dict[str, Any], **values: Any) -> Any:
    """timm's, over gray images: the defaults of `create_loader` are those of the script."""
    images = ImageDataset(str(folder), input_img_mode="L")
    return create_loader(
        images, input_size=found["input_size"], batch_size=BATCH, num_workers=WORKERS, device=device, **values
    )
