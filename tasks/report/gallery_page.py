"""`grayline gallery`: a scored batch as one HTML file to look through and correct.

The page needs nothing else: pictures, style and script are inside. What a person decides stays in the browser until
they export it, as a table that `corrections:` in a data set file takes.
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
from markupsafe import Markup
from upath import UPath

from resnet_core.errors import UserError, nearest
from resnet_core.inference.scores import Picks, pick
from resnet_core.plotting.thumbnails import LOSSLESS, Thumbnail, thumbnails
from resnet_core.reading.image import Limits
from resnet_core.reading.pool import end_idle
from resnet_core.shards.format import METADATA_KEY
from resnet_core.storage.database import database
from resnet_core.storage.digest import digest_of
from resnet_core.storage.files import absolute, is_local
from tasks.batch.manifest import read_manifest
from tasks.batch.values import Scores
from tasks.progress import progress
from tasks.report.pages import environment, own, write_page
from tasks.report.words import counted, listed, moment, percent
from tasks.store import MANIFEST, Store

MOST = 5_000  # images that a browser still handles well
OTHERS = 2  # labels beside the first that a picture is shown with
_DIGITS = "123456789"
_WHY = (
    ("review", "that need a person's eyes"),
    ("unsure", "of which the model is least sure"),
    ("drawn", "drawn from all labels, whatever the confidence"),
    ("failed", "that could not be scored"),
)


@dataclass(frozen=True)
class GalleryPage:
    """A page of `size` bytes that shows `shown` of a batch's `files`; of `unseen` of them there is no picture."""

    path: UPath
    size: int
    batch: str
    shown: int
    files: int
    unseen: int


@dataclass(frozen=True)
class _ScoredBatch:
    """A finished batch with the classes of its version. `key` tells it from other batches."""

    scores: Scores
    key: str
    classes: tuple[str, ...]


def find_batch(place: str, store: Store) -> _ScoredBatch:
    """A folder of scores, or the name of one under the store's scores/. Raises UserError unless it is complete."""
    folder = absolute(UPath(place))
    if not folder.exists() and (store.scores() / place).exists():
        folder = store.scores() / place
    try:
        scores = read_manifest(folder)
    except FileNotFoundError:
        if not folder.exists():
            known = [path.name for path in store.scores().iterdir()] if store.scores().exists() else []
            raise UserError(f"BATCH: there is no folder {place}.{nearest(place, known)}") from None
        raise UserError(
            f"BATCH: {folder} holds no finished batch ({MANIFEST} is missing). "
            "Give the output of `grayline classify-batch`, or run that again: it goes on where it was."
        ) from None
    if not scores.parts:
        raise UserError(f"BATCH: {folder} holds no rows any more. Run `grayline classify-batch` again.")
    with scores.parts[0].open("rb") as file:
        classes = json.loads(pq.read_schema(file).metadata[METADATA_KEY])["classes"]
    return _ScoredBatch(scores, digest_of(str(folder), scores.model.name, scores.model.version), tuple(classes))


def check_options(batch: _ScoredBatch, limit: int, labels: Sequence[str]) -> None:
    """Raises UserError for a number of images, or a label, that cannot be meant."""
    if not 1 <= limit <= MOST:
        raise UserError(f"--limit: {limit} is not from 1 to {MOST:,}: a page has to open. Choose by --label instead.")
    for label in labels:
        if label not in batch.classes:
            known = list(batch.classes)
            raise UserError(
                f"--label: {label!r} is not a class of {batch.scores.model}.{nearest(label, known)} "
                f"Its classes: {', '.join(known)}."
            )


def write_gallery(batch: _ScoredBatch, to: UPath, limit: int, labels: Sequence[str], limits: Limits) -> GalleryPage:
    """Choose images, read them where they lie, and write the page. Raises UserError where nothing can be written."""
    with database() as db:
        picks = pick(db, readable(db, batch.scores.parts), limit, labels)
    rows = picks.rows.to_pylist()
    pictures = _read_pictures(rows, limits)
    size = write_page(to, render(batch, picks, rows, pictures, labels))
    unseen = sum(row["status"] == "ok" and not picture.webp for row, picture in zip(rows, pictures, strict=True))
    return GalleryPage(to, size, batch.scores.batch, len(rows), picks.files, unseen)


def readable(db: DuckDBPyConnection, parts: Sequence[UPath]) -> list[str]:
    """The names by which DuckDB reads the parts: in another store, through fsspec."""
    if is_local(parts[0]):
        return [part.path for part in parts]
    if not db.filesystem_is_registered(parts[0].protocol):
        db.register_filesystem(parts[0].fs)
    return [f"{part.protocol}://{part.path.lstrip('/')}" for part in parts]


