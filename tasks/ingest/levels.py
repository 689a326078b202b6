"""Levels: decide which gray level is white in images that do not say, over the whole data set, once.

The first reading marks such images. The decision lies in the catalog's metadata, and is part of the settings of all
shards and versions. Later nights keep it: an image beyond it is quarantined.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
import pyarrow.parquet as pq
from prefect import task
from upath import UPath

from resnet_core.images.decision import DEPTHS, decide, in_words
from resnet_core.images.levels import Decided, Found
from resnet_core.images.preprocessing import Preprocessing
from resnet_core.shards import format as shards
from resnet_core.shards.encryption import Keys
from resnet_core.storage.files import link
from tasks.dataset import Dataset
from tasks.ingest.pixels import pixel_folder
from tasks.parts import Part
from tasks.store import CATALOG_LEVELS
from tasks.values import Scan
from tasks.workspace import Workspace

log = logging.getLogger("grayline")

_FEW = 0.1  # share of images that alone make a data set deep, and its other images dark


def with_decision(image: Preprocessing, catalog: UPath) -> Preprocessing:
    """Return the settings with what an earlier night has decided under the same `levels`; nothing without a catalog."""
    if not catalog.exists():
        return image
    with catalog.open("rb") as file:
        text = (pq.read_schema(file).metadata or {}).get(CATALOG_LEVELS.encode())
    kept = Preprocessing.of(json.loads(text)) if text else image
    return replace(image, decided=kept.decided) if kept.levels == image.levels else image


def decision_text(image: Preprocessing) -> str:
    """Return the text for the catalog's metadata that `with_decision` reads."""
    return json.dumps({"levels": _json(image)["levels"], "decided": _json(image)["decided"]}, sort_keys=True)


def _json(image: Preprocessing) -> dict[str, object]:
    return asdict(image)


@task
def decide_levels(scan: Scan, dataset: Dataset, here: Workspace) -> tuple[Scan, tuple[Part, ...]]:
    """Decide for images whose white level is not stated. Returns the scan with the decision, and parts to read again.

    Pixels of other parts stay as they are: the new cache links to them.
    """
    waiting, found = [], []
    for part in scan.unread:
        if some := _ranges(part.path, here.keys):
            waiting.append(part)
            found += some
    if not found:
        return scan, ()
    image = replace(scan.image, decided=decide(found, scan.image.rule))
    _log(scan.image.decided or Decided(), image, found)
    folder = pixel_folder(dataset, image, here)
    again = {part.path.name for part in waiting}
    for path in scan.pixels.iterdir():
        if path.name not in again and not (folder / path.name).exists():
            link(path, folder / path.name)
    unread = tuple(replace(part, path=folder / part.path.name) for part in scan.unread)
    return replace(scan, image=image, pixels=folder, unread=unread), tuple(p for p in unread if p.path.name in again)


def _ranges(path: UPath, keys: Keys | None) -> list[Found]:
    """Return the ranges of the part's images that wait for a decision."""
    texts = shards.open_file(path, keys).read(columns=["range"])["range"].drop_null().to_pylist()
    return [_found(*json.loads(text)) for text in texts]


def _found(kind: str, low: float, high: float, claimed: list[float] | None, quantiles: list[float]) -> Found:
    pair = (claimed[0], claimed[1]) if claimed else None
    return Found(kind, low, high, pair, np.array(quantiles, np.float32))  # type: ignore[arg-type]


def _log(before: Decided, image: Preprocessing, found: Sequence[Found]) -> None:
    """Print the decision in one line, and another one if a few images make the others dark."""
    new = replace(image, levels=None, decided=_new(before, image.decided or Decided()))
    low, high = min(each.low for each in found), max(each.high for each in found)
    log.info(
        "levels      gray levels of images without a stated white (%s, from %s to %s): %s; `image: {levels: ...}` "
        "changes it",
        f"{len(found):,}", f"{low:,.6g}", f"{high:,.6g}", "; ".join(in_words(new.rule)),
    )  # fmt: skip
    deepest = sorted(each.high for each in found if each.kind == "integers")
    span = new.decided.integers if new.decided else None
    if not deepest or not span or image.levels is not None or span[0] < 0:
        return
    usual = deepest[int((1 - _FEW) * (len(deepest) - 1))]
    bits = next((bits for bits in DEPTHS if usual < 2**bits), None)
    if bits and 2**bits - 1 < span[1]:
        deep = sum(high >= 2**bits for high in deepest)
        log.warning(
            "levels      %s of them need only %d bits and are dark beside %s deeper: if those are wrong, set "
            "`image: {levels: %d}`", f"{len(deepest) - deep:,}", bits, f"{deep:,}", bits,
        )  # fmt: skip


def _new(before: Decided, now: Decided) -> Decided:
    """Return what was not decided before."""
    return Decided(**{name: value for name, value in vars(now).items() if value != getattr(before, name)})
