"""`grayline gallery`: a scored batch as one HTML file to look through and correct.

Pictures, style and script are inside the page. Decisions of a person stay in the browser until they are exported.
The export is a table for `corrections:` in a data set file.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow.parquet as pq
from duckdb import DuckDBPyConnection
from upath import UPath

from resnet_core.catalog.corrections import NONE_OF_THESE
from resnet_core.errors import UserError, nearest, plural, some_of
from resnet_core.images.limits import Limits
from resnet_core.inference.scores import Picks, pick
from resnet_core.plotting.heat_overlay import overlay
from resnet_core.plotting.thumbnails import LOSSLESS, SIDE, Thumbnail, thumbnails
from resnet_core.reading.pool import end_idle
from resnet_core.shards.format import METADATA_KEY
from resnet_core.storage.database import database
from resnet_core.storage.digest import digest_of
from resnet_core.storage.files import is_local, to_path
from resnet_core.storage.names import fold_label
from tasks.batch.heat_maps import Seer
from tasks.batch.manifest import read_manifest
from tasks.batch.values import Scores
from tasks.progress import progress
from tasks.report.pages import environment, image, own, write_page
from tasks.report.words import file_name, listed, moment, sure
from tasks.store import MANIFEST, Store, own_files

MOST = 5_000  # images on a page; browsers become slow with more
_LARGE, _FEW = 448, 500  # px of pictures, on a page of so many
_OTHERS = 2  # labels beside the first
_DIGITS = "123456789"
_WHY = (
    ("unknown", "unlike all that was learned"),
    ("review", "that need review"),
    ("drift", "where the batch has drifted"),
    ("unsure", "of which the model is least sure"),
    ("drawn", "drawn from all labels at any confidence"),
    ("random", "drawn at random from all"),
    ("failed", "that could not be scored"),
)


@dataclass(frozen=True)
class _GalleryPage:
    """A page of `size` bytes that shows `shown` of a batch's `files`, `unseen` of them without a picture."""

    path: UPath
    size: int
    batch: str
    shown: int
    files: int
    unseen: int


@dataclass(frozen=True)
class ScoredBatch:
    """A finished batch with the classes of its version. `key` tells it from other batches.

    page: the kind of page that shows it, which its labels name as their source.
    """

    scores: Scores
    key: str
    classes: tuple[str, ...]
    page: str = "gallery"

    @property
    def source(self) -> str:
        return f"{self.page} {self.scores.batch} by {self.scores.model}"


_KNOWN = 10  # batches in a message


def find_batch(place: str, store: Store) -> ScoredBatch:
    """Find a batch by its folder or by its name under the store's scores/. Raises UserError unless it is finished."""
    folder = to_path(place)
    if not folder.exists() and (store.scores() / place).exists():
        folder = store.scores() / place
    try:
        scores = read_manifest(folder)
    except FileNotFoundError:
        if not folder.exists():
            names = [path.name for path in own_files(store.scores())]
            known = f" Known: {some_of(sorted(names), _KNOWN)}." if names else ""
            raise UserError(
                f"BATCH: there is no folder {place}, and no such batch in {store.scores()}."
                f"{nearest(place, names)}{known}"
            ) from None
        raise UserError(
            f"BATCH: {folder} does not hold a finished batch ({MANIFEST} is missing). "
            "Name the output of `grayline classify-batch`, or run that command again: it continues."
        ) from None
    if not scores.parts:
        raise UserError(f"BATCH: {folder} has no Parquet files any more. Run `grayline classify-batch` again.")
    with scores.parts[0].open("rb") as file:
        classes = json.loads(pq.read_schema(file).metadata[METADATA_KEY])["classes"]
    return ScoredBatch(scores, digest_of(str(folder), scores.model), tuple(classes))


