"""One training by several processes: on the devices of this machine, or on those of a Ray cluster.

Each process runs `training.run` on its share of every batch. The first one tells who started them
about steps and epochs, and hands over the classifier. Messages are pickles, from our own process to
our own. When a process fails or is killed, all end; the checkpoint is there to go on from.
"""

import os
import pickle
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import torch

from resnet_core.errors import TrainingError, UserError
from resnet_core.model.classifier import Classifier
from resnet_core.training import job as training
from resnet_core.training.distributed import World, joined
from resnet_core.training.job import Job
from resnet_core.training.loop import Epoch, Step

# A process that fails takes its neighbours with it. Whose failure came first is known after so long.
_SECONDS_TO_FAIL = 2.0


class LostProcessError(TrainingError):
    """A process of the training is gone: the same training, begun again, may end well."""


@dataclass(frozen=True)
class Failed:
    error: Exception
    at: float  # seconds since 1970
    alone: bool  # not of itself: a neighbour was gone


@dataclass(frozen=True)
class Finished:
    classifier: dict[str, bytes]  # its files
    epochs: list[Epoch]


Report = Step | Epoch | Failed | Finished
Result = tuple[Classifier, list[Epoch]]


def run_on_devices(
    job: Job, device: torch.device, on_step: Callable[[Step], None], on_epoch: Callable[[Epoch], None]
) -> Result:
    """`training.run` by `job.config.devices` processes of this machine, a GPU each if `device` is one.

    What a process raises is raised here, and what the callbacks raise ends the processes. Raises UserError
    where there are too few GPUs or images, LostProcessError when a process was killed.
    """
    count = job.config.devices
    check_batches(job)
    if device.type not in ("cuda", "cpu") or (device.type == "cuda" and torch.cuda.device_count() < count):
        have = torch.cuda.device_count() if device.type == "cuda" else 1
        raise UserError(f"train.devices: {count} are more than the {have} of {device.type} here. Write {have} or less.")
    threads = max(1, torch.get_num_threads() // count)
    context = get_context("spawn")
    processes: list[BaseProcess] = []
    ours: list[Connection] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for rank in range(count):
                here, there = context.Pipe()
                where = (job, device.type, World(rank, count), threads, Path(folder) / "meeting")
                started = context.Process(target=_on_device, args=(*where, there), daemon=True)
                started.start()
                processes.append(started)
                there.close()  # so that the end of the process is the end of what it sends
                ours.append(here)
            finished = _listen(ours, processes, on_step, on_epoch)
        finally:
            for process in processes:
                process.kill()
                process.join()
    return unpacked(finished.classifier, device), finished.epochs


def check_batches(job: Job) -> None:
    """Raises UserError where a process would have no image of some batch."""
    count = job.config.devices
    images = job.train if job.held_out is None else int((~job.held_out).sum())
    if images < count:
        raise UserError(f"train.devices: {count} are more than the {images} training images. Write {images} or less.")
    if job.config.batch_size < 2 * count:  # the sizes of an epoch's batches vary, but not below half of it
        raise UserError(
            f"train.batch_size: {job.config.batch_size} images are less than two for each of {count} devices. "
            f"Write {2 * count} or more, or fewer `devices`."
        )


def _listen(
    connections: Sequence[Connection],
    processes: Sequence[BaseProcess],
    on_step: Callable[[Step], None],
    on_epoch: Callable[[Epoch], None],
) -> Finished:
    """Pass on what the processes report until the first one has finished."""
    open_ones = dict(zip(connections, processes, strict=True))
    while True:
        for ready in wait(open_ones):
            assert isinstance(ready, Connection)
            try:
                report: Report = ready.recv()
            except (EOFError, OSError):
                process = open_ones.pop(ready)
                process.join(_SECONDS_TO_FAIL)
                if process.exitcode == 0:  # has done its part
                    continue
                raise _cause([], connections, processes) from None
            match report:
                case Step():
                    on_step(report)
                case Epoch():
                    on_epoch(report)
                    with suppress(OSError):  # if it is gone, that is found next
                        ready.send(None)
                case Finished():
                    return report
                case Failed():
                    raise _cause([report], connections, processes)


def _cause(failed: list[Failed], connections: Sequence[Connection], processes: Sequence[BaseProcess]) -> Exception:
    """What failed first."""
    until = time.monotonic() + _SECONDS_TO_FAIL
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
    for connection in connections:
        with suppress(EOFError, OSError):
            while connection.poll():
                report = connection.recv()
                failed += [report] if isinstance(report, Failed) else []
    if own := first(failed):
        return own
    for rank, process in enumerate(processes):
        if process.exitcode is not None and process.exitcode < 0:
            return lost(f"process {rank} of {len(processes)} was ended by {signal.Signals(-process.exitcode).name}")
    return lost("a process has ended early")


def first(failed: Sequence[Failed]) -> Exception | None:
    """Of those that failed of themselves."""
    own = [failure for failure in failed if not failure.alone]
    return min(own, key=lambda failure: failure.at).error if own else None


def lost(what: str) -> LostProcessError:
    return LostProcessError(
        f"train.devices: {what}, as happens when memory runs out. Begun again, the training goes on from its "
        "last epoch; fewer `devices` or a smaller `batch_size` take less memory."
    )


def _on_device(job: Job, kind: str, world: World, threads: int, meeting: Path, connection: Connection) -> None:
    """What each process of this machine does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started this
    answers: SimpleQueue[None] = SimpleQueue()
    Thread(target=_hear, args=(connection, answers), daemon=True).start()
    torch.set_num_threads(threads)
    device = torch.device(kind, world.rank) if kind == "cuda" else torch.device(kind)
    try:
        with joined(world, device, meeting):
            take_part(job, device, world, connection.send, answers.get)
    except Exception as error:
        connection.send(failure(error, world))
        raise SystemExit(1) from error


def _hear(connection: Connection, answers: SimpleQueue[None]) -> None:
    """End this process, in whatever it waits, when who started it is gone."""
    while True:
        try:
            answers.put(connection.recv())
        except (EOFError, OSError):
            os._exit(1)


def take_part(
    job: Job, device: torch.device, world: World, report: Callable[[Report], None], answer: Callable[[], Any]
) -> None:
    """Train; the first process reports, and waits after each epoch for the answer to it."""
    if world.rank > 0:
        training.run(job, device, world)
        return

    def on_epoch(epoch: Epoch) -> None:
        report(epoch)
        answer()

    classifier, epochs = training.run(job, device, world, report, on_epoch)
    report(Finished(packed(classifier), epochs))


def failure(error: Exception, world: World) -> Failed:
    """The error as it can be sent, with its traceback as a note."""
    # What gloo and NCCL raise has no type of its own.
    alone = any(words in str(error) for words in ("by peer", "remote process"))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception as unsendable:  # noqa: BLE001  an exception's own code may raise anything
        error = RuntimeError(f"{type(error).__name__}: {error} ({unsendable})")
    error.add_note(f"In process {world.rank} of {world.size}:\n{''.join(traceback.format_exception(error))}")
    return Failed(error, time.time(), alone)


def packed(classifier: Classifier) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        classifier.save(Path(folder))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def unpacked(files: dict[str, bytes], device: torch.device) -> Classifier:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        return Classifier.load(Path(folder), device)
