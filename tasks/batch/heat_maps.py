"""Heat maps of a batch: where in each image its version saw the label.

The version's own weights make them, by torch, whichever engine has scored the batch.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE
from upath import UPath

from resnet_core.errors import UserError, plural
from resnet_core.explain.heat import heat_of
from resnet_core.images.limits import Limits
from resnet_core.images.preprocessing import Gray
from resnet_core.inference.scores import read_scores
from resnet_core.model.classifier import Classifier
from resnet_core.plotting.canvas import heated
from resnet_core.plotting.thumbnails import in_order
from resnet_core.reading.pool import end_idle
from resnet_core.shards.format import unpacked
from resnet_core.sources import shard_files
from resnet_core.sources.locate import locate
from resnet_core.storage.digest import digest_of
from resnet_core.storage.files import to_output, write_text, write_whole
from tasks.batch.folder import lies_in
from tasks.batch.score import read_images
from tasks.batch.values import Scores
from tasks.progress import progress
from tasks.registry.versions import find_version, load_classifier
from tasks.settings import Settings
from tasks.values import ModelVersion
from tasks.workspace import Workspace

log = logging.getLogger("grayline")

_INDEX = "_heatmaps.json"  # the version, and the file of each picture
_MOST = 5_000  # pictures
_AT_ONCE = 128  # images
_OURS = re.compile(r".*-[0-9a-f]{12}\.png")
_COLUMNS = ("uri", "image_id", "label", "confidence", "needs_review", "unknown")
_ORDER = [("far", "descending"), ("confidence", "ascending"), ("uri", "ascending")]

_Heat = tuple[int, Gray, NDArray[np.float32]]  # a row's place, uint8 [S, S] and its heat [S, S], 0 to 1


@dataclass(frozen=True)
class Seer:
    """Says where a version saw the labels of rows."""

    classifier: Classifier
    limits: Limits

    def look(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[_Heat]:
        """Yield what the network saw of each row, and its heat. Files that have changed since are left out.

        rows: with uri, image_id and label.
        """
        classes, settings = self.classifier.classes, self.classifier.preprocessing
        files = locate([row["uri"] for row in rows])
        of_shards = pc.equal(files["kind"].fill_null(""), shard_files.KIND).to_numpy()
        there = files["size"].is_valid().to_numpy() & np.array([row["label"] in classes for row in rows], bool)
        for some in (there & ~of_shards, there & of_shards):
            places, start = in_order(files, np.flatnonzero(some)), 0
            taken = files.take(pa.array(places, pa.int64()))
            for images in read_images(taken, settings, self.limits, _AT_ONCE) if places else ():
                here = places[start : start + len(images)]
                start += len(images)
                ids = images["image_id"].to_pylist()
                readable = images["reason_code"].is_null().to_pylist()
                same = [k for k, place in enumerate(here) if readable[k] and ids[k] == rows[place]["image_id"]]
                if same:
                    pixels = unpacked(images["pixels"], settings.size)[same]
                    labels = np.array([classes.index(rows[here[k]]["label"]) for k in same], np.int64)
                    heat = heat_of(self.classifier, pixels, labels).heat
                    yield from zip([here[k] for k in same], pixels, heat, strict=True)
        end_idle()


def seer_of(scores: Scores, settings: Settings) -> Seer:
    """Return what makes a batch's heat maps. Raises UserError if its version is confidential, or not there any more."""
    if scores.confidential:
        raise UserError(f"{scores.model} is of encrypted data")
    version = find_version(settings.tracking_uri, scores.model.name, scores.model.version)
    if scores.model.files not in ("", version.files):
        raise UserError(f"{scores.model} is another one now than when it scored the batch")
    return Seer(load_classifier(settings.tracking_uri, version, settings.device), settings.limits)


def check_heat_folder(place: str, source: str, model: ModelVersion, confidential: bool) -> UPath:
    """Return the folder for heat maps. Raises UserError for encrypted data, and for a folder that is not ours alone."""
    if confidential:
        raise UserError(f"--heatmaps: {model} is of encrypted data, and heat maps show its images. Leave it out.")
    folder = to_output(place, "--heatmaps")
    if lies_in(place, source):
        raise UserError(f"--heatmaps: {place} lies in the source, and would be scored itself. Choose another folder.")
    if folder.exists() and not (folder.is_dir() and ((folder / _INDEX).exists() or not any(folder.iterdir()))):
        raise UserError(f"--heatmaps: {place} holds other files. Choose a new folder.")
    return folder


@task(cache_policy=NO_CACHE)  # a batch of many parts would be hashed for a key that nobody asks for
def write_heat_maps(scores: Scores, folder: UPath, here: Workspace) -> int:
    """Write a picture of each image that needs review, and remove those that do not any more. Returns their number.

    Pictures that an earlier run has made stay: their names have the image, its label and the version in a digest.
    """
    rows, count = _to_review(scores)
    names = {
        f"{_stem(row['uri'])}-{digest_of(row['image_id'], row['label'], scores.model)[:12]}.png": row for row in rows
    }
    _write_index(folder, scores, {})
    there = {path.name for path in folder.glob("*.png")}
    waiting = [name for name in names if name not in there]
    seer = Seer(load_classifier(here.tracking_uri, scores.model, here.device), here.limits)
    with progress("heat maps", len(waiting)) as advance:
        for start in range(0, len(waiting), _AT_ONCE):
            some = waiting[start : start + _AT_ONCE]
            for place, pixels, heat in seer.look([names[name] for name in some]):
                with write_whole(folder / some[place]) as draft, draft.open("wb") as file:
                    heated(pixels, heat).save(file, "PNG")
                there.add(some[place])
            advance(len(some))
    for old in there - names.keys():
        if _OURS.fullmatch(old):
            (folder / old).unlink(missing_ok=True)
    made = {name: row["uri"] for name, row in names.items() if name in there}
    _write_index(folder, scores, made)
    more = f" of the {count:,} that need review" if count > len(rows) else ""
    unread = len(names) - len(made)
    missing = f"; {plural(unread, 'image')} cannot be read any more" if unread else ""
    log.info("heat maps   %s%s in %s%s", plural(len(made), "picture"), more, folder, missing)
    return len(made)


def _write_index(folder: UPath, scores: Scores, pictures: Mapping[str, str]) -> None:
    content = {"model": str(scores.model), "batch": str(scores.output), "pictures": pictures}
    write_text(folder / _INDEX, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _to_review(scores: Scores) -> tuple[list[dict[str, Any]], int]:
    """Return the rows that need review, at most _MOST: unknown ones, then those least sure; and how many there are."""
    kept, count = [], 0
    for part in scores.parts:
        rows = read_scores(part, _COLUMNS)
        rows = rows.filter(rows["needs_review"].fill_null(False)).replace_schema_metadata()
        count += len(rows)
        kept.append(rows.append_column("far", rows["unknown"].fill_null(False).cast(pa.int8())))
        if sum(map(len, kept)) > 2 * _MOST:
            kept = [_first(kept)]
    return _first(kept).to_pylist() if kept else [], count


def _first(kept: Sequence[pa.Table]) -> pa.Table:
    table = pa.concat_tables(kept)
    return table.take(pc.select_k_unstable(table, k=min(_MOST, len(table)), sort_keys=_ORDER))


def _stem(uri: str) -> str:
    """Return the end of a URI as part of a file's name."""
    name = re.sub(r"[^\w.#=-]+", "_", uri.partition("::")[0].rstrip("/").rpartition("/")[2])
    return name.strip("._")[-80:] or "image"
