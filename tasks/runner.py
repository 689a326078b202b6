"""Run a flow's tasks in parallel and wait for them.

`fan_out` and `run_all` submit tasks to the runner that `GRAYLINE_RUNNER` names; other tasks run in the flow's process.
Processes and Ray pass tasks as pickles between processes of this project, never in files.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture
from prefect.runtime import deployment, flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from resnet_core.cores import usable_cores
from resnet_core.credentials import public
from resnet_core.errors import OverstayedError, UserError
from resnet_core.storage.names import visible
from resnet_core.storage.turns import OccupiedError
from tasks.cluster import cluster_cores, ray_runner
from tasks.progress import outlive_readers, progress
from tasks.settings import Settings
from tasks.validation import read_yaml

log = logging.getLogger("grayline")

Work = TypeVar("Work")
Outcome = TypeVar("Outcome")

if flow_run.id:  # a worker has started this process
    outlive_readers()

MOST_WAITING = 256  # submitted tasks; the time that Prefect spends on a task grows with their number


def task_runner() -> TaskRunner[PrefectFuture[Any]]:
    """Return the runner that `GRAYLINE_RUNNER` names. Raises UserError for Ray if it is not installed."""
    runner, cores = Settings().runner, workers()
    if runner == "ray":
        return ray_runner()
    if runner == "processes":
        return ProcessPoolTaskRunner(max_workers=cores)  # type: ignore[return-value]
    # Decoders and the network release the interpreter's lock. Threads share one loaded model.
    return ThreadPoolTaskRunner(max_workers=cores)  # type: ignore[return-value]


def run_name() -> str:
    """Return the name of this flow's run: what it works on, and when (UTC), as `elpv 2026-11-30 02:00`."""
    given = {key: str(value) for key, value in (flow_run.parameters or {}).items() if value}
    thing = given.get("model") or given.get("name") or ""
    for key in ("source", "labels", "dataset"):  # the last that is there counts
        thing = Path(public(given[key]).rstrip("/")).stem if key in given else thing
    if "dataset" in given:
        thing = dataset_name(given["dataset"])
    return f"{visible(thing)} {datetime.now(UTC):%Y-%m-%d %H:%M}".strip()


def dataset_name(place: str) -> str:
    """Return the name that a data set file gives, or that of the file: the flow says what is wrong."""
    try:
        content = read_yaml(Path(place).read_text(encoding="utf-8"))
    except (OSError, ValueError, UserError):  # a name must not fail: the flow reads the file again, and says why
        content = None
    return str(content.get("name") or Path(place).stem) if isinstance(content, dict) else Path(place).stem


def stand_back(error: OccupiedError | OverstayedError) -> Any:
    """Return the state Cancelled for a deployment's run, whose schedule comes again; raise the error for a person."""
    if deployment.id is None:
        raise error
    log.warning("night       %s", error)
    return Cancelled(message=str(error))


def workers() -> int:
    """Return the number of tasks that run in parallel on this machine."""
    return usable_cores()


def fan_out(stage: str, submit: Callable[[Work], PrefectFuture[int]], work: Sequence[Work], total: int) -> int:
    """Submit all work and wait for it, with a progress bar over `total` images.

    Tasks return their number of images; the sum is returned. Raises an exception of a task.
    """
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
    """Submit all work and pass outcomes to `receive` as tasks end, in any order.

    Raises an exception of a task or of `receive`; then no further work is submitted.
    """
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
    """Let other processes report to the flow's Prefect server, even a temporary one, which they could not find."""
    run = FlowRunContext.get()
    if run is None:
        yield
        return
    with temporary_settings({PREFECT_API_URL: str(run.client.api_url).rstrip("/")}):
        yield
