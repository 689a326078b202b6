"""Catalog: the source's files and the facts from reading them become one row per image ever seen."""

import logging
from collections.abc import Sequence
from threading import Thread

import numpy as np
import pyarrow.parquet as pq
from duckdb import DuckDBPyConnection
from numpy.typing import NDArray
from prefect import task
from upath import UPath

from resnet_core.catalog import build, corrections, entries, history, near_duplicates, placing, queries, ties
from resnet_core.catalog.build import FACTS, SLICED
from resnet_core.catalog.near_duplicates import Candidates, copy_of, look_alike
from resnet_core.catalog.placement import Placement, placement
from resnet_core.catalog.ties import CLOSE, NO_PAIRS, Pairs
from resnet_core.errors import UserError, plural
from resnet_core.evaluation.decide import class_recalls
from resnet_core.reading.pool import end_idle
from resnet_core.shards.encryption import Keys
from resnet_core.storage import database
from resnet_core.storage.digest import table_digest
from resnet_core.storage.files import as_local
from tasks.dataset import Dataset
from tasks.ingest import again, classes
from tasks.ingest.layout import remaining
from tasks.ingest.levels import decision_text
from tasks.ingest.pixels import read_facts, read_rows
from tasks.ingest.placement import lines
from tasks.progress import progress
from tasks.store import (
    CATALOG_LEVELS,
    CATALOG_SIZE,
    CATALOG_VERSION,
    LOOK_ALIKES_SOUGHT,
    SPLIT_GENERATION,
    SPLITS_READ,
)
from tasks.values import Catalog, Scan
from tasks.workspace import Workspace

log = logging.getLogger("grayline")

# Columns that are not content: a file's place in the cache and its time.
_NO_CONTENT = ["modified", "part"]
_PIXEL_BYTES = 64 * 1024**2  # of images whose pixels are compared, in memory at a time
_PAIRS_AT_ONCE = 1024
_AROUND = 8  # candidates of an image that may be tied; from 5 equally close ones on, it is not


@task
def write_catalog(scan: Scan, dataset: Dataset, here: Workspace) -> Catalog:
    """Give every image its status and its split; write the catalog, and its next version if anything has changed.

    Raises UserError if fewer than two classes are left.
    """
    # The readers are done, and each holds 45 MiB. Ending them takes a while, so a thread does it.
    Thread(target=end_idle).start()
    path, versions = here.store.catalog(dataset.name), here.store.history(dataset.name)
    generation = len(again.beginnings(versions))
    with database.database() as db:
        before = load_catalog(db, path)
        _load_scan(db, scan, here.keys)
        _correct(db, scan)
        build.judge(db, dataset.smallest_side)
        classes.set_aside(db, dataset)
        placed = _place(db, scan, dataset, here, generation)
        if spellings := entries.fold_labels(db, "finished"):  # of images that are gone, by an older release
            log.info("ingest      labels of earlier nights now have no blanks around them: %s", ", ".join(spellings))
        names = queries.classes(db)
        _check_evaluation(db, dataset, names, placed)
        version = history.append(db, versions, before)
        last = notes_of(path)
        notes = {
            CATALOG_VERSION: str(version), SPLIT_GENERATION: str(generation), CATALOG_LEVELS: decision_text(scan.image),
            LOOK_ALIKES_SOUGHT: str(dataset.split.near_duplicates), CATALOG_SIZE: str(scan.image.size),
            SPLITS_READ: ",".join(scan.given) or last.get(SPLITS_READ, ""),
        }  # fmt: skip
        again.keep_notes(versions, notes)
        rows = build.finished_rows(db)
        if notes != last or queries.has_changed(db) or not set(build.CATALOG.names) <= _columns(path):
            rows = database.write_through(rows, path, notes)
        digest = table_digest(some.drop_columns(_NO_CONTENT) for some in rows)
        history.compact(versions)
        counts, foreign = queries.counts(db), queries.count_foreign(db)
    statuses = ("ok", "duplicate", "quarantined", "unlabelled", "waiting")
    ok, duplicate, quarantined, unlabelled, waiting = (counts.get(status, (0, 0))[0] for status in statuses)
    near, read = sum(near for _, near in counts.values()), sum(part.count for part in scan.unread)
    written = Catalog(
        scan.dataset, scan.image, path, digest, version, names, ok, duplicate, quarantined, near, read, foreign,
        scan.ignored, placed, unlabelled, waiting,
    )  # fmt: skip
    log.info(
        "ingest      %s of %s: %s; %s read now, %s known from before",
        plural(written.images, "image"), plural(len(names), "class", "classes"), written.by_status(),
        f"{read:,}", f"{scan.count - read - unlabelled:,}",
    )  # fmt: skip
    for line in lines(placed):
        log.info("split       %s", line)
    scan.entries.parent.fs.rm(scan.entries.parent.path, recursive=True)
    return written


