"""Progress of long work: a bar in a terminal or a notebook, a line every 15 s in a log."""

from __future__ import annotations

import json
import logging
import os
import select
import stat
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from html import escape
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

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

from resnet_core.credentials import masked
from resnet_core.storage.names import visible

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("grayline")
# In a deployment's run, Prefect gives an extra logger its handlers but no level.
log.setLevel(log.level or logging.INFO)


class _AsText(logging.Filter):
    """Make a log line text for every reader, such as Prefect and a worker's file: without codes and without secrets."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = visible(masked(record.getMessage())), None
        return True


log.addFilter(_AsText())


class PlainConsole(Console):
    """Print text as it is: without markup, without pictures for `:cat:`, and with codes for control characters.

    Every text that Rich prints goes through `render_str`. A line break in a text is data, and becomes a code, too.
    """

    def __init__(self, **how: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **how)

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(visible(masked(text)), **(how | {"markup": False, "emoji": False}))


# Bars and log lines share one console, so that a line appears above the bar.
console = PlainConsole(stderr=True)

_SECONDS_BETWEEN_LINES = 15.0
_SECONDS_BETWEEN_BARS = 0.3  # of a notebook; what takes less has no bar


class ConsoleHandler(logging.Handler):
    """Write log lines above the bar, not wrapped, without time or level."""

    def emit(self, record: logging.LogRecord) -> None:
        console.print(self.format(record), soft_wrap=True)


class JsonLines(logging.Formatter):
    """A log line as JSON, for collectors of logs; Prefect's processes are told to use it, too."""

    def __init__(self, *_: object) -> None:
        super().__init__()

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(), "logger": record.name, "message": visible(masked(record.getMessage())),
        }  # fmt: skip
        line |= {key: name for key in ("flow_run_name", "task_run_name") if (name := getattr(record, key, None))}
        if record.exc_info:
            line["traceback"] = masked(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


_handler = ConsoleHandler()


def show_log_lines(form: str = "text") -> None:
    """Show Grayline's log lines on the terminal, above the progress bars, instead of Prefect's. form: text or json."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # the API still gets all
    log.setLevel(logging.INFO)
    _handler.setFormatter(JsonLines() if form == "json" else None)
    log.addHandler(_handler)
    log.propagate = False


def _as_json() -> bool:
    return isinstance(_handler.formatter, JsonLines)


def complain(error: Exception) -> None:
    """Print an error that the user can mend on stderr: a line for each thing that is wrong."""
    for line in error.args:
        if _as_json():
            log.error("%s", line)
        else:
            console.print(f"grayline: {line}", soft_wrap=True)


def show_defect(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback as text, without secrets: `sys.excepthook` of the commands."""
    for line in "".join(traceback.format_exception(kind, error, trace)).splitlines():
        console.print(line, soft_wrap=True)


def outlive_readers() -> None:
    """Let this process go on once nobody reads its output any more: it goes to no place from then on.

    A worker reads what its runs print. When it is killed, each line that a run prints raises BrokenPipeError, and
    Rich ends the process.
    """
    for number in (1, 2):
        with suppress(OSError):  # it is closed
            if stat.S_ISFIFO(os.fstat(number).st_mode):
                threading.Thread(target=_watch_reader, args=(number,), daemon=True).start()


def _watch_reader(number: int) -> None:
    """number: of the file descriptor of a pipe's end that is written to."""
    pipe = select.poll()
    pipe.register(number, 0)  # only that its reader is gone
    pipe.poll()
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)


class Advance(Protocol):
    """Count `images` more as done; `note` replaces the text beside the bar."""

    def __call__(self, images: int, note: str = "") -> None: ...


class Speed(ProgressColumn):
    """Images or other units per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(_per_time(speed, task.fields["unit"]) if speed else "", style="cyan")


def _per_time(speed: float, unit: str) -> str:
    """speed: units per second."""
    return f"{speed:,.0f} {unit}/s" if speed >= 1 else f"{60 * speed:,.1f} {unit}/min"


def progress(stage: str, total: int | None, unit: str = "images") -> AbstractContextManager[Advance]:
    """Show progress over `total` images or other units; None if the number is unknown."""
    kind = _lines if _as_json() else _cell if console.is_jupyter else _bar if console.is_terminal else _lines
    return kind(stage, total, unit)


def counted(stage: str, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a listing and count their files in a bar without a total."""
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
        TextColumn("{task.fields[note]}", markup=False),
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
    yield _counter(stage, total, unit, _SECONDS_BETWEEN_LINES, lambda text, share: log.info("%s", text))


@contextmanager
def _cell(stage: str, total: int | None, unit: str) -> Iterator[Advance]:
    """Show a bar in the output of a notebook's cell. The full one stays; work of an instant has none."""
    from IPython.display import display

    name, shown, last = uuid4().hex, False, time.monotonic()

    def show(text: str, share: float | None) -> None:
        nonlocal shown, last
        now = time.monotonic()
        if now - last < _SECONDS_BETWEEN_BARS and not (shown and share == 1):
            return
        value = "" if share is None else f' value="{share:.3f}"'
        page = f'<pre><progress max="1"{value}></progress> {escape(visible(text))}</pre>'
        display({"text/plain": visible(text), "text/html": page}, raw=True, display_id=name, update=shown)
        shown, last = True, now

    yield _counter(stage, total, unit, 0, show)


def _counter(
    stage: str, total: int | None, unit: str, every: float, show: Callable[[str, float | None], None]
) -> Advance:
    """Return a function that counts. Every so many seconds it shows the count as text, and as a share of the total."""
    started = told = time.monotonic()
    done = 0

    def advance(images: int, note: str = "") -> None:
        nonlocal done, told
        done += images
        now = time.monotonic()
        if now - told < every or not done:
            return
        told, rate = now, done / max(now - started, 1e-9)
        if total is None:
            show(f"{stage:<11} {done:,} {unit} so far, {_per_time(rate, unit)}", None)
            return
        left, more = int((total - done) / rate), f"{note}, " if note else ""
        text = f"{stage:<11} {done:,} of {total:,}, {_per_time(rate, unit)}, {more}{left // 60}:{left % 60:02} left"
        show(text, done / total if total else 1)

    return advance
