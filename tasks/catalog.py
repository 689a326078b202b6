"""Catalog: what the source has and what reading it told become one row an image ever seen."""

import logging

import numpy as np
import pyarrow.parquet as pq
from duckdb import DuckDBPyConnection
from numpy.typing import NDArray
from prefect import task
from upath import UPath

from resnet_core import catalog, database, history, near_duplicates
from resnet_core.catalog import ENTRIES, FACTS, ORDERED
from resnet_core.digest import table_digest
from resnet_core.encryption import Keys
from resnet_core.errors import UserError
from resnet_core.files import as_local
from resnet_core.reading import end_idle
from tasks.catalog_file import VERSION, catalog_path, load_catalog, versions_folder
from tasks.dataset import Dataset
from tasks.pixels import read_facts, read_rows
from tasks.progress import progress
from tasks.values import Catalog, Scan

log = logging.getLogger("grayline")

# Where a file lies in the cache, and when it was touched, does not change what the catalog says.
CONTENT = f"select * exclude (modified, part) from ({ORDERED})"
PIXEL_BYTES = 64 * 1024**2  # of images whose pixels are compared, in memory at a time
PAIRS_AT_ONCE = 1024
Pairs = NDArray[np.int64]
CLASSES = "select distinct label from finished where present and status = 'ok' order by label"
REASONS = """
select split_part(reason, ':', 1), count(*) from finished where present and status = 'quarantined'
group by 1 order by 2 desc limit 3
"""


@task
def write_catalog(scan: Scan, dataset: Dataset, store: UPath, keys: Keys | None = None) -> Catalog:
    """Give every image its status and its split; write the catalog, and its next version when anything
    has changed. Raises UserError when fewer than two classes are left."""
    end_idle()  # the readers have done their work; each holds 120 MiB
    path = catalog_path(store, dataset.name)
    with database.database() as db:
        before = load_catalog(db, store, dataset.name)
        load_scan(db, scan, keys)
        catalog.judge(db, dataset.smallest_side)
        pairs = np.empty((0, 2), np.int64)
        if dataset.split.near_duplicates:
            pairs = find_near(db, scan, dataset.image.size, keys)
        catalog.split_rows(db, dataset.split, pairs)
        check_classes(db, dataset)
        version = history.append(db, versions_folder(store, dataset.name), before)
        if version > before or database.count(db, "select count(*) from (from finished except from old)"):
            database.write_query(db, ORDERED, path, {VERSION: str(version)})
        history.compact(versions_folder(store, dataset.name))
        written = summary(db, scan, path, version)
    log.info(
        "ingest      %s images of %d classes: %s ok, %s duplicate, %s quarantined; %s read now, %s known from before",
        f"{written.ok + written.duplicate + written.quarantined:,}", len(written.classes), f"{written.ok:,}",
        f"{written.duplicate:,}", f"{written.quarantined:,}", f"{written.read:,}", f"{scan.count - written.read:,}",
    )  # fmt: skip
    scan.entries.parent.fs.rm(scan.entries.parent.path, recursive=True)
    return written


def load_scan(db: DuckDBPyConnection, scan: Scan, keys: Keys | None) -> None:
    """Make `entries` and `facts`."""
    database.create(db, "entries", ENTRIES)
    with as_local(scan.entries) as file:
        database.append(db, "entries", pq.ParquetFile(file).iter_batches())
    database.create(db, "facts", FACTS)
    for (name,) in db.sql("select distinct part from entries where part is not null order by part").fetchall():
        database.append(db, "facts", read_facts(scan.pixels / name, keys))


def find_near(db: DuckDBPyConnection, scan: Scan, size: int, keys: Keys | None) -> Pairs:
    """int64 [M, 2]: the places of images that look the same, at least one of each two a new one. Hashes
    find the candidates, the pixels decide."""
    found = near_duplicates.candidates(*catalog.hashes(db))
    pairs = np.stack([found.left, found.right], axis=1)
    if not len(pairs):
        return pairs
    places = np.unique(pairs)
    where = db.sql(
        "select part, row from images where place in (select unnest($places::bigint[])) order by place",
        params={"places": places.tolist()},
    ).to_arrow_table()
    parts = where["part"].combine_chunks().dictionary_encode()
    part, row = parts.indices.to_numpy(), where["row"].to_numpy()
    pairs = np.searchsorted(places, pairs)
    pairs = pairs[np.lexsort((part[pairs[:, 1]], part[pairs[:, 0]]))]
    same = []
    with progress("near", len(pairs), "pairs") as advance:
        for start in range(0, len(pairs), most := max(1, PIXEL_BYTES // (2 * size * size))):
            some = pairs[start : start + most]
            images, place = np.unique(some, return_inverse=True)
            left, right = place.reshape(some.shape).T
            pixels = np.empty((len(images), size, size), np.uint8)
            for number in np.unique(part[images]):
                here = np.flatnonzero(part[images] == number)
                path = scan.pixels / parts.dictionary[int(number)].as_py()
                pixels[here] = read_rows(path, row[images[here]], size, keys)
            for first in range(0, len(some), PAIRS_AT_ONCE):
                block = slice(first, first + PAIRS_AT_ONCE)
                same.append(near_duplicates.confirm(pixels[left[block]], pixels[right[block]]))
                advance(len(same[-1]))
    return places[pairs[np.concatenate(same)]]


def check_classes(db: DuckDBPyConnection, dataset: Dataset) -> None:
    left = [name for (name,) in db.sql(CLASSES).fetchall()]
    if len(left) < 2:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in db.sql(REASONS).fetchall())
        raise UserError(
            f"{dataset.source}: only {', '.join(left) or 'no class'} is left after quarantine ({reasons}). "
            "A classifier needs good images of two classes."
        )


def summary(db: DuckDBPyConnection, scan: Scan, path: UPath, version: int) -> Catalog:
    counts = dict(db.sql("select status, count(*) from finished where present group by all").fetchall())
    return Catalog(
        dataset=scan.dataset,
        path=path,
        digest=table_digest(database.pieces(db, CONTENT, 8192)),
        version=version,
        classes=tuple(name for (name,) in db.sql(CLASSES).fetchall()),
        ok=counts.get("ok", 0),
        duplicate=counts.get("duplicate", 0),
        quarantined=counts.get("quarantined", 0),
        near=database.count(db, "select count(*) from finished where present and near is not null"),
        read=sum(part.count for part in scan.unread),
    )
