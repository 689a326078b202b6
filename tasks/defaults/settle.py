"""Settle: choose values for the keys that are `auto`, once, and keep them until the images are others.

The size is kept in the catalog's metadata: it never changes by itself, for every image would be read again. The other
values are kept in the catalog's history. They are chosen again when the images have grown or shrunk by half.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from duckdb import DuckDBPyConnection
from numpy.typing import NDArray
from upath import UPath

from resnet_core.device import find_device
from resnet_core.model.inputs import Flips
from resnet_core.reading.pool import read_files
from resnet_core.shards import format as shards
from resnet_core.storage.digest import digest_of
from resnet_core.storage.files import DamagedFileError, read_json, write_text
from resnet_core.training.rate import training_rate
from tasks.dataset import Dataset
from tasks.defaults.rules import RULES, Choice, Facts, are_directed, choose, choose_size
from tasks.store import CATALOG_SIZE, CHOSEN
from tasks.values import ShardSet
from tasks.workspace import Workspace

Sample = tuple[NDArray[np.uint8], NDArray[np.int64]]  # pixels [N, S, S] and labels [N]

log = logging.getLogger("grayline")

_FIXED_SIZE = 96  # px, of earlier releases
_SIDES = 64  # files whose sides are read
_MIRRORED = 1000  # images from which mirrors are learned
_GROWN = 1.5  # times as many images of all, or of the smallest class: the values are chosen again


# ---- the size, before the first image is read
def settle_size(dataset: Dataset, db: DuckDBPyConnection, notes: Mapping[str, str], here: Workspace) -> tuple[int, str]:
    """Return the side to store: the file's, or that of earlier nights, or one that fits the listed files.

    Also return what to say of it, which may be nothing.

    notes: of the catalog; empty before the first night. Reads `listed`.
    """
    if "image.size" not in dataset.auto:
        return dataset.image.size, ""
    if notes:
        return _kept_size(dataset, int(notes.get(CATALOG_SIZE, _FIXED_SIZE)), here)
    files = db.table("listed").filter("not coalesce(ignored, false) and size is not null")
    sample = files.order("hash(uri)").limit(_SIDES).to_arrow_table()
    if not len(sample):
        return dataset.image.size, ""  # no file is there: the scan says it
    read = read_files(sample, dataset.image, here.limits)
    size, why = choose_size(len(files), _median_side(read["width"], read["height"]))
    return size, f"image size {size} px ({why}); `image: {{size: ...}}` changes it"


def _median_side(width: Any, height: Any) -> int:
    """Return the median of the shorter sides of two columns; LARGE pixels if none is known."""
    sides = np.minimum(*(column.drop_null().to_numpy() for column in (width, height)))
    return int(np.median(sides)) if len(sides) else _FIXED_SIZE


def _kept_size(dataset: Dataset, kept: int, here: Workspace) -> tuple[int, str]:
    """Return the size of earlier nights, and whether today's images would have another one."""
    with here.store.catalog(dataset.name).open("rb") as file:
        known = pq.read_table(file, columns=["width", "height"])
    size, why = choose_size(len(known), _median_side(known["width"], known["height"]))
    if size == kept:
        return kept, ""
    return kept, (
        f"image size stays {kept} px, as in earlier nights; for today's images it would be {size} px ({why}): "
        f"`image: {{size: {size}}}` changes it"
    )


# ---- everything else, before a training
@dataclass(frozen=True)
class _Kept:
    """The values of an earlier night, and what they were chosen for."""

    asked: str
    counts: dict[str, int]
    values: dict[str, Any]
    reasons: dict[str, str]
    since: str

    def suits(self, asked: str, counts: Mapping[str, int]) -> bool:
        if self.asked != asked or self.counts.keys() != counts.keys():
            return False
        pairs = [(sum(self.counts.values()), sum(counts.values())), (min(self.counts.values()), min(counts.values()))]
        return all(then <= _GROWN * now and now <= _GROWN * then for then, now in pairs)


