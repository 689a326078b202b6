"""Explain: a gallery of held-out images that a person should see.

It has the heat map of every image, and for errors the training images that are most like them. Beside it stand the
held-out images that look like a training image. An encrypted data set has no gallery, for all of it shows images.
"""

import hashlib
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from prefect import task
from upath import UPath

import resnet_core.explain
import resnet_core.model
import resnet_core.plotting
from resnet_core.explain.gallery import Chosen, Kind, choose
from resnet_core.explain.heat import NAMES, WAY, heat_of
from resnet_core.explain.neighbours import MOST_IMAGES, Neighbour, nearest, sampled
from resnet_core.images.limits import Limits
from resnet_core.images.preprocessing import Gray
from resnet_core.model.classifier import Classifier
from resnet_core.plotting.canvas import SMALLEST, heated, picture, webp
from resnet_core.plotting.sheets import NEIGHBOURS, GalleryImage, NeighbourImage, gallery_sheet
from resnet_core.plotting.thumbnails import thumbnails
from resnet_core.shards import format as shards
from resnet_core.storage.digest import digest_of, source_digest
from resnet_core.storage.files import DamagedFileError, as_local, read_json, write_folder
from tasks import artifacts
from tasks.artifacts import publish_page
from tasks.evaluation.held_out import LOOK_ALIKE
from tasks.evaluation.look_alikes import closest, described
from tasks.progress import progress
from tasks.registry import runs as tracking
from tasks.store import EXPLANATION, GALLERY, GALLERY_SHEET, MODEL, PREDICTIONS
from tasks.values import Catalog, Explanation, Night, ShardSet, have
from tasks.workspace import Workspace

log = logging.getLogger("grayline")

_MADE_BY = (resnet_core.explain, resnet_core.model, resnet_core.plotting)


@dataclass(frozen=True)
class _Predictions:
    """The evaluation's predictions for the held-out images."""

    image_ids: list[str]
    labels: NDArray[np.int64]  # [N]
    predicted: NDArray[np.int64]  # [N]
    confidence: NDArray[np.float32]  # [N]


@dataclass(frozen=True)
class Item:
    """An image of the gallery; `neighbours` only if the prediction is wrong."""

    kind: Kind
    image_id: str
    label: str
    predicted: str
    confidence: float
    pixels: Gray
    heat: NDArray[np.float32]  # [S, S]
    neighbours: tuple[Neighbour, ...]


@task
def explain(night: Night, here: Workspace) -> Explanation:
    """Write, log and show the gallery, unless it exists for the same predictions and code."""
    checkpoint, shard_set = have(night.checkpoint), have(night.shard_set)
    if here.keys is not None:
        log.info("explain     %s is encrypted: no pictures are made of it", checkpoint.dataset)
        return Explanation(None, "", 0, 0)
    predictions = have(night.evaluation).folder / PREDICTIONS
    pairs = closest(night.catalog)
    made_of = digest_of(hashlib.sha256(predictions.read_bytes()).hexdigest(), source_digest(*_MADE_BY), pairs)
    folder = checkpoint.folder / EXPLANATION
    known = _read_gallery(folder)
    if known.get("made_of") != made_of:
        with as_local(checkpoint.folder / MODEL) as model:
            classifier = Classifier.load(model, here.device)
        layer, items = _look(classifier, _read_predictions(predictions, shard_set.classes), shard_set)
        shown = {pair[key] for pair in pairs for key in ("image_id", LOOK_ALIKE)}
        uris, sides = _read_places(night.catalog, shown.union(*map(_ids_of, items)))
        files = _larger_pictures(uris, sides, shard_set.preprocessing.size, here.limits)
        with write_folder(folder) as draft:
            known = {"made_of": made_of, "layer": layer, "way": NAMES[WAY]}
            known["looked_at"] = min(shard_set.train, MOST_IMAGES)
            known["items"] = [_write_item(draft, files, item, shard_set.classes, uris) for item in items]
            known["look_alikes"] = described(pairs, shard_set, uris, partial(_write_picture, draft, files))
            (draft / GALLERY_SHEET).write_bytes(sheet(checkpoint.dataset, layer, items, shard_set, uris))
            (draft / GALLERY).write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            tracking.client(here.tracking_uri).log_artifacts(checkpoint.mlflow_run_id, str(draft), EXPLANATION)
        publish_page(page(checkpoint.dataset, folder, known), key="explanation", description="Gallery")
    errors = sum(item["label"] != item["predicted"] for item in known["items"])
    return Explanation(folder, known["layer"], len(known["items"]), errors)


def _read_gallery(folder: UPath) -> dict[str, Any]:
    path = folder / GALLERY
    try:
        return dict(read_json(path)) if path.exists() else {}
    except DamagedFileError as error:
        log.warning("explain     %s: it is made again", error)
        return {}


def _read_predictions(path: UPath, classes: Sequence[str]) -> _Predictions:
    with path.open("rb") as file:
        table = pq.read_table(file, columns=["image_id", "label", "decided", "confidence"])
    place = {name: k for k, name in enumerate(classes)}
    labels, predicted = (
        np.array([place[name] for name in table[column].to_pylist()], dtype=np.int64) for column in ("label", "decided")
    )
    return _Predictions(table["image_id"].to_pylist(), labels, predicted, table["confidence"].to_numpy())


