"""Errors whose text is for the user, with the remedy."""

from collections.abc import Sequence
from typing import TypeVar

_Item = TypeVar("_Item")


class UserError(Exception):
    """The input is wrong. The text names the file, the field and the remedy; the command exits with status 2.

    Several arguments are several lines.
    """

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


class JobError(RuntimeError):
    """The job has failed. The text names the reason and the remedy; the command exits with status 1."""


class DataCheckError(JobError):
    """The data breaks the limits of the data set file."""


class TrainingError(JobError):
    """The training cannot go on."""


class OverstayedError(JobError):
    """The night has used its hours. Its last checkpoint stays, and the next night goes on from there."""


class NotANumberError(JobError):
    """A network answers NaN or infinity. Nothing is decided by such answers, and nothing is registered."""


def nearest(word: str, known: list[str]) -> str:
    """Return ' Did you mean ...?' for a misspelt `word`, or nothing if no known word is close."""
    import difflib

    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def whole_or_cut(items: Sequence[_Item], most: int) -> Sequence[_Item]:
    """Return the first `most` items for a message that ends in `and 2 more`, or one item more than that."""
    return items if len(items) <= most + 1 else items[:most]


def some_of(texts: Sequence[str], most: int, between: str = ", ") -> str:
    """Return the first texts in one line, and how many more there are."""
    shown = whole_or_cut(texts, most)
    return between.join([*shown, *([f"and {len(texts) - len(shown):,} more"] if len(texts) > len(shown) else [])])


def plural(count: int, singular: str, several: str = "") -> str:
    """Return `1 image` or `2,000 images`."""
    return f"{count:,} {singular if count == 1 else several or singular + 's'}"