def settle(shard_set: ShardSet, dataset: Dataset, here: Workspace) -> Dataset:
    """Return the data set with a value for every key, chosen now or by an earlier night. Print them."""
    if not dataset.auto:
        return dataset
    size, path = shard_set.preprocessing.size, here.store.history(dataset.name) / CHOSEN
    plain = replace(dataset.train, seed=0, start="scratch")
    asked = digest_of(
        RULES, dataset.model, plain, sorted(dataset.auto), size, shard_set.classes, find_device(here.device).type
    )
    labels = _labels(shard_set, here)
    counts = {name: int((labels == number).sum()) for number, name in enumerate(shard_set.classes)}
    kept = _read(path)
    if kept and kept.suits(asked, counts):
        choice, when = Choice(kept.values, kept.reasons), f", as chosen on {kept.since}"
    else:
        choice, when = choose_for(dataset, counts, size, lambda: _sample(shard_set, labels, here), here), ""
        today = datetime.now(UTC).date().isoformat()
        entry = {"asked": asked, "counts": counts, "values": choice.values, "reasons": choice.reasons, "since": today}
        write_text(path, json.dumps(entry, indent=2, ensure_ascii=False) + "\n")
        if kept and (changed := _changes(kept.values, choice.values)):
            log.warning("settings    chosen again, for the images or the data set file have changed: %s", changed)
    log.info("settings    %s%s", choice, when)
    return dataset.settled(choice.values | {"image.size": size}, f"{choice}{when}")


def _labels(shard_set: ShardSet, here: Workspace) -> NDArray[np.int64]:
    """Return the training images' places in the class names, int64 [N]."""
    column = shards.read_facts(shard_set.files, ["label"], ["train"], here.keys)["label"].to_numpy()
    order = {name: number for number, name in enumerate(shard_set.classes)}
    return np.array([order[name] for name in column], np.int64)


def choose_for(
    dataset: Dataset, counts: Mapping[str, int], size: int, sample: Callable[[], Sample], here: Workspace
) -> Choice:
    """Choose for so many training images of each class. sample: some of them, asked for if mirrors are learned."""
    device, classes = find_device(here.device), tuple(counts)

    @cache
    def rate(width: int, batch: int) -> float:
        if "train.epochs" not in dataset.auto:
            return 0.0  # nothing depends on it
        return training_rate(
            replace(dataset.model, width=width), replace(dataset.train, batch_size=batch), size, len(classes), device
        )

    flips, why = _learned_flips(sample, classes) if "train.augment.flips" in dataset.auto else ("none", "")
    facts = Facts(sum(counts.values()), len(counts), min(counts.values()), max(counts.values()), size, flips, why)
    more = {f"train.{name}": getattr(dataset.train, name) for name in ("minutes", "class_weights")}
    return choose(facts, dataset.given() | more, rate)


def _sample(shard_set: ShardSet, labels: NDArray[np.int64], here: Workspace) -> Sample:
    """Return some training images, as many of each class if there are enough."""
    each = max(8, _MIRRORED // len(shard_set.classes))
    rng = np.random.default_rng(0)
    by_class = [rng.permutation(np.flatnonzero(labels == label))[:each] for label in np.unique(labels)]
    places = np.sort(rng.permutation(np.concatenate(by_class))[: 2 * _MIRRORED])
    return shards.take(shard_set.files, "train", places, here.keys), labels[places]


def _learned_flips(sample: Callable[[], Sample], classes: tuple[str, ...]) -> tuple[Flips, str]:
    """Return the mirrors that keep the classes, and why. The labels are places in `classes`."""
    if are_directed(classes):
        return "none", "names of classes are letters, digits or sides"
    from resnet_core.evaluation.mirrors import learn_mirrors

    found = learn_mirrors(*sample(), classes)
    return found.flips, found.why


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return ", ".join(f"{key} {before.get(key, 'not chosen')} to {now.get(key, 'not chosen')}" for key in changed)


def _read(path: UPath) -> _Kept | None:
    try:
        return _Kept(**read_json(path)) if path.exists() else None
    except (DamagedFileError, TypeError) as error:
        log.warning("settings    %s cannot be used (%s): the values are chosen again", path, error)
        return None