def load_catalog(db: DuckDBPyConnection, path: UPath, columns: Sequence[str] = ("*",)) -> int:
    """Make `previous`, the last night's catalog, empty before the first night. Returns its version.

    Columns that are not named stay null.
    """
    if not path.exists():
        entries.load_previous(db, None)
        return 0
    with as_local(path) as file:
        entries.load_previous(db, file, columns)
        return int(pq.read_schema(file).metadata[CATALOG_VERSION.encode()])


def _columns(path: UPath) -> set[str]:
    """Return the names of the catalog's columns: one of another release may lack some."""
    with path.open("rb") as file:
        return set(pq.read_schema(file).names)


def notes_of(path: UPath) -> dict[str, str]:
    """Return the metadata of the catalog file, empty before the first night."""
    if not path.exists():
        return {}
    with path.open("rb") as file:
        return {key.decode(): text.decode() for key, text in (pq.read_schema(file).metadata or {}).items()}


def _load_scan(db: DuckDBPyConnection, scan: Scan, keys: Keys | None) -> None:
    """Make the tables `entries` and `facts`."""
    with as_local(scan.entries) as file:
        parts = entries.load_entries(db, file)
    database.create(db, "facts", FACTS, (read_facts(scan.pixels / part, keys) for part in parts))


def _correct(db: DuckDBPyConnection, scan: Scan) -> None:
    """Make the table `corrections`, and let it change the labels of `entries`."""
    if scan.corrections is None:
        corrections.load_corrections(db, None)
        return
    with as_local(scan.corrections) as file:
        corrections.load_corrections(db, file)
    found = corrections.correct(db)
    log.info(
        "corrections %s labelled by people, %s of them from elsewhere; %s not found",
        plural(found["corrected"], "image"), f"{found['added']:,}", f"{found['lost']:,}",
    )  # fmt: skip


def _place(db: DuckDBPyConnection, scan: Scan, dataset: Dataset, here: Workspace, generation: int) -> Placement:
    """Make `finished`: ties, splits, and held-out images that look like training images. Say what is where."""
    path, size = here.store.catalog(dataset.name), scan.image.size
    notes = notes_of(path)
    config = remaining(dataset.split, scan.given)
    anew = bool(notes) and generation > int(notes.get(SPLIT_GENERATION, "0"))
    if anew:
        log.warning("split       begins anew, with generation %d of the hash", generation)
    if back := queries.left_out(db):
        log.warning("split       %s back that an earlier release left out for looking alike", plural(back, "image"))
    # Earlier releases, and nights without `near_duplicates`, have measured none.
    sought = notes.get(LOOK_ALIKES_SOUGHT) == str(True) and "crowded" in _columns(path)
    build.make_images(db, again=anew, search=not sought or not config.near_duplicates)
    pairs = around = NO_PAIRS
    if config.near_duplicates and queries.has_new_images(db):
        pairs, around = _find_near(db, scan, size, here.keys)
    if scan.given and (moved := build.count_moved(db)):
        log.warning(
            "split       %s images of earlier nights change sides, as the source's names say: the champion has seen "
            "some of the test images. A column `split` of the labels can keep the sides", f"{moved:,}",
        )  # fmt: skip
    most = look_alike(size)
    placing.place(db, config, again.seed_of(config.seed, generation), pairs, most, around)
    classes.set_aside_unlearnable(db, dataset)
    placing.measure(db, around, most)
    build.finish(db, again=anew)
    return placement(db, config.test, copy_of(most) if config.near_duplicates else None)


