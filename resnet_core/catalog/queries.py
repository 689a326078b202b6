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
select why_code, count(*) from rows where status = 'quarantined' group by 1 order by 2 desc, 1 limit 3
"""
_SIZES = """
select label, count(*), bool_and(fixed is not null) as fixed,
    bool_and(fixed is not null) or (count(*) filter (split = 'train') > 0 and count(*) filter (split = 'test') > 0),
    label in (select label from previous where present and status = 'waiting')
from (select image_id, label, fixed from rows where status = 'ok') left join (
    select image_id, min(split) as split from previous where status in ('ok', 'duplicate') group by image_id
) using (image_id)
group by label order by label
"""
_UNLEARNABLE = """
select label, count(*), count(distinct unit), bool_and(fixed is not null), bool_and(grouped) from placed
group by label having count(*) filter (split = 'train') = 0 order by label
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


_LOOK_ALIKES = """
select a.label, a.part, a.uri, b.label, b.part, b.uri, a.residual
from catalog a join catalog b on a.look_alike = b.image_id
where a.present and b.present and a.status = 'ok' and b.status = 'ok' and a.split = 'test'
order by a.residual, a.uri limit $most
"""


class Place(NamedTuple):
    """An image's label, the part that has its pixels, and its URI there."""

    label: str
    part: str
    uri: str


class ClassSize(NamedTuple):
    """A class and its good images. `fixed`: the labels give all of them a split.

    `stays`: that, or earlier nights have put images of it into training and test. `waited`: the last night set some
    of it aside.
    """

    label: str
    images: int
    fixed: bool
    stays: bool
    waited: bool


def class_sizes(db: DuckDBPyConnection) -> list[ClassSize]:
    """Return the classes of the good `rows`, sorted by label."""
    return [ClassSize(*row) for row in db.sql(_SIZES).fetchall()]


def soft_labels(db: DuckDBPyConnection) -> list[str]:
    """Return the different soft labels of the good `rows`."""
    query = "select distinct soft_label from rows where status = 'ok' and soft_label is not null order by 1"
    return [text for (text,) in db.sql(query).fetchall()]


def unlearnable(db: DuckDBPyConnection) -> dict[str, str]:
    """Return the classes without a training image in `placed`, and what has put them elsewhere."""
    found = {}
    for label, images, groups, fixed, grouped in db.sql(_UNLEARNABLE).fetchall():
        if fixed:
            found[label] = f"the labels put its images ({images:,}) elsewhere"
        elif grouped:
            found[label] = f"its groups ({groups:,}) are held out"
        else:
            found[label] = f"earlier nights hold its images ({images:,}) out"
    return found


def left_out(db: DuckDBPyConnection) -> int:
    """Return the number of good `rows` that the last night left out for looking like another image."""
    return database.count(
        db,
        "select count(*) from rows where status = 'ok' and (uri, image_id) in (select uri, image_id from previous "
        f"where present and reason_code = '{ReasonCode.NEAR_DUPLICATE}')",
    )


def held_out(db: DuckDBPyConnection) -> tuple[int, bool, bool, bool]:
    """Return the number of test images in `placed`, and what placed them.

    That is whether labels have placed all, whether earlier nights have, and whether there are groups.
    """
    query = (
        "select count(*) filter (split = 'test'), bool_and(fixed is not null), not bool_or(free), bool_or(grouped) "
        "from placed"
    )
    test, fixed, placed, grouped = db.sql(query).fetchall()[0]
    return test, fixed, placed, grouped


def placed_classes(db: DuckDBPyConnection) -> int:
    """Return the number of classes in `placed`."""
    return database.count(db, "select count(distinct label) from placed")


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
    """Return the three most frequent reason codes of `rows` in quarantine, with the number of images."""
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


def look_alikes(db: DuckDBPyConnection, most: int) -> list[tuple[Place, Place, float]]:
    """Return up to `most` test images with the training image that they look like, and how far they differ."""
    rows = db.sql(_LOOK_ALIKES, params={"most": most}).fetchall()
    return [(Place(*row[:3]), Place(*row[3:6]), row[6]) for row in rows]
