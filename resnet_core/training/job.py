"""From shards to a classifier: everything around the loop, for one process or for each of several."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from upath import UPath

from resnet_core.errors import UserError
from resnet_core.images.preprocessing import Preprocessing
from resnet_core.model import resnet
from resnet_core.model.classifier import Classifier
from resnet_core.model.inputs import Normalisation
from resnet_core.model.pretrained import load_matching, load_pretrained
from resnet_core.model.resnet import ModelConfig
from resnet_core.model.sized import Network, sized
from resnet_core.shards import format as shards
from resnet_core.shards.encryption import Keys
from resnet_core.shards.format import Images
from resnet_core.storage.files import as_local
from resnet_core.training import loop as fit
from resnet_core.training.batches import Batches, Resident, Streamed
from resnet_core.training.config import TrainConfig
from resnet_core.training.distributed import ALONE, World
from resnet_core.training.loop import Epoch, Step

log = logging.getLogger("grayline")


@dataclass(frozen=True)
class Job:
    """All that a training is made of.

    files: shards with `train` training and `validation` validation images.
    state: the checkpoint; a training that was interrupted goes on from it.
    start: the folder of a saved classifier whose weights it begins with.
    held_out: bool [train], training images that are kept aside to validate on, instead of the
        validation images.
    """

    files: tuple[UPath, ...]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    train: int
    validation: int
    model: ModelConfig
    config: TrainConfig
    state: UPath | None = None
    start: UPath | None = None
    held_out: NDArray[np.bool_] | None = None
    resident_bytes: int = 2 * 1024**3
    keys: Keys | None = None


def run(
    job: Job,
    device: torch.device,
    world: World = ALONE,
    on_step: Callable[[Step], None] = lambda step: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> tuple[Classifier, list[Epoch]]:
    """Train, or go on from `job.state`. What `on_epoch` raises stops it; the checkpoint has been written then."""
    if job.config.early_stopping and not job.validation and job.held_out is None:
        raise UserError(
            "train.early_stopping: there are no validation images to judge by. Set `split.validation: 0.1`, or 0 here."
        )
    moments = Normalisation(*shards.pixel_moments(job.files, job.classes, job.keys))
    data = _training_batches(job, device)
    include = None if job.held_out is None else ~job.held_out
    learned = data.labels if include is None else data.labels[include]

    once = replace(job.model, score_flips="none", score_scales=())  # an epoch is judged by one look at each image

    def classifier(model: nn.Module, config: ModelConfig = once) -> Classifier:
        assert isinstance(model, Network)
        return Classifier(model, config, job.classes, job.preprocessing, moments)

    trained, epochs = fit.fit(
        network(job),
        data,
        job.config,
        class_counts=torch.from_numpy(np.bincount(learned, minlength=len(job.classes))),
        normalisation=moments,
        device=device,
        include=include,
        validate=_validator(job, classifier),
        state=job.state,
        world=world,
        on_step=on_step,
        on_epoch=on_epoch,
    )
    return classifier(trained, job.model), epochs


def network(job: Job) -> Network:
    """The network before its first step: fresh, with published weights, or with those of `job.start`. With averages
    for each of the sides that it will learn at, if they are several."""
    made = resnet.build(job.model, size=job.preprocessing.size, classes=len(job.classes), seed=job.config.seed)
    fresh: list[str] = []
    if job.start:
        fresh = load_matching(made, _weights_of(job.start, job.classes))
    elif job.model.pretrained != "none":
        fresh = load_pretrained(made, job.model)
    if fresh:
        log.info("train       starts with known weights, but for %s", ", ".join(fresh))
    scales = set(job.config.scales)
    return sized(made, scales if len(scales) > 1 else ())


def _weights_of(start: UPath, classes: tuple[str, ...]) -> dict[str, Tensor]:
    """Of a saved classifier; without the last layer, whose rows are classes, when it has other ones."""
    with as_local(start) as folder:
        found = Classifier.load(folder, "cpu")
    weights = found.network.at(found.preprocessing.size).state_dict()
    return {name: w for name, w in weights.items() if found.classes == classes or not name.startswith("fc.")}


def _training_batches(job: Job, device: torch.device) -> Batches:
    """The whole set on the device when its pixels fit into `resident_bytes`, else a stream of it."""
    size = job.preprocessing.size
    if job.train * size * size <= job.resident_bytes:
        return Resident.of(shards.read(job.files, "train", job.classes, job.keys), device)
    window = max(shards.ROW_GROUP, job.resident_bytes // (4 * size * size))
    return Streamed(job.files, job.classes, job.train, device, window, job.keys)


def _validator(job: Job, classifier: Callable[[nn.Module], Classifier]) -> Callable[[nn.Module], float] | None:
    """Accuracy on the images kept aside, or on the validation images; None where there are neither. The
    test images are not looked at before the training has ended."""
    if job.held_out is None and not job.validation:
        return None

    def validate(model: nn.Module) -> float:
        right = count = 0
        for images in kept_aside(job):
            right += int((classifier(model).probabilities(images.pixels).argmax(1) == images.labels).sum())
            count += len(images)
        return right / count

    return validate


def kept_aside(job: Job) -> Iterator[Images]:
    """The images that a training does not learn from and may look at."""
    if job.held_out is None:
        return shards.iterate(job.files, "validation", job.classes, job.keys)
    return shards.iterate(job.files, "train", job.classes, job.keys, np.flatnonzero(job.held_out))
