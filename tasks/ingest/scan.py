"""Scan: list the source, and find the files that no earlier night has read."""

import logging
from collections.abc import Collection
from dataclasses import replace

import pyarrow as pa
from duckdb import DuckDBPyConnection
from prefect import task
from upath import UPath

from resnet_core.annotations.exports import read_labels
from resnet_core.catalog import corrections, entries
from resnet_core.catalog.entries import ASSIGNED
from resnet_core.errors import UserError, some_of
from resnet_core.policy import more_roots
from resnet_core.reading import pool as reading
from resnet_core.sources.listing import NO_LABELS
from resnet_core.sources.manifest import LISTED, list_manifest
from resnet_core.sources.source import check_source, list_source, source_kind
from resnet_core.storage import database
from resnet_core.storage.files import to_path, write_whole
from resnet_core.storage.matching import Places
from tasks.dataset import Dataset
from tasks.defaults.settle import settle_size
from tasks.ingest.again import heal_catalog
from tasks.ingest.catalog import load_catalog, notes_of
from tasks.ingest.layout import find_splits
from tasks.ingest.levels import with_decision
from tasks.ingest.pixels import pixel_folder, whole_parts
from tasks.parts import COLUMNS, Part, make_parts, part_size
from tasks.progress import counted
from tasks.store import CORRECTIONS, ENTRIES, SPLITS_READ, UNREAD
from tasks.values import Scan
from tasks.workspace import Workspace, ask_for, of_night

log = logging.getLogger("grayline")

_SHOWN = 5  # classes in a message


@task
def scan(dataset: Dataset, here: Workspace) -> Scan:
    """List the source, join the labels, and find unread files.

    Raises UserError for a source that is missing, empty, or of fewer than two classes.
    """
    check_source(dataset.source)
    reading.start()  # most nights bring something new
    heal_catalog(dataset.name, here)
    notes = notes_of(here.store.catalog(dataset.name))
    with database.database() as db, more_roots(dataset.manifest_roots):
        ignored, given = list_files(db, dataset, here.store.own_places(), decided=bool(notes.get(SPLITS_READ)))
        size, said = settle_size(dataset, db, notes, here)
        image = with_decision(replace(dataset.image, size=size), here.store.catalog(dataset.name))
        pixels = pixel_folder(dataset, image, here)
        there = whole_parts(pixels, here.keys)
        if not there and pixels.parent.exists():
            log.info("ingest      the cached pixels are by other settings or code: every file is read again")
        if dataset.corrections:
            _say_spellings(corrections.list_corrected(db, dataset.corrections, dataset.source, dataset.annotators))
        load_catalog(db, here.store.catalog(dataset.name), entries.KNOWN_BY)
        entries.make_entries(db, there)
        _check_entries(db, dataset)
        if said:
            log.info("settings    %s", said)
        work = here.store.begin_work(dataset.name)
        count, unread = entries.count_entries(db)
        ask_for(here.store.root, of_night(unread, image.size, dataset.model), dataset.name)
        listing = work / UNREAD
        parts = make_parts(entries.unread(db, COLUMNS, part_size(unread)), listing, pixels)
        with write_whole(work / ENTRIES) as draft:
            entries.write_entries(db, (_assigned(part) for part in parts), draft)
        corrected = _write_corrections(db, work) if dataset.corrections else None
    return Scan(dataset.name, image, pixels, work / ENTRIES, count, parts, corrected, ignored, given)


def _write_corrections(db: DuckDBPyConnection, work: UPath) -> UPath:
    path = work / CORRECTIONS
    with write_whole(path) as draft:
        corrections.write_corrections(db, draft)
    return path


def _assigned(part: Part) -> pa.RecordBatch:
    """Return the part of each of its files: ASSIGNED."""
    names = pa.array([part.path.name] * part.count, pa.string())
    return pa.RecordBatch.from_arrays([part.files()["uri"].combine_chunks(), names], schema=ASSIGNED)


def list_files(
    db: DuckDBPyConnection, dataset: Dataset, own: Collection[str], *, decided: bool = False
) -> tuple[int, tuple[str, ...]]:
    """Make the table `listed`: a row per file of the source, or of its labels. Raises UserError.

    Returns the number of ignored files, and the splits that the source gives. own: places that are left out.
    """
    kind = source_kind(dataset.source)
    if kind == "shards":
        raise UserError(f"{dataset.source}: holds shards, which were made of images. Name those as `source:`.")
    own_labels = NO_LABELS if dataset.labels else dataset.label_column
    if kind == "manifest":
        database.create(db, "listed", LISTED, list_manifest(to_path(dataset.source), dataset.label_column))
    else:
        database.create(db, "listed", LISTED, counted("scan", list_source(dataset.source, own, own_labels)))
        if not entries.count_listed(db):
            raise UserError(f"{dataset.source}: holds no images. Fill it, or correct `source:`.")
    ignored = database.count(db, "select count(*) from listed where ignored")
    if kind != "manifest" and dataset.labels:
        _join_labels(db, dataset, dataset.labels)
    given = find_splits(db, dataset.source, kind, dataset.split, labelled=dataset.labels is not None, decided=decided)
    _say_spellings(entries.fold_labels(db, "listed"))
    return ignored, given


def _join_labels(db: DuckDBPyConnection, dataset: Dataset, table: str) -> None:
    """Join the labels to `listed`. Raises UserError if none of their paths names a file, or one names several."""
    labels = read_labels(to_path(table), dataset.label_column, dataset.annotators)
    try:
        lines = entries.join_labels(db, labels.rows, Places.of(dataset.source, table), named=labels.named)
    except UserError as error:
        raise UserError(f"{table}: {error}") from None
    for line in lines:
        log.warning("labels      %s: %s", table, line)


def _say_spellings(spellings: dict[str, list[str]]) -> None:
    """Name the spellings of labels that are one class: outer blanks and the Unicode form do not count."""
    if spellings:
        texts = [f"{' and '.join(map(ascii, written))} as {label!r}" for label, written in spellings.items()]
        log.info("labels      read %s: blanks around and the Unicode form do not count", some_of(texts, _SHOWN))


def _check_entries(db: DuckDBPyConnection, dataset: Dataset) -> None:
    for spellings in entries.labels_alike(db)[:_SHOWN]:
        by_case = len({label.casefold() for label in spellings}) == 1
        what = "case" if by_case else "blanks, quotation marks, unseen characters or how a number is written"
        names = " and ".join(map(repr if by_case else ascii, spellings))
        log.warning(
            "labels      %s differ by %s alone, and are different classes. Write them alike if not", names, what
        )
    if void := entries.void_labels(db):
        log.warning("labels      %s is the name of a class. Leave the cell empty if it means that there is none", void)
    classes = entries.first_labels(db, 2)
    if len(classes) < 2:
        names = repr(classes[0]) if classes else "none"
        raise UserError(
            f"{dataset.source}: a classifier needs two classes or more, found {names}. "
            "Put images into one folder a class, or name a table of labels with `labels:`."
        )
    if twice := entries.repeated_uri(db):
        raise UserError(f"{dataset.source}: {twice} is named twice. Keep one row.")
    if not entries.has_files(db):
        raise UserError(f"{dataset.source}: none of its paths is a file. Write them relative to it.")
