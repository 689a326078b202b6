"""The labels of a queue: an unbiased accuracy from its random part, and a table for `corrections:`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import scipy

from resnet_core.annotations.exports import read_labels
from resnet_core.annotations.people import Annotators
from resnet_core.catalog.corrections import NONE_OF_THESE
from resnet_core.errors import UserError, plural
from resnet_core.sources.manifest import attribute_of
from resnet_core.storage.files import read_json, to_output, to_path, write_text
from resnet_core.storage.names import fold_label, fold_path
from tasks.report.words import percent
from tasks.review.files import COLUMNS, LIST, QUEUE, as_csv

_MORE = ("corrected_at", "annotator")  # columns of a label that the list has not


@dataclass(frozen=True)
class Answers:
    """The rows of a queue with labels. right, drawn, missing: images of the random part, and those without a label.

    foreign: number of labels for images that are not in the queue. classes: the version's.
    """

    rows: list[dict[str, str]]
    images: int
    right: int
    drawn: int
    missing: int
    foreign: int
    model: str
    classes: tuple[str, ...] = ()

    @property
    def strange(self) -> dict[str, list[str]]:
        """Return labels that the version has no class for, with the paths of their images."""
        found: dict[str, list[str]] = {}
        for row in self.rows:
            if row["label"] not in (*self.classes, NONE_OF_THESE):
                found.setdefault(row["label"], []).append(row["path"])
        return found

    def accuracy(self) -> str:
        """Return the estimate in a line, or why there is none."""
        if not self.drawn:
            return "accuracy: unknown; the queue has no random part (--random)"
        if self.missing:
            lack = f"{self.missing:,} of {plural(self.drawn, 'random image')} have no label"
            return f"accuracy: not yet; {lack}. Label them all: the easy ones alone would make it too good."
        ends = scipy.stats.binomtest(self.right, self.drawn).proportion_ci(method="exact")
        between = f"{100 * ends.low:.1f} to {percent(ends.high)}"
        share = f"accuracy of {self.model}: {percent(self.right / self.drawn)} ({between}, 95%)"
        return f"{share}, from {self.drawn:,} images drawn at random from {self.images:,}"


def is_queue(place: str) -> bool:
    return (to_path(place) / QUEUE).exists()


def read_answers(place: str, labels: str | None, annotators: Annotators = "agree") -> Answers:
    """Read the labels of a queue: its own list, the page's export or a tool's. Raises UserError."""
    folder = to_path(place)
    record = read_json(folder / QUEUE, "Make the queue again by `grayline review`.")
    file = to_path(labels) if labels else folder / LIST
    if not file.exists():
        raise UserError(f"--labels: {file} is not there. Name the export, or nothing for the queue's own list.")
    found = read_labels(file, annotators=annotators).rows
    by_id = {row["image_id"]: row for row in record["rows"]}
    by_path = {fold_path(row["path"]): row for row in record["rows"]}
    texts = found["attributes"].to_pylist()
    ids, more = attribute_of(texts, "image_id"), {name: attribute_of(texts, name) for name in _MORE}
    given: dict[str, dict[str, str]] = {}
    foreign = 0
    for number, (path, label) in enumerate(zip(found["path"].to_pylist(), found["label"].to_pylist(), strict=True)):
        named = by_path.get(fold_path(path))
        row = by_id.get(ids[number] or "") or (None if ids[number] else named)
        if row and named and row is not named:
            raise UserError(
                f"--labels: {file}: {path} has the image_id of {row['path']}. Was one column sorted? Export again."
            )
        if row is None:
            foreign += label is not None
        elif label is not None and (folded := fold_label(label)):
            said = {name: values[number] for name, values in more.items() if values[number]}
            given[row["image_id"]] = row | {"label": folded} | said
    if foreign and not given:
        raise UserError(f"--labels: {file}: none of its {plural(foreign, 'label')} is of an image of {folder}.")
    return _answers(record, given, foreign)


def _answers(record: Mapping[str, Any], given: dict[str, dict[str, str]], foreign: int) -> Answers:
    drawn = [row for row in record["rows"] if row["inclusion"]]
    labelled = [given[row["image_id"]] for row in drawn if row["image_id"] in given]
    right = sum(row["label"] == row["predicted"] for row in labelled)
    rows = [given[row["image_id"]] for row in record["rows"] if row["image_id"] in given]
    model = f"{record['model_name']} version {record['model_version']}"
    return Answers(
        rows, record["images"], right, len(drawn), len(drawn) - len(labelled), foreign, model, tuple(record["classes"])
    )


def write_corrections(rows: Sequence[Mapping[str, str]], output: str) -> Path:
    """Write labels as a table for `corrections:`. Raises UserError for a file that is there."""
    path = to_output(output, "--output")
    if path.exists():
        raise UserError(f"--output: {output} is there already. Choose another name.")
    write_text(path, as_csv(rows, (*COLUMNS, *_MORE)))
    return Path(path.path)
