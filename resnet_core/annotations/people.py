"""Answers of people for an image, and the one that counts.

An answer marked as the truth wins. Otherwise all must agree, unless a majority is asked for.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from resnet_core.errors import UserError, plural

log = logging.getLogger("grayline")

Annotators = Literal["agree", "majority"]


@dataclass(frozen=True)
class Answer:
    """The label that a person gave a file; None: not labelled, or skipped. `others`: more columns of its row."""

    path: str
    label: str | None
    who: str = ""
    truth: bool = False
    others: Mapping[str, str] = field(default_factory=dict)


def one_class(labels: Sequence[str], place: str, path: str) -> str | None:
    """Return the only label, None without one. Raises UserError for several."""
    if len(labels) > 1:
        names = " and ".join(map(repr, labels[:2]))
        raise UserError(f"{place}: {path!r} is {names}, and an image has one class. Keep one of them there.")
    return labels[0] if labels else None


def settled(answers: Iterable[Answer], place: str, annotators: Annotators) -> list[Answer]:
    """Return an answer per path, in their order. Raises UserError for images whose answers differ."""
    by_path: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_path[answer.path].append(answer)
    found: list[Answer] = []
    split: list[list[Answer]] = []
    for given in by_path.values():
        said = [each for each in given if each.label is not None]
        said = [each for each in said if each.truth] or said
        if len({each.label for each in said}) > 1:
            split.append(said)
            said = _majority(said)
        found.append(max(said, key=lambda each: each.others.get("corrected_at", ""), default=_unlabelled(given[0])))
    if split and annotators != "majority":
        said = split[0]
        names = ", ".join(f"{each.label!r} by {each.who or 'somebody'}" for each in said[:3])
        raise UserError(
            f"{place}: {plural(len(split), 'image has', 'images have')} answers that differ, such as "
            f"{said[0].path!r}: {names}. Keep one there, mark it as the truth, or set `annotators: majority`."
        )
    if ties := sum(not _majority(said) for said in split):
        text = plural(ties, "image has", "images have")
        log.warning("labels      %s: %s answers without a majority, and no label", place, text)
    return found


def _majority(said: list[Answer]) -> list[Answer]:
    """Return the answers of more than half of the people, or none."""
    label, count = Counter(each.label for each in said).most_common(1)[0]
    return [each for each in said if each.label == label] if 2 * count > len(said) else []


def _unlabelled(answer: Answer) -> Answer:
    return Answer(answer.path, None, others=answer.others)
