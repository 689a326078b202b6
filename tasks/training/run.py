"""The work of every training: its Job from a shard set and a data set file, and its progress."""

import logging
from collections.abc import Callable, Sequence

from prefect.client.schemas.objects import State
from upath import UPath

import resnet_core.device
import resnet_core.model
import resnet_core.shards
import resnet_core.training
from resnet_core.device import describe, find_device
from resnet_core.errors import JobError, UserError, plural
from resnet_core.model import pretrained
from resnet_core.model.classifier import WEIGHTS, Classifier
from resnet_core.storage.digest import digest_of, digests_of, source_digest
from resnet_core.storage.files import DamagedFileError, as_local, read_json
from resnet_core.training import job as job_module
from resnet_core.training.distributed import World
from resnet_core.training.job import Job
from resnet_core.training.loop import Epoch, Step
from tasks.dataset import Dataset
from tasks.defaults.settle import settle
from tasks.store import EPOCHS, MODEL
from tasks.training.processes import LostProcessError, run_on_devices
from tasks.values import ShardSet
from tasks.workspace import Workspace

log = logging.getLogger("grayline")

# The code that decides the outcome of a training, beside its data and settings.
LEARNING = (resnet_core.device, resnet_core.model, resnet_core.shards, resnet_core.training)


def may_succeed(task: object, run: object, state: State) -> bool:
    """Return whether another try may succeed: after a lost process, but not after a user's mistake."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, LostProcessError) or not isinstance(error, UserError | JobError)


def learning_digest(shard_set: ShardSet, dataset: Dataset) -> str:
    """Return the digest of everything that decides the outcome of a training from scratch."""
    assert not dataset.auto, "values are settled before a training"
    model = dataset.model
    return digest_of(shard_set.digest, model, dataset.train, pretrained.identity(model), source_digest(*LEARNING))


def job_of(shard_set: ShardSet, dataset: Dataset, here: Workspace) -> Job:
    """Return the job of a training that starts from scratch and keeps no checkpoint."""
    dataset = settle(shard_set, dataset, here)
    return Job(
        files=shard_set.files,
        classes=shard_set.classes,
        preprocessing=shard_set.preprocessing,
        train=shard_set.train,
        validation=shard_set.validation,
        model=dataset.model,
        config=dataset.train,
        resident_bytes=here.resident_bytes,
        keys=here.keys,
    )


def run_job(
    job: Job, here: Workspace, on_step: Callable[[Step], None], on_epoch: Callable[[Epoch], None]
) -> tuple[Classifier, list[Epoch]]:
    """Train in this process, in several processes of this machine, or on a cluster, as the settings say."""
    target = find_device(here.device)
    if job.config.devices == 1:
        return job_module.run(job, World(target), on_step, on_epoch)
    if here.runner == "ray":
        from tasks.training.ray_processes import run_on_cluster

        return run_on_cluster(job, target, here.device, on_step, on_epoch)
    return run_on_devices(job, target, on_step, on_epoch)


def places(job: Job, device: str, epochs: Sequence[Epoch] = ()) -> str:
    """Describe the devices of a training, for logs and reports; after it, with the threads of its epochs."""
    one = describe(find_device(device))
    if job.config.devices > 1:
        return f"{job.config.devices} of {one}"
    used = sorted({epoch.threads for epoch in epochs if epoch.threads})
    if not used:
        return one
    return f"cpu ({plural(used[0], 'thread')})" if len(used) == 1 else f"cpu ({used[0]} to {used[-1]} threads)"


class Meter:
    """Turn the loop's steps into a progress bar's advances."""

    def __init__(self, advance: Callable[[int, str], None], epochs: int) -> None:
        self.advance = advance
        self.epochs = epochs
        self.shown = 0  # images of the current epoch that the bar already counts
        self.epochs_shown = 0

    def step(self, step: Step) -> None:
        self.advance(step.images - self.shown, self.note(step))
        self.shown = step.images

    def epoch_done(self, epoch: Epoch, images: int) -> None:
        """Count the images of a finished epoch. A GPU's last steps were not shown, and a resumed run has earlier
        epochs.
        """
        self.advance((epoch.epoch - self.epochs_shown) * images - self.shown, self.note(epoch))
        self.epochs_shown, self.shown = epoch.epoch, 0

    def note(self, at: Step | Epoch) -> str:
        text = f"epoch {at.epoch}/{self.epochs}  loss {at.loss:.3f}  accuracy {at.accuracy:.3f}"
        if isinstance(at, Epoch) and at.validation_accuracy is not None:
            text += f"  validation {at.validation_accuracy:.3f}"
        return text


def is_whole(folder: UPath) -> bool:
    """Return whether a finished training is there, with the files that it wrote; a damaged one is made again.

    Trainings of earlier releases have no digests of their files.
    """
    if not (folder / EPOCHS).exists():
        return False
    try:
        written = read_json(folder / EPOCHS).get("files")
        with as_local(folder / MODEL) as model:
            found = digests_of(model)
        if WEIGHTS in found and found == (written or found):
            return True
        why = f"{MODEL}/ has other files than were written"
    except DamagedFileError as error:
        why = f"{EPOCHS}: {error.why}"
    log.warning("train       the training in %s is damaged (%s): it is made again", folder, why)
    return False
