"""Targets of `--to`: find the sink of a target, check it, write the rows of a batch.

Rows reach a sink in pieces, so that a slow sink does not use more memory. A sink replaces the rows that its place
has of the batch; if it fails or is killed, the place keeps its earlier rows.
"""

import logging
import re
import time
from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules
from typing import Protocol, cast

import pyarrow as pa
from prefect import task

import tasks.sinks
from resnet_core.credentials import masked, public
from resnet_core.errors import JobError, UserError, nearest, plural
from tasks.batch.values import Scores, Written
from tasks.settings import reveal
from tasks.sinks.rows import batch_rows

log = logging.getLogger("grayline")

_DATABASES = ("mysql", "postgresql", "sqlite")  # frequent dialects, for suggestions
_NOT_SINKS = ("rows", "sinks")
_TOO_FEW_SLASHES = re.compile(r"(?<=:)/?(?=[^/@:?#]*:.+@)")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Sink(Protocol):
    """A file of this folder. `ERRORS` are exceptions of `check` and `write` whose cause lies with the place."""

    ERRORS: tuple[type[Exception], ...]

    def check(self, place: str) -> None:
        """Raises UserError or ERRORS unless the place takes rows of scores."""

    def write(self, place: str, batch: str, rows: Iterator[pa.RecordBatch]) -> None:
        """Replace the rows that the place has of the batch, all or none. Raises ERRORS."""


def check_target(target: str) -> None:
    """Raises UserError unless a batch can be written there, as far as that is known before it is scored."""
    target = reveal(target, "--to")
    sink, place = find_sink(target)
    try:
        sink.check(place)
    except sink.ERRORS as error:
        raise UserError(f"--to: {target} cannot be written to ({_message_of(error)}).") from None


@task(retries=2, retry_delay_seconds=5, task_run_name="write {scores.batch}")
def write_to(scores: Scores, target: str) -> Written:
    """Write the rows of a finished batch to a target of `check_target`. Raises JobError if it does not take them."""
    shown, began = reveal(target, "--to"), time.monotonic()
    sink, place = find_sink(shown)
    try:
        sink.write(place, scores.batch, batch_rows(scores.parts, scores.batch, scores.files))
    except sink.ERRORS as error:
        raise JobError(
            f"--to: {shown} has not taken the rows of {scores.batch} ({_message_of(error)}) and is unchanged. "
            "Run the same command again: it writes the rows and scores nothing twice."
        ) from None
    written = Written(shown, scores.files, time.monotonic() - began)
    log.info("write       %s to %s in %.1f s", plural(written.rows, "row"), shown, written.seconds)
    return written


def find_sink(target: str) -> tuple[Sink, str]:
    """Return the sink of a target and its place. Raises UserError for an unknown sink or a missing package."""
    names = [module.name for module in iter_modules(tasks.sinks.__path__) if module.name not in _NOT_SINKS]
    kind, colon, place = target.partition(":")
    if kind in names and place and not place.startswith("//"):
        return _load(kind, target), place
    suffix = target.removesuffix(".gz").rpartition(".")[2]
    if f"{suffix}_file" in names:
        return _load(f"{suffix}_file", target), target
    if colon and place.startswith("//"):
        return _load("sql", target), target
    files = [name.removesuffix("_file") for name in names if name.endswith("_file")]
    prefixes = [name for name in names if name != "sql" and not name.endswith("_file")] + ["secret"]
    suggestion = nearest(kind if colon else suffix, [*files, *prefixes, *_DATABASES])
    shown = public(_TOO_FEW_SLASHES.sub("//", target, count=1))
    forms = [*(f"FILE.{name}, FILE.{name}.gz" for name in files), "DATABASE-URL#TABLE"]
    forms += [f"{name}:PLACE" for name in prefixes]
    raise UserError(f"--to: {shown!r} is not a place to write to.{suggestion} Known: {', '.join(forms)}.")


def _load(name: str, target: str) -> Sink:
    try:
        return cast(Sink, import_module(f"tasks.sinks.{name}"))
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise UserError(f"--to: {target} needs {package}. Run `pip install 'grayline[lake]'`.") from None


def _message_of(error: Exception) -> str:
    """Return a library's message in one line, without colours and without secrets."""
    text = _COLOURS.sub("", " ".join(str(getattr(error, "orig", None) or error).split())) or type(error).__name__
    return masked(text)
