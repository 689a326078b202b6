"""Findings: places of a store that do not agree, and the commands that mend them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from resnet_core.errors import JobError, UserError
from resnet_core.patience import UnreachableError
from resnet_core.storage.files import DamagedFileError, refused_by_disk

_DEEP = "grayline doctor --deep"


@dataclass(frozen=True)
class Finding:
    """A disagreement: where, what, and the command that mends it. `mend` does what is safe; `mended` says what."""

    place: str
    wrong: str
    remedy: str
    mend: Callable[[], object] | None = None
    mended: str = "removed: it is made again"


@contextmanager
def caught(
    found: list[Finding], place: object, remedy: str, mend: Callable[[], object] | None = None
) -> Iterator[None]:
    """Note what is wrong as a finding. A file that cannot be looked at may be whole, and is not mended."""
    try:
        yield
    except (JobError, UserError, OSError, ValueError, KeyError, TypeError) as error:
        # a place that cannot be read does not agree
        why = error.why if isinstance(error, DamagedFileError) else str(error) or type(error).__name__
        if unseen := _unseen(error):
            remedy, mend = unseen, None
        found.append(Finding(str(place), why, remedy, mend))


def _unseen(error: Exception) -> str:
    """Return what lets a file be looked at, if the error says nothing about its content; empty if it does."""
    if isinstance(error, UserError):  # a key that is not here
        return f"do as it says, then {_DEEP}: the file may be whole"
    if isinstance(error, UnreachableError) or refused_by_disk(error):
        return f"mend the disk or the rights, then {_DEEP}: the file may be whole"
    return ""
