"""A training by several processes of this machine, which torch.multiprocessing starts.

Every process runs `job.run` on its share of each batch. The first process sends steps, epochs and the classifier
through a pipe. Both ends of a pipe are ours, so pickles are safe; none is written to a file. When a process fails or is
killed, all of them end, and the checkpoint stays.

torch.multiprocessing and torch's elastic launcher report errors as text, with times in whole seconds. Here a process
sends its exception through a pipe. The caller gets the same exception, and the first one, without those of its peers.
"""

import os
import pickle
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Thread

import torch
from torch.multiprocessing.spawn import ProcessContext, ProcessExitedException, start_processes

from resnet_core.errors import TrainingError, UserError, plural
from resnet_core.model.classifier import Classifier
from resnet_core.training.distributed import World, joined
from resnet_core.training.job import Job, run
from resnet_core.training.loop import Epoch, Step

# Peers of a failed process fail, too. Wait this long for their errors before deciding which one was first.
_SECONDS_TO_FAIL = 2.0
_LONGEST_TRACEBACK = 20_000  # characters: a message that fits into a pipe does not wait for its reader

Result = tuple[Classifier, list[Epoch]]


class LostProcessError(TrainingError):
    """A process of the training has disappeared. The same training may succeed when it is run again."""


def run_on_devices(
    job: Job, device: torch.device, on_step: Callable[[Step], None], on_epoch: Callable[[Epoch], None]
) -> Result:
    """Run `job` in `job.config.devices` processes of this machine, with a GPU each if `device` is a GPU.

    Re-raises what a process raises. An exception of a callback ends the processes.
    Raises UserError if there are too few GPUs or images, LostProcessError if a process was killed.
    """
    count = job.config.devices
    check_batches(job)
    if device.type not in ("cuda", "cpu") or (device.type == "cuda" and torch.cuda.device_count() < count):
        have = torch.cuda.device_count() if device.type == "cuda" else 1
        raise UserError(f"train.devices: {count} are more than the {have} of {device.type} here. Write {have} or less.")
    threads = max(1, torch.get_num_threads() // count)
    (reports, sender), (ours, theirs) = Pipe(), Pipe()
    errors, failing = zip(*(Pipe(duplex=False) for _ in range(count)), strict=True)
    with tempfile.TemporaryDirectory() as folder, reports, ours:
        with sender, theirs:  # the processes have their own copies
            arguments = (job, device.type, threads, Path(folder), (sender, theirs, *failing))
            processes = start_processes(_on_device, arguments, count, join=False, daemon=True, start_method="spawn")
        try:
            classifier, epochs = _listen(reports, processes, on_step, on_epoch)
        except ProcessExitedException as exited:
            raise _cause(exited, processes, errors) from None
        finally:
            for process in processes.processes:
                process.kill()
                process.join()
    classifier.network.to(device)
    return classifier, epochs


def check_batches(job: Job) -> None:
    """Raise UserError if a process would have no image of some batch."""
    count = job.config.devices
    images = job.train if job.held_out is None else int((~job.held_out).sum())
    if images < count:
        raise UserError(
            f"train.devices: {count} are more than the {plural(images, 'training image')}. Write {images} or less."
        )
    if job.config.batch_size < 2 * count:  # the sizes of an epoch's batches vary, but not below half of it
        raise UserError(
            f"train.batch_size: {job.config.batch_size} images are less than two for each of {count} devices. "
            f"Write {2 * count} or more, or fewer `devices`."
        )


def _listen(
    reports: Connection, processes: ProcessContext, on_step: Callable[[Step], None], on_epoch: Callable[[Epoch], None]
) -> Result:
    """Pass on the reports of the first process, and return its result.

    Raises ProcessExitedException as soon as a process has failed.
    """
    while True:
        if reports not in wait([reports, *processes.sentinels]):
            processes.join(0, _SECONDS_TO_FAIL)
            continue
        try:
            report = reports.recv()
        except (EOFError, OSError):
            processes.join(_SECONDS_TO_FAIL, _SECONDS_TO_FAIL)
            raise lost("a process has ended early") from None
        match report:
            case Step():
                on_step(report)
            case Epoch():
                on_epoch(report)
                with suppress(OSError):  # the process is gone, which `wait` tells next
                    reports.send(None)
            case _:
                return pickle.loads(report)  # noqa: S301  from a process of ours, by a pipe


def _cause(exited: ProcessExitedException, processes: ProcessContext, errors: Sequence[Connection]) -> Exception:
    """Return the first error of the processes, or the signal that ended one of them."""
    if error := first(_received(errors)):
        return error
    # `join` ends the other processes by SIGTERM.
    codes = [(rank, p.exitcode) for rank, p in enumerate(processes.processes) if p.exitcode != -signal.SIGTERM]
    for rank, code in [(exited.error_index, exited.exit_code), *codes]:
        if code < 0:
            return lost(f"process {rank} of {len(processes.processes)} was ended by {signal.Signals(-code).name}")
    return lost("a process has ended early")


def _received(errors: Sequence[Connection]) -> list[Exception]:
    """Return the errors that the processes have sent, by their times."""
    messages: list[tuple[float, Exception]] = []
    for pipe in errors:
        with suppress(EOFError, OSError):  # a process that died sent none
            if pipe.poll():
                messages.append(pipe.recv())
    return [error for _, error in sorted(messages, key=lambda message: message[0])]


def first(errors: Iterable[Exception]) -> Exception | None:
    """Return the first error that is not about the loss of a peer.

    Errors of gloo and NCCL have no type of their own: the text decides.
    """
    return next((e for e in errors if not any(words in str(e) for words in ("by peer", "remote process"))), None)


def lost(reason: str) -> LostProcessError:
    return LostProcessError(
        f"train.devices: {reason}, as happens when memory runs out. Run it again to go on from the last epoch; "
        "fewer `devices` or a smaller `batch_size` take less memory."
    )


def _on_device(rank: int, job: Job, kind: str, threads: int, folder: Path, pipes: tuple[Connection, ...]) -> None:
    """Run in every process of this machine.

    pipes: the reports of the first process, the life of the starting process, then the errors of each process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    reports, alive, errors = *pipes[:2], pipes[2 + rank]
    if rank > 0:
        reports.close()  # so that it ends with the first process
    Thread(target=_end_with, args=(alive,), daemon=True).start()
    torch.set_num_threads(threads)
    device = torch.device(kind, rank) if kind == "cuda" else torch.device(kind)
    world = World(device, rank, job.config.devices)
    try:
        with joined(world, folder / "meeting"):
            result = take_part(job, world, reports.send, reports.recv)
        if result:  # as bytes: a connection would send tensors as shared memory, which ends with this process
            reports.send(pickle.dumps(result))
    except Exception as error:
        errors.send((time.time(), portable(error, world)))
        raise SystemExit(1) from error


def _end_with(alive: Connection) -> None:
    """End this process, whatever it waits for, when the process that started it has ended."""
    with suppress(EOFError, OSError):  # that process has ended
        alive.recv()
    os._exit(1)


def take_part(
    job: Job, world: World, report: Callable[[Step | Epoch], None], wait_for_answer: Callable[[], object]
) -> Result | None:
    """Train. The first process reports, waits for an answer after each epoch, and returns the classifier."""
    if world.rank > 0:
        run(job, world)
        return None

    def on_epoch(epoch: Epoch) -> None:
        report(epoch)
        wait_for_answer()

    classifier, epochs = run(job, world, report, on_epoch)
    classifier.network.cpu()  # its device may not be there in another process
    return classifier, epochs


def portable(error: Exception, world: World) -> Exception:
    """Return the error, with its traceback as a note, as an object that can be pickled."""
    text = "".join(traceback.format_exception(error))[-_LONGEST_TRACEBACK:]
    note = f"In process {world.rank} of {world.size}:\n{text}"
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  made here
    except Exception as unsendable:  # noqa: BLE001  an exception's own code may raise anything
        error = RuntimeError(f"{type(error).__name__}: {error} ({unsendable})")
    error.add_note(note)
    return error