def _read_pictures(rows: Sequence[Mapping[str, Any]], limits: Limits) -> list[Thumbnail]:
    """A picture a row. There is none of what could not be scored, nor of a file that has changed since."""
    found = [Thumbnail(None, row["reason"]) for row in rows]
    good = [number for number, row in enumerate(rows) if row["status"] == "ok"]
    sides = [max(rows[number]["width"] or 0, rows[number]["height"] or 0) or None for number in good]
    with progress("gallery", len(good)) as advance:
        for place, picture in thumbnails([rows[number]["uri"] for number in good], sides, limits):
            number = good[place]
            changed = picture.webp and picture.image_id != rows[number]["image_id"]
            found[number] = Thumbnail(None, "it has changed since it was scored") if changed else picture
            advance(1)
    end_idle()
    return found


def render(
    batch: _ScoredBatch,
    picks: Picks,
    rows: Sequence[Mapping[str, Any]],
    pictures: Sequence[Thumbnail],
    labels: Sequence[str] = (),
    made: datetime | None = None,
) -> str:
    """The page. Whatever comes from data (names, labels, reasons) is escaped."""
    shots = [shot(number, *both) for number, both in enumerate(zip(rows, pictures, strict=True))]
    script = own("gallery.js")
    facts = {
        "key": batch.key,
        "source": f"gallery {batch.scores.batch} by {batch.scores.model}",
        "file": "labels-"
        + "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in batch.scores.batch),
        "classes": list(batch.classes),
        "keys": _shortcuts(batch.classes),
        "rows": [[row["uri"], row["image_id"], row["label"], row["confidence"]] for row in rows],
    }
    return (
        environment()
        .get_template("gallery.html")
        .render(
            scores=batch.scores,
            tiles=_tiles(batch.scores),
            lead=lead(picks, labels),
            keys=[(key, name) for key, name in _shortcuts(batch.classes).items()],
            shown_labels=[name for name in batch.classes if any(row["label"] == name for row in rows)],
            shots=shots,
            facts=_in_script(facts),
            style=own("report.css") + own("gallery.css"),
            script=script,
            script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            made=moment(made or datetime.now(UTC)),
        )
    )


def _in_script(content: Mapping[str, Any]) -> Markup:
    """JSON that no text in it can end, or turn into markup."""
    text = json.dumps(content, ensure_ascii=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _shortcuts(classes: Sequence[str]) -> dict[str, str]:
    """The key of each class: its own name where all are one letter or digit, else the number of its place."""
    if all(len(name) == 1 and name.isalnum() for name in classes):
        return {name: name for name in classes}
    return dict(zip(_DIGITS, classes, strict=False))


def _tiles(scores: Scores) -> list[tuple[str, str]]:
    names = ("Files", "Scored", "Failed", "Need review")
    return [
        (name, f"{count:,}") for name, count in zip(names, scores.counts().values(), strict=True) if count is not None
    ]


def lead(picks: Picks, labels: Sequence[str]) -> str:
    """What is shown of what there is, and how it was chosen."""
    of = f" given the label {' or '.join(labels)}" if labels else ""
    if len(picks.rows) == picks.files:
        return f"All {counted(picks.files, 'file')}{of}, what needs a person's eyes first."
    why = [f"{picks.why[name]:,} {words}" for name, words in _WHY if picks.why.get(name)]
    return f"{len(picks.rows):,} of {counted(picks.files, 'file')}{of}: {listed(why)}."


def shot(number: int, row: Mapping[str, Any], picture: Thumbnail) -> dict[str, Any]:
    """What a row is shown as. It can be corrected where there is a picture: nobody labels what they do not see."""
    name, failed = _short_name(row["uri"]), row["status"] != "ok"
    others = zip(row["top_labels"] or (), row["top_probabilities"] or (), strict=True)
    beside = [f"{label} {sure(share)}" for label, share in others if label != row["label"]][:OTHERS]
    if failed:
        said = f"{name}, could not be scored"
    else:
        said = f"{name}, taken for {row['label']}, {sure(row['confidence'])} sure"
        said += ", needs review" if row["needs_review"] else ""
    return {
        "number": number,
        "name": name,
        "uri": row["uri"],
        "label": row["label"],
        "sure": "" if failed else sure(row["confidence"]),
        "said": said,
        "others": ", ".join(beside),
        "review": bool(row["needs_review"]),
        "failed": failed,
        "reason": picture.reason,
        "image": {
            "uri": f"data:image/webp;base64,{base64.b64encode(picture.webp).decode()}",
            "width": picture.width,
            "height": picture.height,
            "alt": said,
            "small": max(picture.width, picture.height) < LOSSLESS,
        }
        if picture.webp
        else None,
    }


def sure(share: float) -> str:
    """In whole percent; what is nearly certain is not certain."""
    return ">99%" if 0.995 <= share < 1 else percent(share, 0)


def _short_name(uri: str) -> str:
    """The end of where it lies: `0003.png` of a path, a URL or a member of an archive, `x.parquet#row=3` of a row."""
    return uri.partition("::")[0].rstrip("/").rpartition("/")[2] or uri