def _look(classifier: Classifier, found: _Predictions, shard_set: ShardSet) -> tuple[str, list[Item]]:
    """Return the network's stage that the heat maps are of, and the gallery."""
    chosen = choose(found.image_ids, found.labels, found.predicted, found.confidence)
    rows = np.array([one.row for one in chosen])
    looked_at = min(shard_set.train, MOST_IMAGES)
    with progress("explain", looked_at + len(chosen)) as advance:
        pixels = shards.take_ids(shard_set.files, "test", [found.image_ids[row] for row in rows])
        maps = heat_of(classifier, pixels, found.predicted[rows])
        advance(len(chosen))

        def pieces() -> Any:
            for images in sampled(shards.iterate(shard_set.files, "train", shard_set.classes), shard_set.train):
                yield images
                advance(len(images))

        wrong = found.labels[rows] != found.predicted[rows]
        alike = iter(nearest(classifier, pixels[wrong], pieces(), NEIGHBOURS))
    items = [
        _item_of(one, found, maps.heat[k], pixels[k], shard_set.classes, tuple(next(alike)) if wrong[k] else ())
        for k, one in enumerate(chosen)
    ]
    return maps.layer, items


def _item_of(
    chosen: Chosen,
    found: _Predictions,
    heat: NDArray[np.float32],
    pixels: Gray,
    classes: Sequence[str],
    alike: tuple[Neighbour, ...],
) -> Item:
    row = chosen.row
    label, predicted = classes[found.labels[row]], classes[found.predicted[row]]
    confidence = float(found.confidence[row])
    return Item(chosen.kind, found.image_ids[row], label, predicted, confidence, pixels, heat, alike)


def _read_places(catalog: Catalog, image_ids: Collection[str]) -> tuple[dict[str, str], dict[str, int]]:
    """Return the place of each image, and its longer side; of several places of the same bytes, the good one."""
    wanted = [("image_id", "in", sorted(image_ids)), ("status", "==", "ok")]
    with catalog.path.open("rb") as file:
        table = pq.read_table(file, columns=["image_id", "uri", "width", "height"], filters=wanted)
    ids, uris, *both = (table[name].to_pylist() for name in table.column_names)
    return dict(zip(ids, uris, strict=True)), dict(zip(ids, map(max, *both), strict=True))


def _larger_pictures(uris: Mapping[str, str], sides: Mapping[str, int], size: int, limits: Limits) -> dict[str, bytes]:
    """Return pictures of files that are larger than the network's pixels, whole and in their colors, by image id.

    A file that is gone or has changed has none: its picture is made of the network's pixels.
    """
    ids = [image_id for image_id in uris if sides[image_id] > size]
    found = thumbnails([uris[image_id] for image_id in ids], [sides[image_id] for image_id in ids], limits)
    return {ids[n]: picture.webp for n, picture in found if picture.webp and picture.image_id == ids[n]}


def _ids_of(item: Item) -> list[str]:
    return [item.image_id, *(one.image_id for one in item.neighbours)]


def _write_item(
    draft: Path, files: Mapping[str, bytes], item: Item, classes: Sequence[str], uris: dict[str, str]
) -> dict[str, Any]:
    """Write the pictures of an item. Returns its entry in gallery.json."""
    _write_picture(draft, files, item.image_id, item.pixels)
    heat = f"images/{item.image_id[:16]}-cam.webp"
    (draft / heat).write_bytes(webp(heated(item.pixels, item.heat)))
    beside = []
    for one in item.neighbours:
        beside.append(
            {
                "image_id": one.image_id,
                "uri": uris.get(one.image_id, ""),
                "label": classes[one.label],
                "similarity": round(one.similarity, 4),
                "image": _write_picture(draft, files, one.image_id, one.pixels),
            }
        )
    return {
        "kind": item.kind,
        "image_id": item.image_id,
        "uri": uris.get(item.image_id, ""),
        "label": item.label,
        "predicted": item.predicted,
        "confidence": round(item.confidence, 4),
        "image": f"images/{item.image_id[:16]}.webp",
        "heat": heat,
        "neighbours": beside,
    }


def _write_picture(draft: Path, files: Mapping[str, bytes], image_id: str, pixels: Gray) -> str:
    """Write an image once, even if it is a neighbour twice: its file's picture, else its pixels. Returns its name."""
    name = f"images/{image_id[:16]}.webp"
    (draft / "images").mkdir(exist_ok=True)
    if not (draft / name).exists():
        made = files.get(image_id) or webp(picture(pixels), lossless=max(pixels.shape) < SMALLEST)
        (draft / name).write_bytes(made)
    return name


def sheet(dataset: str, layer: str, items: Sequence[Item], shard_set: ShardSet, uris: dict[str, str]) -> bytes:
    shown = [
        GalleryImage(
            item.kind, item.pixels, item.heat, item.label, item.predicted, item.confidence,
            uris.get(item.image_id, ""),
            tuple(NeighbourImage(one.pixels, shard_set.classes[one.label], one.similarity) for one in item.neighbours),
        )
        for item in items
    ]  # fmt: skip
    return gallery_sheet(shown, f"{dataset}: what the classifier looked at", note(layer, shard_set.train))


def note(layer: str, train: int) -> str:
    alike = f"{MOST_IMAGES:,} of {train:,}" if train > MOST_IMAGES else f"all {train:,}"
    return (
        f"In colour: where {NAMES[WAY]} of {layer} found the predicted class. Most alike: of {alike} training images."
    )


def page(dataset: str, folder: UPath, known: dict[str, Any]) -> str:
    """Return the Prefect page: the sheet, and the places of its images."""
    header = ("", "label", "predicted", "confidence", "image")
    rows = (
        (
            item["kind"],
            item["label"],
            item["predicted"],
            f"{item['confidence']:.3f}",
            item["uri"],
        )
        for item in known["items"]
        if item["kind"] != "sample"
    )
    title = "Held-out images with what the classifier looked at"
    return (
        f"# {dataset}: held-out images to look at\n\n"
        f"{artifacts.picture(title, (folder / GALLERY_SHEET).read_bytes())}\n\n"
        f"{artifacts.markdown_table(header, rows, numbers=['confidence'])}\n"
    )
