"""Sinks: the rows of a batch, written to where others read them as well.

The batch's own Parquet files stay what they are. A sink takes the rows in pieces, one after the other: a slow
one slows the job and does not grow it. Writing a batch again replaces its rows; a sink that fails or is killed
has what it had before.
"""

import logging
import re
import time
from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple, cast
from urllib.parse import unquote

from prefect import task

from resnet_core.errors import JobError, UserError, nearest
from tasks.batch.values import Scores, Written
from tasks.sinks.rows import Write, batch_rows

log = logging.getLogger("grayline")

_CSV = (".csv", ".csv.gz")
KINDS = "FILE.csv, FILE.csv.gz, DATABASE-URL#TABLE, delta:PLACE, iceberg:CATALOG/NAMESPACE.TABLE, secret:NAME"
_WORDS = ["csv", "delta", "iceberg", "mysql", "postgresql", "secret", "sqlite"]
_PASSWORD = re.compile(r"(?<=:)(/{0,2}[^/@:?#]*):(.+)@")
_SECRETS = re.compile(r"([?&][^=&#]*(?:pass|pwd|secret|token|key)[^=&#]*)=([^&#]+)", re.IGNORECASE)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class _Sink(NamedTuple):
    """A kind of place. `check` raises UserError; both may raise `errors`, for reasons that lie with the place."""

    check: Callable[[str], None]
    write: Write
    errors: tuple[type[Exception], ...]


def check_target(target: str) -> None:
    """Raises UserError unless a batch can be written there, as far as that can be known before it is scored: a
    kind that there is, its packages, a place that answers, and there no table or one of scores."""
    target = _revealed(target)
    sink, place = find_sink(target)
    try:
        sink.check(place)
    except sink.errors as error:
        shown = without_secrets(target)
        raise UserError(f"--to: {shown} cannot be written to ({said(error, target)}).") from None


@task(retries=2, retry_delay_seconds=5, task_run_name="write {scores.batch}")
def write_to(scores: Scores, target: str) -> Written:
    """Write the rows of a finished batch to the place, instead of those that it has of this batch; `target` is as
    for `check_target`. Raises JobError where the place has not taken them, and is as before."""
    target = _revealed(target)
    shown, began = without_secrets(target), time.monotonic()
    sink, place = find_sink(target)
    try:
        sink.write(place, scores.batch, batch_rows(scores.parts, scores.batch, scores.files))
    except sink.errors as error:
        raise JobError(
            f"--to: {shown} has not taken the rows of {scores.batch} ({said(error, target)}), and is as it was. "
            "The same command writes them again, and scores nothing twice."
        ) from None
    written = Written(shown, scores.files, time.monotonic() - began)
    log.info("write       %s rows to %s in %.1f s", f"{written.rows:,}", shown, written.seconds)
    return written


def find_sink(target: str) -> tuple[_Sink, str]:
    """What writes to the target, and what that calls the place. Raises UserError for a kind that there is not,
    and for a package that is not installed."""
    kind, colon, place = target.partition(":")
    if kind in ("delta", "iceberg") and place and not place.startswith("//"):
        return load(f"tasks.sinks.{kind}", target), place
    if target.endswith(_CSV):
        return load("tasks.sinks.csv_file", target), target
    if colon and place.startswith("//"):
        return load("tasks.sinks.sql", target), target
    word = kind if colon else target.rpartition(".")[2]
    raise UserError(
        f"--to: {without_secrets(target)!r} is no place to write to.{nearest(word, _WORDS)} There are: {KINDS}."
    )


def load(module: str, target: str) -> _Sink:
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        name = str(error.name).partition(".")[0]
        raise UserError(f"--to: {target} needs {name}. Run `pip install 'grayline[lake]'`.") from None
    return _Sink(found.check, found.write, found.ERRORS)


def _revealed(target: str) -> str:
    """The target itself, or what Prefect keeps as a secret by the name after `secret:`."""
    kind, _, name = target.partition(":")
    if kind != "secret":
        return target
    from prefect.blocks.system import Secret

    try:
        return str(cast("Secret[str]", Secret.load(name)).get())
    except ValueError:
        raise UserError(
            f"--to: Prefect has no Secret block {name!r}. Make one: `prefect block create secret` shows where."
        ) from None


def without_secrets(target: str) -> str:
    """For people, logs and records."""
    return _SECRETS.sub(r"\1=***", _PASSWORD.sub(r"\1:***@", target))


def said(error: Exception, target: str) -> str:
    """What a library says, in one line without colours and without the target's secrets."""
    text = _COLOURS.sub("", " ".join(str(getattr(error, "orig", None) or error).split())) or type(error).__name__
    for _, secret in _PASSWORD.findall(target) + _SECRETS.findall(target):
        text = text.replace(secret, "***").replace(unquote(secret), "***")
    return text
