"""Where a flow's tasks run side by side, and how it waits for them."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

from prefect.futures import PrefectFuture, as_completed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from tasks.progress import progress


def task_runner() -> TaskRunner[PrefectFuture[Any]]:
    """A thread a core: decoders and the network release the interpreter's lock, and threads share
    one loaded model where processes would each load their own."""
    return ThreadPoolTaskRunner(max_workers=os.cpu_count() or 1)  # type: ignore[return-value]


def follow(stage: str, futures: Sequence[PrefectFuture[int]], sizes: Iterable[int]) -> None:
    """Wait for tasks that each return how many images they did. Raises what a task raised."""
    if not futures:
        return
    with progress(stage, sum(sizes)) as advance:
        for future in as_completed(list(futures)):
            advance(future.result())
