"""Questions to a catalog: to `finished`, the new one in the database, or to a catalog file.

`resnet_core.catalog.build` has the table of all tables.
"""

from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from duckdb import DuckDBPyConnection
from upath import UPath

from resnet_core.catalog.build import CATALOG
from resnet_core.reasons import ReasonCode
from resnet_core.storage import database

GOOD = pc.field("present") & (pc.field("status") == "ok")  # images to learn from, or held out

_COUNTS = "select status, count(*), count(near) from finished where present group by status"
_CLASSES = "select distinct label from finished where present and status = 'ok' order by label"
_ATTRIBUTES = """
select distinct unnest(json_keys(attributes)) as name from finished where attributes is not null order by name
"""
_REASONS = """
select reason_code, count(*) from finished where present and status = 'quarantined'
group by 1 order by 2 desc limit 3
"""
_SAMPLES = """
select label, part, uri from catalog where present and status = 'ok'
qualify row_number() over (partition by label order by image_id) <= $images
    and dense_rank() over (order by label) <= $classes
order by label, image_id
"""
# Equal bytes under two labels, and near-duplicates under two labels.
_CONFLICTS = f"""
with pairs as (
    select a.label, a.part, a.uri, b.label, b.part, b.uri from catalog a join catalog b on a.image_id = b.image_id
    where a.present and b.present and a.label < b.label
        and a.reason_code = '{ReasonCode.LABEL_CONFLICT}' and b.reason_code = '{ReasonCode.LABEL_CONFLICT}'
    qualify row_number() over (partition by a.image_id order by a.uri, b.uri) = 1
    union all
    select a.label, a.part, a.uri, b.label, b.part, b.uri from catalog a join catalog b on a.near = b.image_id
    where a.present and b.present and a.status <> 'quarantined' and b.status = 'ok' and a.label <> b.label
)
select * from pairs order by 3, 6 limit $most
"""


class Place(NamedTuple):
    """An image's label, the part that has its pixels, and its URI there."""

    label: str
    part: str
    uri: str


def has_new_images(db: DuckDBPyConnection) -> bool:
    """Return whether `images` has any that no earlier night had."""
    return database.count(db, "select count(*) from images where not elder") > 0


def has_changed(db: DuckDBPyConnection) -> bool:
    """Return whether `finished` has a row that `previous` lacks."""
    return database.count(db, "select count(*) from (from finished except from previous)") > 0


def counts(db: DuckDBPyConnection) -> dict[str, tuple[int, int]]:
    """Return, by status, the number of `finished` images in the source and of those with a near-duplicate."""
    return {status: (images, near) for status, images, near in db.sql(_COUNTS).fetchall()}


def count_foreign(db: DuckDBPyConnection) -> int:
    """Return the number of `finished` files that are not images by their first bytes."""
    query = f"select count(*) from finished where present and reason_code = '{ReasonCode.NOT_AN_IMAGE}'"
    return database.count(db, query)


def classes(db: DuckDBPyConnection) -> tuple[str, ...]:
    """Return the labels of the good images of `finished`, sorted."""
    return tuple(label for (label,) in db.sql(_CLASSES).fetchall())


def attributes(db: DuckDBPyConnection) -> list[str]:
    """Return the names of all attributes in `finished`, sorted."""
    return [name for (name,) in db.sql(_ATTRIBUTES).fetchall()]


def frequent_reasons(db: DuckDBPyConnection) -> list[tuple[str, int]]:
    """Return the three most frequent reason codes in quarantine, with the number of images."""
    return db.sql(_REASONS).fetchall()


def load(db: DuckDBPyConnection, path: UPath) -> None:
    """Make `catalog` from a catalog file."""
    with path.open("rb") as file:
        database.create(db, "catalog", CATALOG, pq.ParquetFile(file).iter_batches())


def good_images(path: UPath, columns: list[str], only: pc.Expression | None = None) -> pa.Table:
    """Read columns of a catalog file's good images, in its order. only: a further condition."""
    with path.open("rb") as file:
        return pq.read_table(file, columns=columns, filters=GOOD if only is None else GOOD & only)


def present(db: DuckDBPyConnection, columns: list[str], changes: pa.Table | None = None) -> Iterator[pa.Table]:
    """Yield columns of the images in the source, in pieces. changes: only those that came or changed by it."""
    query = f"select {', '.join(columns)} from catalog where present"
    if changes is None:
        yield from database.pieces(db, query, database.BATCH_ROWS)
        return
    db.register("changes", changes)
    query += " and uri in (select uri from changes where change in ('came', 'changed'))"
    yield from database.pieces(db, query, database.BATCH_ROWS)
    db.unregister("changes")


def samples(db: DuckDBPyConnection, images: int, classes: int) -> list[Place]:
    """Return up to `images` good images of each of the first `classes` classes."""
    rows = db.sql(_SAMPLES, params={"images": images, "classes": classes}).fetchall()
    return [Place(*row) for row in rows]


def conflicts(db: DuckDBPyConnection, most: int) -> list[tuple[Place, Place]]:
    """Return up to `most` pairs of the same picture under two labels."""
    rows = db.sql(_CONFLICTS, params={"most": most}).fetchall()
    return [(Place(*row[:3]), Place(*row[3:])) for row in rows]
