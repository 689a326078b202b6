"""From shards to a classifier: the work around the training loop, in each of its processes."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

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
from resnet_core.threads import Threads
from resnet_core.training.batches import Batches, Resident, Streamed
from resnet_core.training.config import TrainConfig
from resnet_core.training.distributed import World
from resnet_core.training.loop import Epoch, Hooks, Step, TrainingSet, fit
from resnet_core.training.rate import rate_of_steps

log = logging.getLogger("grayline")


@dataclass(frozen=True)
class Job:
    """The inputs of a training.

    files: shards with `train` training and `validation` validation images.
    state: the checkpoint; an interrupted training goes on from it.
    start: the folder of a saved classifier whose weights the training begins with.
    held_out: bool [train], training images to validate on instead of the validation images.
    judge: the metric to validate by, of labels [N] and probabilities [N, C]; by default the accuracy.
    resident_bytes: pixels up to this size are kept on the device, more are streamed.
    threads: of each epoch, on a CPU, to do a training again; empty: as the load of the cores says.
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
    judge: Callable[[NDArray[np.int64], NDArray[np.float32]], float] | None = None
    resident_bytes: int = 2 * 1024**3
    keys: Keys | None = None
    threads: tuple[int, ...] = ()


def run(
    job: Job,
    world: World,
    on_step: Callable[[Step], None] = lambda step: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> tuple[Classifier, list[Epoch]]:
    """Train, or go on from `job.state`. An exception of `on_epoch` stops it, after the checkpoint is written."""
    if job.config.early_stopping and not job.validation and job.held_out is None:
        raise UserError(
            "train.early_stopping: there are no validation images to judge by. Set `split.validation: 0.1`, or 0 here."
        )
    moments = Normalisation(*shards.pixel_moments(job.files, job.classes, job.keys))
    batches = _training_batches(job, world.device)
    include = None if job.held_out is None else ~job.held_out
    learned = batches.labels if include is None else batches.labels[include]
    counts = torch.from_numpy(np.bincount(learned, minlength=len(job.classes)))

    once = replace(job.model, score_flips="none", score_scales=())  # an epoch is validated without other views

    def classifier(model: nn.Module, config: ModelConfig = once) -> Classifier:
        assert isinstance(model, Network)
        return Classifier(model, config, job.classes, job.preprocessing, moments)

    data = TrainingSet(batches, counts, moments, include)
    hooks = Hooks(_validator(job, classifier), on_step, on_epoch)
    if world.device.type != "cpu" or world.size > 1:
        trained, epochs = fit(network(job), data, job.config, world, state=job.state, hooks=hooks)
    else:
        sides = job.preprocessing.size, len(job.classes)
        threads = Threads(partial(rate_of_steps, job.model, job.config, *sides, world.device), job.threads)
        with threads.set() as before_epoch:
            hooks = replace(hooks, before_epoch=before_epoch)
            trained, epochs = fit(network(job), data, job.config, world, state=job.state, hooks=hooks)
    return classifier(trained, job.model), epochs


def network(job: Job) -> Network:
    """Return the network before its first step: fresh, with pretrained weights, or with those of `job.start`.

    It has batch norm statistics for each of several training sides.
    """
    plain = resnet.build(job.model, size=job.preprocessing.size, classes=len(job.classes), seed=job.config.seed)
    fresh: list[str] = []
    if job.start:
        fresh = load_matching(plain, _weights_of(job.start, job.classes))
    elif job.model.pretrained != "none":
        fresh = load_pretrained(plain, job.model)
    if fresh:
        log.info("train       starts with trained weights, except for %s", ", ".join(fresh))
    scales = set(job.config.scales)
    return sized(plain, scales if len(scales) > 1 else ())


def _weights_of(start: UPath, classes: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the weights of a saved classifier; without the last layer if its classes are others."""
    with as_local(start) as folder:
        saved = Classifier.load(folder, "cpu")
    weights = saved.network.at(saved.preprocessing.size).state_dict()
    return {name: w for name, w in weights.items() if saved.classes == classes or not name.startswith("fc.")}


def _training_batches(job: Job, device: torch.device) -> Batches:
    """Return the whole set on the device if its pixels fit into `resident_bytes`, else a stream of it."""
    size = job.preprocessing.size
    if job.train * size * size <= job.resident_bytes:
        return Resident.of(shards.read(job.files, "train", job.classes, job.keys), device)
    window = max(shards.ROW_GROUP, job.resident_bytes // (4 * size * size))
    return Streamed(job.files, job.classes, job.train, device, window, job.keys)


def _validator(job: Job, classifier: Callable[[nn.Module], Classifier]) -> Callable[[nn.Module], float] | None:
    """Return a function that judges by the images of `kept_aside`; None without such images."""
    if job.held_out is None and not job.validation:
        return None

    def validate(model: nn.Module) -> float:
        pairs = [(images.labels, classifier(model).probabilities(images.pixels)) for images in kept_aside(job)]
        labels, probabilities = (np.concatenate(part) for part in zip(*pairs, strict=True))
        if job.judge:
            return job.judge(labels, probabilities)
        return float((probabilities.argmax(1) == labels).mean())

    return validate


def kept_aside(job: Job) -> Iterator[Images]:
    """Yield the images to validate on: held-out training images, or the validation images."""
    if job.held_out is None:
        return shards.iterate(job.files, "validation", job.classes, job.keys)
    return shards.iterate(job.files, "train", job.classes, job.keys, np.flatnonzero(job.held_out))