def check_options(batch: ScoredBatch, limit: int, labels: Sequence[str], in_clear: bool = False) -> None:
    """Raises UserError for a number out of range, for a label that is not a class, and for confidential images."""
    if batch.scores.confidential and not in_clear:
        raise UserError(
            f"BATCH: {batch.scores.model} is of encrypted data, and the page shows images to whoever has it. Give "
            "--in-clear to write it all the same, to a place that only you may read."
        )
    if not 1 <= limit <= MOST:
        raise UserError(f"--limit: {limit} is not from 1 to {MOST:,}. Choose images by --label instead.")
    for label in map(fold_label, labels):
        if label not in batch.classes:
            raise UserError(
                f"--label: {label!r} is not a class of {batch.scores.model}.{nearest(label, list(batch.classes))} "
                f"Its classes: {', '.join(batch.classes)}."
            )


def write_gallery(
    batch: ScoredBatch, to: UPath, limit: int, labels: Sequence[str], limits: Limits, seer: Seer | None = None
) -> _GalleryPage:
    """Choose and read images, and write the page. Raises UserError for a place that cannot be written.

    seer: makes the heat maps; None: there are none.
    """
    with database() as db:
        picks = pick(db, readable(db, batch.scores.parts), limit, labels)
    return write_picks(batch, picks, to, labels, limits, seer)


def write_picks(
    batch: ScoredBatch, picks: Picks, to: UPath, labels: Sequence[str], limits: Limits, seer: Seer | None = None
) -> _GalleryPage:
    """Read the images of some rows, and write the page."""
    rows = picks.rows.to_pylist()
    pictures = _read_pictures(rows, limits)
    heat = {} if seer is None else _heat_of(rows, pictures, seer)
    size = write_page(to, render(batch, picks, rows, pictures, labels, heat=heat))
    unseen = sum(row["status"] == "ok" and not picture.webp for row, picture in zip(rows, pictures, strict=True))
    return _GalleryPage(to, size, batch.scores.batch, len(rows), picks.files, unseen)


def readable(db: DuckDBPyConnection, parts: Sequence[UPath]) -> list[str]:
    """Return the names by which DuckDB reads the parts; remote parts are read through fsspec."""
    if is_local(parts[0]):
        return [part.path for part in parts]
    if not db.filesystem_is_registered(parts[0].protocol):
        db.register_filesystem(parts[0].fs)
    return [f"{part.protocol}://{part.path.lstrip('/')}" for part in parts]


def _read_pictures(rows: Sequence[Mapping[str, Any]], limits: Limits) -> list[Thumbnail]:
    """Return a picture for each row; failed and changed files have a reason instead."""
    pictures = [Thumbnail(None, row["reason"]) for row in rows]
    good = [number for number, row in enumerate(rows) if row["status"] == "ok"]
    sides = [max(rows[number]["width"] or 0, rows[number]["height"] or 0) or None for number in good]
    with progress("gallery", len(good)) as advance:
        most = _LARGE if len(good) <= _FEW else SIDE
        for place, picture in thumbnails([rows[number]["uri"] for number in good], sides, limits, most):
            number = good[place]
            changed = picture.webp and picture.image_id != rows[number]["image_id"]
            pictures[number] = Thumbnail(None, "it has changed since it was scored") if changed else picture
            advance(1)
    end_idle()
    return pictures


def _heat_of(
    rows: Sequence[Mapping[str, Any]], pictures: Sequence[Thumbnail], seer: Seer
) -> dict[int, tuple[bytes, tuple[int, int]]]:
    """Return the heat of the rows with a picture, by their numbers."""
    seen = [number for number, picture in enumerate(pictures) if picture.webp]
    found = {}
    with progress("heat maps", len(seen)) as advance:
        for place, _, heat in seer.look([rows[number] for number in seen]):
            picture = pictures[seen[place]]
            found[seen[place]] = overlay(heat, seer.classifier.preprocessing, (picture.width, picture.height))
            advance(1)
    return found


