"""The cost of Prefect in a scoring batch: tasks that do nothing, with the inputs of score_part and finish_batch."""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psutil
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.logging.handlers import APILogWorker, PrefectConsoleHandler
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect.task_runners import ThreadPoolTaskRunner
from upath import UPath

from benchmarks.batch import CHOICE, VERSION, WORKERS
from benchmarks.command import server
from benchmarks.scoring_rates import batch_of, seconds
from benchmarks.simulation import Growth
from resnet_core.images.limits import DEFAULT_LIMITS
from tasks.batch.score import Scoring
from tasks.batch.values import Batch
from tasks.parts import Part
from tasks.runner import run_all


@contextmanager
def prefect_server(folder: Path) -> Iterator[None]:
    """A Prefect server on SQLite, as flows start one for themselves; the log goes there and not to the terminal."""
    environment = {**os.environ, "GRAYLINE_STORE": str(folder)}
    with server(environment) as url, temporary_settings({PREFECT_API_URL: url, PREFECT_HOME: folder}):
        for name in [None, "prefect", *logging.root.manager.loggerDict]:
            for handler in logging.getLogger(name).handlers:
                if isinstance(handler, PrefectConsoleHandler):
                    handler.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            APILogWorker.drain_all(timeout=10)  # what of the log is still on its way


def flow_of(work: Callable[[], None]) -> None:
    """Run it as a flow whose tasks have WORKERS threads."""
    runner: Any = ThreadPoolTaskRunner(max_workers=WORKERS)
    flow(name="benchmark", task_runner=runner)(work)()


@dataclass(frozen=True)
class Tasks:
    """Seconds by the number of tasks: until the driver has them all back, and until the server has `recorded` them. The
    server takes the news at its leisure. `busy`: seconds of a core that both compute until then.
    """

    returned: Growth
    recorded: Growth
    busy: Growth

    def least(self, other: "Tasks") -> "Tasks":
        return Tasks(
            self.returned.least(other.returned), self.recorded.least(other.recorded), self.busy.least(other.busy)
        )


def task_cost(folder: Path, sizes: Sequence[int]) -> Tasks:
    """run_all over parts that a task does nothing with."""
    how = Scoring(VERSION, CHOICE, "", "cpu", DEFAULT_LIMITS, "")
    found: list[tuple[float, float, float]] = []

    @task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=5, task_run_name="nothing {part.path.name}")
    def nothing(part: Part, how: Scoring) -> int:
        return part.count

    def work() -> None:
        before = 0
        for count in (20, *sizes):  # the first ones find nothing warm
            some, began, busy = some_parts(folder, count), time.perf_counter(), core_seconds()
            run_all(lambda part: nothing.submit(part, how), some, lambda count: None)
            returned = time.perf_counter() - began
            before += count
            while completed_tasks() < before:
                time.sleep(0.1)
            found.append((returned, time.perf_counter() - began, core_seconds() - busy))

    flow_of(work)
    return Tasks(*(Growth(tuple(sizes), each) for each in zip(*found[1:], strict=True)))


def core_seconds() -> float:
    """Return the processor seconds of this process and all below it, the server among them."""
    here = psutil.Process()
    times = [process.cpu_times() for process in (here, *here.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def completed_tasks() -> int:
    """Return the number of completed tasks that the server has recorded for the running flow."""
    run = FlowRunContext.get()
    assert run is not None
    assert run.flow_run is not None
    wanted = {
        "flow_runs": {"id": {"any_": [str(run.flow_run.id)]}}, "task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}
    }  # fmt: skip
    request = Request(
        f"{PREFECT_API_URL.value()}/task_runs/count", json.dumps(wanted).encode(), {"Content-Type": "application/json"}
    )
    with urlopen(request, timeout=60) as answer:
        return int(answer.read())


def handing_over(folder: Path, sizes: Sequence[int]) -> Growth:
    """A task that is given a batch and does nothing with it, as finish_batch is, by the batch's parts."""
    found: list[float] = []

    @task(cache_policy=NO_CACHE)
    def nothing(batch: Batch) -> int:
        return batch.files

    def work() -> None:
        for count in sizes:
            batch = batch_of(folder, (), some_parts(folder, count), (count, 0))
            found.append(seconds(partial(nothing, batch), 2))

    flow_of(work)
    return Growth(tuple(sizes), tuple(found))


def some_parts(folder: Path, count: int) -> tuple[Part, ...]:
    place = UPath(folder)
    return tuple(Part(place / f"0123456789ab-{k:020}.parquet", place / "listing", k, 1) for k in range(count))
