"""Evidence: what the data checks look at, out of the catalog, its history and the pixels."""

from dataclasses import dataclass

import pyarrow.parquet as pq
from duckdb import DuckDBPyConnection
from prefect import task
from prefect.cache_policies import NO_CACHE
from upath import UPath

from resnet_core.catalog import history
from resnet_core.catalog.build import CATALOG
from resnet_core.drift import summary as data_summary
from resnet_core.drift.summary import Summary
from resnet_core.images.preprocessing import Gray
from resnet_core.plotting import contact_sheet
from resnet_core.plotting.contact_sheet import ConflictPair
from resnet_core.shards.encryption import Keys
from resnet_core.storage import database
from tasks.dataset import Dataset
from tasks.ingest.pixels import read_pixels
from tasks.store import versions_folder
from tasks.values import Catalog

_PRESENT = f"select {', '.join(data_summary.COLUMNS)} from catalog where present"
_SAMPLED = f"""
select label, part, uri from catalog where present and status = 'ok'
qualify row_number() over (partition by label order by image_id) <= {contact_sheet.SAMPLES}
    and dense_rank() over (order by label) <= {contact_sheet.CLASSES}
order by label, image_id
"""
# The same bytes under two labels, and what looks the same under two labels.
_CONFLICTS = f"""
with pairs as (
    select a.label, a.part, a.uri, b.label, b.part, b.uri from catalog a join catalog b on a.image_id = b.image_id
    where a.present and b.present and a.label < b.label
        and a.reason like 'label conflict%' and b.reason like 'label conflict%'
    qualify row_number() over (partition by a.image_id order by a.uri, b.uri) = 1
    union all
    select a.label, a.part, a.uri, b.label, b.part, b.uri from catalog a join catalog b on a.near = b.image_id
    where a.present and b.present and a.status <> 'quarantined' and b.status = 'ok' and a.label <> b.label
)
select * from pairs order by 3, 6 limit {contact_sheet.PAIRS}
"""


@dataclass(frozen=True)
class _Evidence:
    """`now` sums up tonight's images, `last` those of the last accepted night, `new` those that came
    since."""

    now: Summary
    last: Summary | None
    new: Summary | None
    samples: dict[str, list[Gray]]
    conflicts: list[ConflictPair]


@task(cache_policy=NO_CACHE)
def gather(
    catalog: Catalog,
    accepted: tuple[str, Summary] | None,
    pixels: UPath,
    dataset: Dataset,
    store: UPath,
    keys: Keys | None = None,
) -> _Evidence:
    """accepted: the catalog's version of the last accepted night, and its summary."""
    with database.database() as db:
        with catalog.path.open("rb") as file:
            database.create(db, "catalog", CATALOG, pq.ParquetFile(file).iter_batches())
        new = None
        if accepted:
            changes = history.difference(versions_folder(store, dataset.name), int(accepted[0]), catalog.version)
            db.register("changes", changes)
            new = _summary_of(
                db, f"{_PRESENT} and uri in (select uri from changes where change in ('came', 'changed'))"
            )
            db.unregister("changes")
        now = _summary_of(db, _PRESENT)
        sampled = db.sql(_SAMPLED).fetchall()
        pairs = db.sql(_CONFLICTS).fetchall()
    size = dataset.image.size

    def load(part: str, uri: str) -> Gray:
        image: Gray = read_pixels(pixels / part, [uri], size, keys)[0]
        return image

    samples: dict[str, list[Gray]] = {}
    for label, part, uri in sampled:
        samples.setdefault(label, []).append(load(part, uri))
    conflicts = [ConflictPair(load(p, u), a, u, load(q, v), b, v) for a, p, u, b, q, v in pairs]
    return _Evidence(now, accepted[1] if accepted else None, new, samples, conflicts)


def _summary_of(db: DuckDBPyConnection, query: str) -> Summary:
    total = Summary()
    for piece in database.pieces(db, query, 8192):
        total += data_summary.summarise(piece)
    return total