def render(
    batch: ScoredBatch,
    picks: Picks,
    rows: Sequence[Mapping[str, Any]],
    pictures: Sequence[Thumbnail],
    labels: Sequence[str] = (),
    heat: Mapping[int, tuple[bytes, tuple[int, int]]] | None = None,
) -> str:
    """Return the page. Values from data (names, labels, reasons) are escaped."""
    shots = [_shot(number, row, picture) for number, (row, picture) in enumerate(zip(rows, pictures, strict=True))]
    for number, (webp, size) in (heat or {}).items():
        alt = f"where {rows[number]['label']} was seen in {shots[number]['name']}"
        shots[number]["heat"] = image(webp, "image/webp", size, alt, 0)
    script = own("gallery.js")
    facts = {
        "key": batch.key,
        "source": batch.source,
        "file": "labels-"
        + "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in batch.scores.batch),
        "classes": list(batch.classes),
        "none": NONE_OF_THESE,
        "keys": _shortcuts(batch.classes),
        "rows": [[row["uri"], row["image_id"], row["label"], row["confidence"]] for row in rows],
    }
    return (
        environment()
        .get_template("gallery.html")
        .render(
            scores=batch.scores,
            kind=batch.page,
            tiles=_tiles(batch.scores),
            lead=_lead(picks, labels),
            keys=[(key, name) for key, name in _shortcuts(batch.classes).items()],
            shown_labels=[name for name in batch.classes if any(row["label"] == name for row in rows)],
            shots=shots,
            facts=facts,
            style=own("report.css") + own("gallery.css"),
            script=script,
            script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            heated=bool(heat),
            made=moment(datetime.now(UTC)),
        )
    )


def _shortcuts(classes: Sequence[str]) -> dict[str, str]:
    """Return classes by key: their names if all are one letter or digit, else digits in their order."""
    if all(len(name) == 1 and name.isalnum() for name in classes):
        return {name: name for name in classes}
    return dict(zip(_DIGITS, classes, strict=False))


def _tiles(scores: Scores) -> list[tuple[str, str]]:
    names = ("Files", "Scored", "Failed", "Need review", "Unknown")
    return [
        (name, f"{count:,}") for name, count in zip(names, scores.counts().values(), strict=True) if count is not None
    ]


def _lead(picks: Picks, labels: Sequence[str]) -> str:
    """Return how many files are shown, and how they were chosen."""
    of = f" given the label {' or '.join(labels)}" if labels else ""
    if len(picks.rows) == picks.files and "random" not in picks.why:
        return f"All {plural(picks.files, 'file')}{of}, those to review first."
    all_of = {"review": f"of {picks.review:,} "} if picks.why.get("review", 0) < picks.review else {}
    why = [f"{picks.why[name]:,} {all_of.get(name, '')}{words}" for name, words in _WHY if picks.why.get(name)]
    return f"{len(picks.rows):,} of {plural(picks.files, 'file')}{of}: {listed(why)}."


def _shot(number: int, row: Mapping[str, Any], picture: Thumbnail) -> dict[str, Any]:
    """Return a row for the template. Only a row with a picture can be corrected."""
    name, failed = file_name(row["uri"]), row["status"] != "ok"
    others = zip(row["top_labels"] or (), row["top_probabilities"] or (), strict=True)
    beside = [f"{label} {sure(share)}" for label, share in others if label != row["label"]][:_OTHERS]
    text = f"{name}, could not be scored"
    if not failed:
        text = f"{name}, taken for {row['label']}, {sure(row['confidence'])} sure"
        text += ", unknown" if row["unknown"] else ", needs review" if row["needs_review"] else ""
    return {
        "number": number,
        "name": name,
        "uri": row["uri"],
        "label": row["label"],
        "sure": "" if failed else sure(row["confidence"]),
        "text": text,
        "others": ", ".join(beside),
        "review": bool(row["needs_review"]),
        "unknown": bool(row["unknown"]),
        "failed": failed,
        "heat": None,
        "reason": picture.reason,
        "image": image(picture.webp, "image/webp", (picture.width, picture.height), text, LOSSLESS)
        if picture.webp
        else None,
    }
