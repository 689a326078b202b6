"""Where a flow's tasks run side by side, and how it waits for them.

What is submitted through `fan_out` goes where `GRAYLINE_RUNNER` says; all else runs in the flow's own
process. Processes and Ray hand tasks over as pickles: from our own process to our own, never a file.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from queue import SimpleQueue
from typing import Any, TypeVar

from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from tasks.cluster import cluster_cores, ray_runner
from tasks.progress import progress
from tasks.settings import Settings

Work = TypeVar("Work")
Outcome = TypeVar("Outcome")

MOST_WAITING = 256  # what Prefect spends on a task grows with how many are waiting


def task_runner() -> TaskRunner[PrefectFuture[Any]]:
    """What `GRAYLINE_RUNNER` names. Raises UserError where that is Ray and it is not installed."""
    runner, cores = Settings().runner, workers()
    if runner == "ray":
        return ray_runner()
    if runner == "processes":
        return ProcessPoolTaskRunner(max_workers=cores)  # type: ignore[return-value]
    # Decoders and the network release the interpreter's lock, and threads share one loaded model
    # where processes would each load their own.
    return ThreadPoolTaskRunner(max_workers=cores)  # type: ignore[return-value]


def workers() -> int:
    """Tasks that run side by side on this machine."""
    return os.cpu_count() or 1


def fan_out(stage: str, submit: Callable[[Work], PrefectFuture[int]], work: Sequence[Work], total: int) -> int:
    """Submit every piece of work and wait for it, behind a progress bar over `total` images; a task
    returns how many images it did. Returns their sum. Raises what a task raised."""
    if not work:
        return 0
    done = 0

    def receive(images: int) -> None:
        nonlocal done
        advance(images)
        done += images

    with progress(stage, total) as advance:
        run_all(submit, work, receive)
    return done


def run_all(
    submit: Callable[[Work], PrefectFuture[Outcome]], work: Sequence[Work], receive: Callable[[Outcome], None]
) -> None:
    """Submit every piece of work, and hand on what each comes to as it ends, in no order that can be relied on.
    Raises what a task or the receiver raised; what has not begun by then never does."""
    pieces, finished = iter(work), SimpleQueue[PrefectFuture[Outcome]]()
    most = max(MOST_WAITING, 2 * cluster_cores()) if Settings().runner == "ray" else MOST_WAITING

    def start(most: int) -> int:
        started = [submit(piece) for piece in islice(pieces, most)]
        for future in started:
            future.add_done_callback(finished.put)
        return len(started)

    with _one_server():
        waiting = start(most)
        while waiting:
            outcome = finished.get().result()
            waiting += start(1) - 1
            receive(outcome)


@contextmanager
def _one_server() -> Iterator[None]:
    """Other processes report to the flow's Prefect server. Of a temporary one they would not know,
    and each start its own."""
    run = FlowRunContext.get()
    if run is None:
        yield
        return
    with temporary_settings({PREFECT_API_URL: str(run.client.api_url).rstrip("/")}):
        yield
