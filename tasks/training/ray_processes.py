"""A training on the devices of a Ray cluster, by Ray Train: `processes`, on several machines.

Ray Train starts and joins the processes, collects their errors, and returns the classifier. Steps and epochs come
through queues: `ray.train.report` waits for every process, and calls back in Ray's controller instead of here.
"""

import queue
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
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
from tasks.training.processes import Result, check_batches, first, lost, portable, take_part

_SECONDS_TO_LOOK = 1.0
_SECONDS_TO_END = 60.0


def run_on_cluster(
    job: Job, device: torch.device, kind: str, on_step: Callable[[Step], None], on_epoch: Callable[[Epoch], None]
) -> Result:
    """Run `processes.run_on_devices` on the cluster of `RAY_ADDRESS`, all of which reaches the job's files.

    device: where the classifier goes, on this machine.
    kind: `cpu`, `cuda`, or `auto`: GPUs if the cluster has any.
    """
    check_batches(job)
    connect()
    import ray
    from ray.train import RunConfig, ScalingConfig, WorkerGroupError
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    on_gpus = check_cluster(ray.cluster_resources(), job.config.devices, kind)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    reports, answers = (Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here}) for _ in range(2))
    result: Future[Any] = Future()
    with _folder(job) as (filesystem, path):
        trainer = TorchTrainer(
            # Not through `train_loop_config`, which Ray shows to anybody: a job has keys.
            partial(_on_cluster, job, reports, answers),  # type: ignore[arg-type]  # Ray returns what it returns
            torch_config=TorchConfig(timeout_s=int(PATIENCE.total_seconds())),
            scaling_config=ScalingConfig(num_workers=job.config.devices, use_gpu=on_gpus),
            run_config=RunConfig(name="ray", storage_path=path, storage_filesystem=filesystem),
        )
        # In a thread, Ray Train leaves the handlers of signals alone.
        thread = Thread(target=_fit, args=(trainer, result), daemon=True)
        thread.start()
        try:
            _listen(result, reports, answers, on_step, on_epoch)
        finally:
            for each in (reports, answers):  # a process that still trains ends with its next report
                each.shutdown(force=True)
            thread.join(_SECONDS_TO_END)
    try:
        classifier, epochs = result.result().return_value
    except WorkerGroupError as error:
        raise _cause(error.worker_failures) from error
    classifier.network.to(device)
    return classifier, epochs


def check_cluster(resources: dict[str, float], count: int, kind: str) -> bool:
    """Return whether every process gets a GPU, of the cluster's `resources` as Ray counts them.

    Raises UserError if there are too few: Ray would wait for more.
    """
    on_gpus = kind.startswith("cuda") or (kind == "auto" and resources.get("GPU", 0) > 0)
    have = int(resources.get("GPU" if on_gpus else "CPU", 0))
    if have < count:
        unit = "GPU" if on_gpus else "processor"
        raise UserError(
            f"train.devices: {count} processes take a {unit} each, and the Ray cluster has {have}. "
            f"Write {have} or less, or add machines to it."
        )
    return on_gpus


def _fit(trainer: Any, result: "Future[Any]") -> None:
    try:
        result.set_result(trainer.fit())
    except Exception as error:  # noqa: BLE001  raised by `result.result()`
        result.set_exception(error)


def _listen(
    result: "Future[Any]",
    reports: Any,
    answers: Any,
    on_step: Callable[[Step], None],
    on_epoch: Callable[[Epoch], None],
) -> None:
    """Pass on the reports of the first process until the training has ended."""
    while not (result.done() and reports.empty()):
        with suppress(queue.Empty):
            report = reports.get(timeout=_SECONDS_TO_LOOK)
            if isinstance(report, Step):
                on_step(report)
            else:
                on_epoch(report)
                answers.put(None)


def _cause(failures: dict[int, Exception]) -> Exception:
    """Return the error of a process; Ray's own errors and those of peers mean that a process is gone."""
    raised = [error for _, error in sorted(failures.items()) if not type(error).__module__.startswith("ray.")]
    return first(raised) or lost("a process is gone, or its machine is")


def _on_cluster(job: Job, reports: Any, answers: Any) -> Result | None:
    """Run in every process of the cluster; Ray Train has joined them."""
    import ray.train
    from ray.train.torch import get_device

    context = ray.train.get_context()
    world = World(get_device(), context.get_world_rank(), context.get_world_size())
    try:
        return take_part(job, world, _seldom(reports.put), answers.get)
    except Exception as error:  # noqa: BLE001  raised as it can be sent
        raise portable(error, world) from None


def _seldom(put: Callable[[Step | Epoch], None]) -> Callable[[Step | Epoch], None]:
    """Pass on at most one step in `_SECONDS_TO_LOOK`, and every epoch: a message is a call to another process."""
    last = 0.0

    def report(message: Step | Epoch) -> None:
        nonlocal last
        if isinstance(message, Epoch):
            put(message)
        elif time.monotonic() - last >= _SECONDS_TO_LOOK:
            last = time.monotonic()
            put(message)

    return report


@contextmanager
def _folder(job: Job) -> Iterator[tuple[Any, str]]:
    """Yield the folder that Ray Train writes to, beside the checkpoint: its file system for pyarrow, and its path."""
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    with tempfile.TemporaryDirectory() as temporary:
        folder = job.state.parent if job.state else UPath(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            yield PyFileSystem(FSSpecHandler(folder.fs)), folder.path
        finally:
            if (folder / "ray").exists():
                folder.fs.rm((folder / "ray").path, recursive=True)
