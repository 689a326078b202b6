"""One training on the devices of a Ray cluster, by Ray Train: `several`, where the processes are elsewhere."""

import queue
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from threading import Thread
from typing import Any

import torch
from upath import UPath

from resnet_core.errors import UserError
from resnet_core.training.distributed import PATIENCE, World
from resnet_core.training.job import Job
from resnet_core.training.loop import Epoch, Step
from tasks.cluster import connect
from tasks.training.processes import (
    Failed,
    Finished,
    Report,
    Result,
    check_batches,
    failure,
    first,
    lost,
    take_part,
    unpacked,
)

_SECONDS_TO_LOOK = 1.0
_SECONDS_TO_END = 60.0


def run_on_cluster(
    job: Job, device: torch.device, wanted: str, on_step: Callable[[Step], None], on_epoch: Callable[[Epoch], None]
) -> Result:
    """`several.run_on_devices` on the cluster of `RAY_ADDRESS`; the job's files lie where all of it reaches them.

    device: where the classifier goes, of this machine.
    wanted: `cpu`, `cuda`, or `auto`: GPUs where the cluster has any.
    """
    check_batches(job)
    connect()
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    on_gpus = check_cluster(ray.cluster_resources(), job.config.devices, wanted)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    reports, answers = (Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here}) for _ in range(2))
    errors: list[Exception] = []
    with _folder(job) as (filesystem, path):
        trainer = TorchTrainer(
            # Not through `train_loop_config`, which Ray shows to whoever asks: a job has keys.
            partial(_on_cluster, job, reports, answers),
            torch_config=TorchConfig(timeout_s=int(PATIENCE.total_seconds())),
            scaling_config=ScalingConfig(num_workers=job.config.devices, use_gpu=on_gpus),
            run_config=RunConfig(name="ray", storage_path=path, storage_filesystem=filesystem),
        )
        # In a thread of its own, where it leaves the handlers of signals alone.
        training = Thread(target=_fit, args=(trainer, errors), daemon=True)
        training.start()
        try:
            finished, failed = _listen(training, reports, answers, on_step, on_epoch)
        finally:
            for each in (reports, answers):  # a process that still trains ends with its next report
                each.shutdown(force=True)
            training.join(_SECONDS_TO_END)
    if finished is None:
        raise _cause(errors, failed)
    return unpacked(finished.classifier, device), finished.epochs


def check_cluster(resources: dict[str, float], count: int, wanted: str) -> bool:
    """Whether the processes are to have a GPU each, of the cluster's `resources` as Ray counts them. Raises
    UserError where there are too few: Ray would wait for more."""
    on_gpus = wanted.startswith("cuda") or (wanted == "auto" and resources.get("GPU", 0) > 0)
    have = int(resources.get("GPU" if on_gpus else "CPU", 0))
    if have < count:
        kind = "GPU" if on_gpus else "processor"
        raise UserError(
            f"train.devices: {count} processes take a {kind} each, and the Ray cluster has {have}. "
            f"Write {have} or less, or add machines to it."
        )
    return on_gpus


def _fit(trainer: Any, errors: list[Exception]) -> None:
    try:
        trainer.fit()
    except Exception as error:  # noqa: BLE001  raised by who waits for this thread
        errors.append(error)


def _listen(
    training: Thread, reports: Any, answers: Any, on_step: Callable[[Step], None], on_epoch: Callable[[Epoch], None]
) -> tuple[Finished | None, list[Failed]]:
    """Pass on what the processes report until the training has ended."""
    finished: Finished | None = None
    failed: list[Failed] = []
    while training.is_alive() or not reports.empty():
        with suppress(queue.Empty):
            report = reports.get(timeout=_SECONDS_TO_LOOK)
            match report:
                case Step():
                    on_step(report)
                case Epoch():
                    on_epoch(report)
                    answers.put(None)
                case Finished():
                    finished = report
                case Failed():
                    failed.append(report)
    return finished, failed


def _cause(errors: list[Exception], failed: list[Failed]) -> Exception:
    """What failed first; a process that is gone has not said so."""
    from ray.train import WorkerGroupError

    of_ray = [error for error in errors if not isinstance(error, WorkerGroupError)]
    return first(failed) or (of_ray[0] if of_ray else lost("a process is gone, or its machine is"))


def _on_cluster(job: Job, reports: Any, answers: Any) -> None:
    """What each process of the cluster does; Ray Train has joined them."""
    import ray.train
    from ray.train.torch import get_device

    context = ray.train.get_context()
    world = World(context.get_world_rank(), context.get_world_size())
    try:
        take_part(job, get_device(), world, _seldom(reports.put), answers.get)
    except Exception as error:
        reports.put(failure(error, world))
        raise


def _seldom(put: Callable[[Report], None]) -> Callable[[Report], None]:
    """Each message is a call to another process: of the steps, one in so many seconds is enough."""
    said = 0.0

    def report(message: Report) -> None:
        nonlocal said
        if not isinstance(message, Step):
            put(message)
        elif time.monotonic() - said >= _SECONDS_TO_LOOK:
            said = time.monotonic()
            put(message)

    return report


@contextmanager
def _folder(job: Job) -> Iterator[tuple[Any, str]]:
    """Where Ray Train writes what it needs, beside the checkpoint: its file system for pyarrow and path."""
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    with tempfile.TemporaryDirectory() as made:
        folder = job.state.parent if job.state else UPath(made)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            yield PyFileSystem(FSSpecHandler(folder.fs)), folder.path
        finally:
            if (folder / "ray").exists():
                folder.fs.rm((folder / "ray").path, recursive=True)
