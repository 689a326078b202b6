"""Ask MLflow: its answers are believed, and every other error is tried again, then ends the job in one line.

"Not there" is an answer only where MLflow says so itself. A proxy's page, a refusal, a locked database, a broken
connection and half an answer are not answers: nothing may be decided by them.
"""

import logging
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import mlflow.artifacts
from mlflow.exceptions import MlflowException, RestException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import DBAPIError
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_exponential

from resnet_core.credentials import masked, opened
from resnet_core.errors import JobError
from resnet_core.storage.files import says_full

log = logging.getLogger("grayline")

_Answer = TypeVar("_Answer")

LONGEST = 60.0  # seconds of trying again, beside what a request itself may take
_MISSING = "RESOURCE_DOES_NOT_EXIST"
# MLflow's codes that tell of the server, not of what was asked for.
_TROUBLES = {
    *("ABORTED", "CANCELLED", "DATA_LOSS", "DEADLINE_EXCEEDED", "INTERNAL_ERROR", "IO_ERROR", "PERMISSION_DENIED"),
    *("REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED", "SERVICE_UNDER_MAINTENANCE", "TEMPORARILY_UNAVAILABLE"),
    *("UNAUTHENTICATED", "UNKNOWN"),
}


class RegistryError(JobError):
    """MLflow gave no answer. Nothing was decided."""


def says_missing(error: Exception) -> bool:
    """Return whether MLflow itself says that a thing does not exist; a proxy's 404 does not count."""
    return is_answer(error) and getattr(error, "error_code", "") == _MISSING


def is_answer(error: Exception) -> bool:
    """Return whether an error is MLflow's word, or the disk's, on what was asked for."""
    if isinstance(error, RestException):
        return error.json.get("error_code") == error.error_code and error.error_code not in _TROUBLES
    if isinstance(error, MlflowException):  # of its database, or made of an HTTP status
        return error.error_code not in _TROUBLES and not error.message.startswith("API request")
    # MLflow raises an OSError without a number for a missing local file. Those of `requests` are OSErrors, too.
    return isinstance(error, FileNotFoundError) or (type(error) is OSError and error.errno is None)


def _is_trouble(error: BaseException) -> bool:
    known = isinstance(error, (MlflowException, DBAPIError, sqlite3.Error, OSError))
    return known and not is_answer(cast(Exception, error)) and not says_full(error)  # of a full disk, others say more


def _may_pass(error: BaseException) -> bool:
    """Return whether to try again: a database file that is damaged stays so."""
    damaged = isinstance(error, (DBAPIError, sqlite3.DatabaseError)) and "locked" not in str(error)
    return _is_trouble(error) and not ((damaged and "malformed" in str(error)) or "not a database" in str(error))


def asked(tracking_uri: str, call: Callable[..., _Answer], /, *args: Any, **how: Any) -> _Answer:
    """Return what `call` returns. Raises RegistryError where it does not answer, and its answers that are errors."""

    def tell(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if state.attempt_number == 1:
            log.warning("mlflow      no answer from %s (%s): trying again", tracking_uri, _short(error))

    trying = Retrying(
        stop=stop_after_delay(LONGEST), wait=wait_exponential(max=16), retry=retry_if_exception(_may_pass),
        before_sleep=tell, reraise=True,
    )  # fmt: skip
    try:
        return trying(call, *args, **how)
    except Exception as error:
        if not _is_trouble(error):
            raise
        raise RegistryError(
            f"MLflow at {tracking_uri} does not answer ({_short(error)}). Nothing was decided by that: "
            "`grayline doctor` says more; then run the same command again."
        ) from error


def patient(tracking_uri: str) -> MlflowClient:
    """Return a client whose every request is asked patiently."""
    return cast(MlflowClient, _Patient(tracking_uri))


def download(tracking_uri: str, uri: str, to: str | Path | None) -> Path:
    """Return a local copy of an artifact. Raises MlflowException or OSError if MLflow or the disk says it is gone.

    to: a folder that somebody removes; None for files that lie on this disk, where nothing is copied.
    """
    fetch = mlflow.artifacts.download_artifacts
    return Path(asked(tracking_uri, fetch, uri, tracking_uri=opened(tracking_uri), dst_path=to and str(to)))


class _Patient:
    """MLflow's client. Making it may upgrade a database."""

    def __init__(self, tracking_uri: str) -> None:
        self._tracking_uri = tracking_uri
        address = opened(tracking_uri)
        self._client = asked(tracking_uri, MlflowClient, address, registry_uri=address)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        return partial(asked, self._tracking_uri, found) if callable(found) else found


def _short(error: BaseException | None) -> str:
    """Return the first line of an error, without the page of a proxy and without a statement of SQL."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return masked(text.partition(". Response body")[0].partition("[SQL")[0].strip())[:200]
