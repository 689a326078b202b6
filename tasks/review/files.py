"""The files of a queue, in a folder of its own:

queue.html                 the page: labels by keys, exported as a table for `corrections:`
queue.csv                  the images as such a table, with an empty column `label`
images/                    a picture of each image; its name ends in the digest of the image's bytes
label-studio.json          tasks with predictions, for Label Studio's import
label-studio-config.txt    its labelling interface
cvat-labels.txt            labels for the constructor of a CVAT task, its tab *Raw*
cvat.xml                   predictions as "CVAT for images", whose source is `auto`
_queue.json                what was drawn, and how: written last
"""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from upath import UPath

from resnet_core.annotations import cvat, label_studio
from resnet_core.annotations.exports import queue_file
from resnet_core.catalog.corrections import NONE_OF_THESE
from resnet_core.errors import UserError
from resnet_core.images.limits import Limits
from resnet_core.plotting.thumbnails import thumbnails
from resnet_core.storage.delimited import as_cell
from resnet_core.storage.digest import digest_of
from resnet_core.storage.files import write_folder
from tasks.batch.heat_maps import Seer
from tasks.report.gallery_page import write_picks
from tasks.report.words import file_name
from tasks.review.queue import Queue

QUEUE, PAGE, LIST = "_queue.json", "queue.html", "queue.csv"
COLUMNS = ("path", "label", "source", "predicted", "confidence", "image_id", "reason", "inclusion")
_SIDE = 1600  # pixels of a picture's longer side


@dataclass(frozen=True)
class WrittenQueue:
    """The folder of a queue, with the number of images that have no picture, and classes that XML cannot hold."""

    folder: Path
    unseen: int
    unwritable: list[str]


def write_queue(queue: Queue, folder: Path, limits: Limits, seer: Seer | None = None) -> WrittenQueue:
    """Write all files, or nothing. Raises UserError for a place that cannot be written.

    seer: makes the page's heat maps; None: there are none.
    """
    scores = queue.batch.scores
    batch = replace(queue.batch, scores=replace(scores, output=UPath(folder)))
    rows = queue.picks.rows.to_pylist()
    source = batch.source
    table = [_listed(row, queue, source) for row in rows]
    classes = [*batch.classes, NONE_OF_THESE]
    unwritable = cvat.unwritable(classes)
    try:
        with write_folder(UPath(folder)) as draft:
            (draft / LIST).write_text(as_csv(table), encoding="utf-8")
            images = _write_images(draft / "images", rows, limits)
            _write_tools(draft, (folder.name, str(scores.model)), classes, [*zip(rows, table, images, strict=True)])
            page = replace(batch, key=digest_of(batch.key, table))
            write_picks(page, queue.picks, UPath(draft / PAGE), (), limits, seer)
            (draft / QUEUE).write_text(
                json.dumps(_record(queue, table), indent=2, ensure_ascii=False), encoding="utf-8"
            )
    except OSError as error:
        raise UserError(f"--to: cannot write {folder} ({error.strerror or error}). Choose another place.") from None
    return WrittenQueue(folder, sum(name is None for name, *_ in images), unwritable)


def _listed(row: Mapping[str, Any], queue: Queue, source: str) -> dict[str, str]:
    """Return the row of the list; `inclusion` is empty for images that were not drawn at random."""
    why = queue.why[row["uri"]]
    inclusion = f"{queue.inclusion:.9g}" if why == "random" else ""
    sure = f"{row['confidence']:.4f}"
    return dict(
        zip(COLUMNS, (row["uri"], "", source, row["label"], sure, row["image_id"], why, inclusion), strict=True)
    )


def as_csv(rows: Sequence[Mapping[str, str]], columns: Sequence[str] = COLUMNS) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([as_cell(row.get(name, "")) for name in columns] for row in rows)
    return text.getvalue()


_Image = tuple[str | None, int, int]  # name, width, height


def _write_images(folder: Path, rows: Sequence[Mapping[str, Any]], limits: Limits) -> list[_Image]:
    """Write a picture of each image that is still what was scored; None for others."""
    folder.mkdir()
    sides = [max(row["width"] or 0, row["height"] or 0) or None for row in rows]
    found: list[_Image] = [(None, 0, 0)] * len(rows)
    for number, picture in thumbnails([row["uri"] for row in rows], sides, limits, _SIDE):
        if picture.webp and picture.image_id in (rows[number]["image_id"], None):
            stem = re.sub(r"[^A-Za-z0-9_-]+", "_", file_name(rows[number]["uri"]).rpartition(".")[0])[:60]
            name = queue_file(f"{number + 1:04}-{stem or 'image'}", rows[number]["image_id"], ".webp")
            (folder / name).write_bytes(picture.webp)
            found[number] = name, picture.width, picture.height
    return found


def _write_tools(
    draft: Path,
    names: tuple[str, str],
    classes: Sequence[str],
    shown: Sequence[tuple[Mapping[str, Any], Mapping[str, str], _Image]],
) -> None:
    """Write the files of Label Studio and CVAT. names: of the folder, and of the model."""
    tasks, files = [], []
    for row, listed, (name, width, height) in shown:
        if name is not None:
            data = {key: value for key, value in listed.items() if key != "label" and value}
            data[label_studio.IMAGE] = label_studio.stored(f"{names[0]}/images/{name}")
            tasks.append(label_studio.task(data, row["label"], row["confidence"], names[1]))
            files.append((name, width, height, row["label"]))
    text = json.dumps(tasks, indent=1, ensure_ascii=False)
    (draft / "label-studio.json").write_text(text, encoding="utf-8")
    (draft / "cvat-labels.txt").write_text(cvat.labels(classes), encoding="utf-8")
    if not cvat.unwritable(classes):
        (draft / "label-studio-config.txt").write_text(label_studio.config(classes), encoding="utf-8")
        (draft / "cvat.xml").write_text(cvat.annotations(files, classes), encoding="utf-8")


def _record(queue: Queue, table: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Return what the queue was drawn from, and how."""
    scores, drawn = queue.batch.scores, queue.picks.why.get("random", 0)
    return {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "model_name": scores.model.name,
        "model_version": scores.model.version,
        "classes": list(queue.batch.classes),
        "source": scores.source,
        "images": queue.images,
        "random": {
            "drawn": drawn,
            "from": queue.images,
            "inclusion": queue.inclusion,
            "how": "without replacement, from all scored images with other bytes, by a hash of image and version",
        },
        "rows": table,
    }
