"""New labelled images, a file of paths and labels, and the answers of versions for them."""

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from resnet_core.drift.unknown import FARTHEST, Ranks, Unknown
from resnet_core.errors import UserError, nearest, plural
from resnet_core.evaluation.bootstrap import Groups
from resnet_core.evaluation.comparison import aligned, numbered
from resnet_core.evaluation.metrics import Labels, Scores
from resnet_core.images.limits import Limits
from resnet_core.model.classifier import Classifier
from resnet_core.model.novelty import Distances
from resnet_core.reading.pool import end_idle, iterate_files
from resnet_core.shards.format import unpacked
from resnet_core.sources.manifest import list_manifest
from resnet_core.storage.files import to_path
from resnet_core.storage.locations import absolute, facts_if_there
from resnet_core.storage.names import fold_label
from tasks.parts import COLUMNS
from tasks.progress import progress

LEAST = 20  # images: of fewer, nothing can be said


@dataclass(frozen=True)
class Answers:
    """The `scores` of each classifier [N, C], in the order of `classes`, for N images.

    `left_out` counts the other images by reason. `far`: how many the first classifier does not know, and its ranks;
    None if it cannot tell. `farthest`: their names, the farthest first.
    """

    classes: tuple[str, ...]
    labels: Labels
    groups: Groups | None
    scores: tuple[Scores, ...]
    left_out: dict[str, int]
    far: tuple[Unknown, Ranks] | None = None
    farthest: tuple[str, ...] = ()


def check_labels(path: str) -> UPath:
    """Raises UserError if the file does not exist."""
    there = facts_if_there(absolute(path))
    if there is None or there["type"] != "file":
        raise UserError(f"--labels: {path} is no file. Give a CSV or Parquet file with the columns path,label.")
    return to_path(path)


def answer(path: str, classifiers: Sequence[Classifier], learned: Container[str], limits: Limits) -> Answers:
    """Read the images and let each classifier answer.

    learned: ids of images that are not new to one of them. Raises UserError for labels that the first classifier
    does not know, and if too few images are left.
    """
    rows = pa.Table.from_batches(list_manifest(check_labels(path)))
    labels = [fold_label(label) or None if label else None for label in rows["label"].to_pylist()]
    rows = rows.set_column(rows.schema.get_field_index("label"), "label", pa.array(labels, pa.string()))
    missing, unlabelled = pc.is_null(rows["size"]), pc.is_null(rows["label"])
    left_out = {"no such file": pc.sum(missing).as_py() or 0}
    left_out["no label"] = pc.sum(pc.and_not(unlabelled, missing)).as_py() or 0
    files = rows.filter(pc.invert(pc.or_(missing, unlabelled)))
    _check_classes(path, files["label"], classifiers[0])
    image_ids, found, distances = score_files(files, classifiers, learned, limits)
    kept = np.zeros(len(files), bool)
    seen: dict[str, int] = {}
    for row, image_id in enumerate(image_ids):
        reason = why_not(image_id, learned, seen)
        left_out[reason] = left_out.get(reason, 0) + 1
        kept[row] = not reason
        seen.setdefault(image_id or "", row)
    left_out.pop("", None)
    left_out = {reason: count for reason, count in left_out.items() if count}
    _check_count(path, int(kept.sum()), left_out)
    classes = classifiers[0].classes
    places = pc.index_in(files["label"], value_set=pa.array(classes, pa.string())).to_numpy().astype(np.int64)
    groups = [name for name, wanted in zip(files["group"].to_pylist(), kept, strict=True) if wanted]
    answers = Answers(classes, places[kept], numbered(groups), tuple(each[kept] for each in found), left_out)
    if (novelty := classifiers[0].novelty) is None:
        return answers
    p_values, ranks = novelty.p_values(distances[kept]), Ranks(len(novelty.held_out), novelty.depth)
    unknown = novelty.is_unknown(p_values)
    counts = Unknown(len(p_values), int(unknown.sum()), int((p_values < 1.5 / (ranks.held_out + 1)).sum()))
    rows = np.flatnonzero(kept)[unknown]
    order = rows[np.argsort(-distances[rows], kind="stable")][:FARTHEST]
    return replace(answers, far=(counts, ranks), farthest=tuple(files["path"].take(pa.array(order)).to_pylist()))


def why_not(image_id: str | None, learned: Container[str], seen: dict[str, int]) -> str:
    """Return the reason why an image does not count, or an empty text."""
    if image_id is None:
        return "unreadable"
    if image_id in learned:
        return "learned from"
    return "twice in it" if image_id in seen else ""


def _check_classes(path: str, labels: pa.ChunkedArray, classifier: Classifier) -> None:
    known = list(classifier.classes)
    for label in sorted(pc.unique(labels).to_pylist()):
        if label not in known:
            raise UserError(
                f"--labels: {path}: {label!r} is no class of the model.{nearest(label, known)} Its classes: "
                f"{', '.join(known)}. Correct the label, or leave those images out."
            )


def _check_count(path: str, count: int, left_out: dict[str, int]) -> None:
    if count < LEAST:
        others = f" ({in_words(left_out)})" if left_out else ""
        raise UserError(
            f"--labels: {path} has {plural(count, 'image')} that count{others}; of fewer than {LEAST} "
            "nothing can be said. "
            "Label some more."
        )


def in_words(left_out: dict[str, int]) -> str:
    return "left out: " + ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())


def score_files(
    files: pa.Table, classifiers: Sequence[Classifier], learned: Container[str], limits: Limits
) -> tuple[list[str | None], list[Scores], Distances]:
    """Return the ids of the images, each classifier's scores, and the first one's distances of unknown images.

    Columns of scores are in the order of the first one's classes.

    An id is None if the image cannot be read; such rows, and those of learned images, are zeros. Files are read
    once for all classifiers with the same preprocessing.
    """
    classes = classifiers[0].classes
    found: list[Scores] = [np.zeros((len(files), len(classes))) for _ in classifiers]
    image_ids: list[str | None] = [""] * len(files)
    distances = np.zeros(len(files), np.float32)
    ways = len({each.preprocessing for each in classifiers})
    with progress("monitor", len(files) * ways) as advance:
        for start, images, takers in readings(files, classifiers, limits):
            readable = images["reason_code"].is_null().to_pylist()
            for row, image_id in enumerate(images["image_id"].to_pylist(), start):
                image_ids[row] = image_id if readable[row - start] and image_ids[row] is not None else None
            here = image_ids[start : start + len(images)]
            new = np.flatnonzero([each is not None and each not in learned for each in here])
            pixels = unpacked(images["pixels"], takers[0][1].preprocessing.size)[new]
            for k, each in takers:
                probabilities, far = each.answer(pixels)
                found[k][start + new] = aligned(probabilities, each, classes)
                if k == 0 and far is not None:
                    distances[start + new] = far
            advance(len(images))
    end_idle()
    return image_ids, found, distances


def readings(
    files: pa.Table, classifiers: Sequence[Classifier], limits: Limits
) -> Iterator[tuple[int, pa.Table, list[tuple[int, Classifier]]]]:
    """Read files once for all classifiers with the same preprocessing.

    Yields the place of the first file, the images, and the classifiers that take them, with their places.
    """
    for wanted in dict.fromkeys(each.preprocessing for each in classifiers):
        takers, start = [(k, each) for k, each in enumerate(classifiers) if each.preprocessing == wanted], 0
        for images in iterate_files(files.select(COLUMNS), wanted, limits):
            yield start, images, takers
            start += len(images)