def _find_near(db: DuckDBPyConnection, scan: Scan, size: int, keys: Keys | None) -> tuple[Pairs, Pairs]:
    """Return pairs of alike images, one of them a new one, by their places, and the pairs around them.

    A new image has few pairs, however crowded its place is. So a second search takes the images that would be tied.
    """
    hashes, new = build.hashes(db)
    pairs = _compare(db, near_duplicates.candidates(hashes, new), scan, size, keys)
    suspect = np.zeros(len(new), np.bool_)
    suspect[ties.suspects(pairs, look_alike(size))] = True
    if not suspect.any():
        return pairs, pairs
    more = near_duplicates.candidates(hashes, suspect, _AROUND)
    return pairs, pairs.joined(_compare(db, more, scan, size, keys))


def _compare(db: DuckDBPyConnection, found: Candidates, scan: Scan, size: int, keys: Keys | None) -> Pairs:
    """Return the candidates with the residuals of their pixels, as far as `ties` counts them."""
    pairs = np.stack([found.left, found.right], axis=1)
    if not len(pairs):
        return NO_PAIRS
    places = np.unique(pairs)
    where = build.pixel_rows(db, places)
    parts = where["part"].combine_chunks().dictionary_encode()
    part, row = parts.indices.to_numpy(), where["row"].to_numpy()
    pairs = np.searchsorted(places, pairs)
    pairs = pairs[np.lexsort((part[pairs[:, 1]], part[pairs[:, 0]]))]
    shares: list[NDArray[np.float32]] = []
    with progress("near", len(pairs), "pairs") as advance:
        for start in range(0, len(pairs), most := max(1, _PIXEL_BYTES // (2 * size * size))):
            some = pairs[start : start + most]
            images, place = np.unique(some, return_inverse=True)
            left, right = place.reshape(some.shape).T
            pixels = np.empty((len(images), size, size), np.uint8)
            for number in np.unique(part[images]):
                here = np.flatnonzero(part[images] == number)
                path = scan.pixels / parts.dictionary[int(number)].as_py()
                pixels[here] = read_rows(path, row[images[here]], size, keys)
            for first in range(0, len(some), _PAIRS_AT_ONCE):
                block = slice(first, first + _PAIRS_AT_ONCE)
                shares.append(near_duplicates.residuals(pixels[left[block]], pixels[right[block]]))
                advance(len(shares[-1]))
    left, right = places[pairs].T
    alike = Pairs(left, right, np.concatenate(shares))
    return alike.where(alike.residual <= CLOSE * look_alike(size))


def _check_evaluation(db: DuckDBPyConnection, dataset: Dataset, names: tuple[str, ...], placed: Placement) -> None:
    """Raises UserError for a class or a column that the evaluation needs and the data lack. So it ends hours before
    that would matter.
    """
    columns = list(SLICED)
    if not set(dataset.evaluate.slices) <= set(columns):
        columns += queries.attributes(db)
    try:
        dataset.evaluate.check(names, columns)
        class_recalls(dataset.gate.recall, names, "gate.recall")
    except UserError as error:
        waiting = ", ".join(repr(each.label) for each in placed.classes if each.waiting)
        more = f" These classes wait for more images (`minimum_images`): {waiting}." if waiting else ""
        raise UserError(f"data set file of {dataset.name}: {error}{more}") from None
