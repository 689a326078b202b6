"""Progress that fits where it is shown: a bar in a terminal, now and then a line in a log."""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

import pyarrow as pa
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

log = logging.getLogger("grayline")
# In a deployment's run nobody else does: Prefect gives an extra logger its handlers, but no level.
log.setLevel(log.level or logging.INFO)

# Bars and log lines go through one console: a line appears above the bar instead of inside it.
console = Console(stderr=True, highlight=False)

_SECONDS_BETWEEN_LINES = 15.0


class ConsoleHandler(logging.Handler):
    """Log lines as they are: above the bar, not wrapped, no time or level in front."""

    def emit(self, record: logging.LogRecord) -> None:
        console.print(self.format(record), soft_wrap=True, markup=False)


class Advance(Protocol):
    """Say that `images` more are done; `note` replaces what stands beside the bar."""

    def __call__(self, images: int, note: str = "") -> None: ...


class Speed(ProgressColumn):
    """Images, or whatever is counted, per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(_per_time(speed, task.fields["unit"]) if speed else "", style="cyan")


def _per_time(speed: float, unit: str) -> str:
    """speed: units per second."""
    return f"{speed:,.0f} {unit}/s" if speed >= 1 else f"{60 * speed:,.1f} {unit}/min"


@contextmanager
def progress(stage: str, total: int | None, unit: str = "images") -> Iterator[Advance]:
    """A bar named after the stage over `total` images, or of so many that nobody knows yet."""
    with _bar(stage, total, unit) if console.is_terminal else _lines(stage, total, unit) as advance:
        yield advance


def counted(stage: str, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same batches of a listing, behind a bar over files of which nobody knows yet how many there are."""
    with progress(stage, None, "files") as advance:
        for batch in batches:
            yield batch
            advance(len(batch))


@contextmanager
def _bar(stage: str, total: int | None, unit: str) -> Iterator[Advance]:
    columns = (
        TextColumn(f"{stage:<11}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        Speed(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
    )
    with Progress(*columns, console=console, transient=True, refresh_per_second=4) as bar:
        task = bar.add_task(stage, total=total, note="", unit=unit)

        def advance(images: int, note: str = "") -> None:
            bar.update(task, advance=images)
            if note:
                bar.update(task, note=note)

        yield advance


@contextmanager
def _lines(stage: str, total: int | None, unit: str) -> Iterator[Advance]:
    started = said = time.monotonic()
    done = 0

    def advance(images: int, note: str = "") -> None:
        nonlocal done, said
        done += images
        now = time.monotonic()
        if now - said >= _SECONDS_BETWEEN_LINES and done:
            said = now
            rate = done / (now - started)
            if total is None:
                log.info("%-11s %s %s so far, %s", stage, f"{done:,}", unit, _per_time(rate, unit))
                return
            left = (total - done) / rate
            log.info(
                "%-11s %s of %s, %s, %s%d:%02d left", stage, f"{done:,}", f"{total:,}", _per_time(rate, unit),
                f"{note}, " if note else "", left // 60, left % 60,
            )  # fmt: skip

    yield advance
