"""Look at places again after a stall: only "no such file" says that nothing lies there."""

import errno
from collections.abc import Callable
from typing import TypeVar

from resnet_core.errors import JobError

_Answer = TypeVar("_Answer")

TRIES = 5  # within half a minute
_NO_SUCH_NAME = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)


class UnreachableError(JobError):
    """A file system does not say whether anything lies at a place."""


def patiently(look: Callable[[str], _Answer], place: str) -> _Answer:
    """Look at a place, again after a stall. Raises OSError or ValueError where nothing lies, else UnreachableError.

    A place that may not be looked into counts as empty: object stores answer so for missing files.
    """
    try:
        return look(place)
    except OSError as error:  # a stall, or it is raised
        if not _may_pass(error):
            raise
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

    stop, wait = stop_after_attempt(TRIES), wait_exponential(max=8)
    try:
        return Retrying(retry=retry_if_exception(_may_pass), stop=stop, wait=wait, reraise=True)(look, place)
    except OSError as error:
        if not _may_pass(error):
            raise
        why = f"{place}: cannot be looked for ({error}). Nothing was decided by that; run it again."
        raise UnreachableError(why) from None


def _may_pass(error: BaseException) -> bool:
    missing = isinstance(error, (FileNotFoundError, NotADirectoryError, PermissionError))
    return isinstance(error, OSError) and not missing and error.errno not in _NO_SUCH_NAME
