"""Train: a shard set into a classifier, going on where an interrupted run stopped."""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict

import torch
from prefect import task
from torch import nn
from upath import UPath

from resnet_core import augment, batches, fit, normalisation, resnet, shards
from resnet_core.batches import Batches, Resident, Streamed
from resnet_core.classifier import Classifier
from resnet_core.device import describe, find_device
from resnet_core.digest import digest_of, source_digest
from resnet_core.encryption import Keys
from resnet_core.files import write_folder, write_text
from resnet_core.fit import Epoch, Step
from resnet_core.normalisation import Normalisation
from tasks import tracking
from tasks.dataset import Dataset
from tasks.progress import progress
from tasks.values import Checkpoint, ShardSet

log = logging.getLogger("grayline")


@task(retries=1)
def train(
    shard_set: ShardSet,
    dataset: Dataset,
    store: UPath,
    tracking_uri: str,
    device: str = "auto",
    resident_bytes: int = 2 * 1024**3,
    keys: Keys | None = None,
) -> Checkpoint:
    """Train, or find the classifier that the same data, settings and code have already given."""
    digest = training_digest(shard_set, dataset)
    folder = store / "runs" / dataset.name / digest
    run_id = tracking.open_run(tracking_uri, store, dataset.name, digest)
    tracking.log_params(tracking_uri, run_id, dataset.model_dump())
    finished = folder / "epochs.json"
    reused = finished.exists()
    if not reused:
        tracking.set_status(tracking_uri, run_id, "RUNNING")
        try:
            train_new(shard_set, dataset, folder, tracking_uri, run_id, find_device(device), resident_bytes, keys)
        except BaseException:
            tracking.set_status(tracking_uri, run_id, "FAILED")
            raise
    summary = json.loads(finished.read_text(encoding="utf-8"))
    epochs = [Epoch(**values) for values in summary["epochs"]]
    tracking.log_epochs(tracking_uri, run_id, epochs)
    return Checkpoint(
        dataset=dataset.name,
        folder=folder,
        digest=digest,
        epochs=len(epochs),
        train_accuracy=epochs[-1].accuracy,
        seconds=summary["seconds"],
        device=summary["device"],
        reused=reused,
        mlflow_run_id=run_id,
    )


def training_digest(shard_set: ShardSet, dataset: Dataset) -> str:
    """The name of a training: all that decides what comes out of it."""
    code = source_digest(augment, batches, fit, normalisation, resnet)
    return digest_of(shard_set.digest, dataset.model, dataset.train, code)


def train_new(
    shard_set: ShardSet,
    dataset: Dataset,
    folder: UPath,
    tracking_uri: str,
    run_id: str,
    device: torch.device,
    resident_bytes: int,
    keys: Keys | None,
) -> None:
    """Fill `folder` with `model/` and, last, `epochs.json`; `state.safetensors` is there meanwhile."""
    started = time.monotonic()
    classes, size = shard_set.classes, shard_set.preprocessing.size
    moments = Normalisation(*shards.pixel_moments(shard_set.files, classes, keys))
    counts = torch.from_numpy(shards.count_labels(shard_set.files, "train", classes, keys))
    data = training_batches(shard_set, device, resident_bytes, keys)
    network = resnet.build(dataset.model, size=size, classes=len(classes), seed=dataset.train.seed)
    log.info("train       %s, %d px, on %s", dataset.model.arch, size, describe(device))

    def classifier(model: nn.Module) -> Classifier:
        assert isinstance(model, resnet.ResNet)
        return Classifier(model, dataset.model, classes, shard_set.preprocessing, moments)

    with progress("train", shard_set.train * dataset.train.epochs) as advance:
        meter = Meter(advance, dataset.train.epochs)

        def on_epoch(epoch: Epoch) -> None:
            meter.epoch_done(epoch, shard_set.train)
            tracking.log_epochs(tracking_uri, run_id, [epoch])

        trained, epochs = fit.fit(
            network,
            data,
            dataset.train,
            class_counts=counts,
            normalisation=moments,
            device=device,
            validate=validator(shard_set, classifier, keys),
            state=folder / "state.safetensors",
            on_step=meter.step,
            on_epoch=on_epoch,
        )
    with write_folder(folder / "model") as draft:
        classifier(trained).save(draft)
    summary = {
        "seconds": round(time.monotonic() - started, 1),
        "device": describe(device),
        "epochs": [asdict(epoch) for epoch in epochs],
    }
    write_text(folder / "epochs.json", json.dumps(summary, indent=2) + "\n")
    (folder / "state.safetensors").unlink(missing_ok=True)


def training_batches(shard_set: ShardSet, device: torch.device, resident_bytes: int, keys: Keys | None) -> Batches:
    """The whole set on the device when its pixels fit into `resident_bytes`, else a stream of it."""
    size = shard_set.preprocessing.size
    if shard_set.train * size * size <= resident_bytes:
        return Resident.of(shards.read(shard_set.files, "train", shard_set.classes, keys), device)
    window = max(shards.ROW_GROUP, resident_bytes // (4 * size * size))
    return Streamed(shard_set.files, shard_set.classes, shard_set.train, device, window, keys)


def validator(
    shard_set: ShardSet, classifier: Callable[[nn.Module], Classifier], keys: Keys | None
) -> Callable[[nn.Module], float] | None:
    """Accuracy on the validation images; None where the data set has none. The test images are not
    looked at before the training has ended."""
    if not shard_set.validation:
        return None

    def validate(model: nn.Module) -> float:
        right = 0
        for images in shards.iterate(shard_set.files, "validation", shard_set.classes, keys):
            found = classifier(model).probabilities(images.pixels).argmax(1)
            right += int((found == images.labels).sum())
        return right / shard_set.validation

    return validate


class Meter:
    """Turns the loop's steps into a progress bar's advances."""

    def __init__(self, advance: Callable[[int, str], None], epochs: int) -> None:
        self.advance = advance
        self.epochs = epochs
        self.shown = 0  # images of the current epoch that the bar already counts
        self.epochs_shown = 0

    def step(self, step: Step) -> None:
        self.advance(step.images - self.shown, self.note(step))
        self.shown = step.images

    def epoch_done(self, epoch: Epoch, images: int) -> None:
        """A GPU's last steps were not shown; a resumed run begins with the epochs it has."""
        self.advance((epoch.epoch - self.epochs_shown) * images - self.shown, self.note(epoch))
        self.epochs_shown, self.shown = epoch.epoch, 0

    def note(self, at: Step | Epoch) -> str:
        text = f"epoch {at.epoch}/{self.epochs}  loss {at.loss:.3f}  accuracy {at.accuracy:.3f}"
        if isinstance(at, Epoch) and at.validation_accuracy is not None:
            text += f"  validation {at.validation_accuracy:.3f}"
        return text
