"""Ingest and preprocess by the night's own stages, without a flow: for `init`, notebooks and benchmarks."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tasks.dataset import Dataset
from tasks.ingest.catalog import write_catalog
from tasks.ingest.levels import decide_levels
from tasks.ingest.pixels import read_part
from tasks.ingest.preprocess import finish_shards, plan_shards, write_shard
from tasks.ingest.scan import scan
from tasks.parts import Part
from tasks.progress import progress
from tasks.values import Catalog, Scan, ShardSet
from tasks.workspace import Workspace

_READERS = 2  # threads, each with a reader process


def ingest_alone(dataset: Dataset, here: Workspace) -> Catalog:
    """Bring the catalog up to date. Raises UserError as the night's own stages do."""
    found = scan.fn(dataset, here)
    _read(found, found.unread, here)
    found, again = decide_levels.fn(found, dataset, here)
    _read(found, again, here)
    return write_catalog.fn(found, dataset, here)


def _read(source: Scan, parts: Sequence[Part], here: Workspace) -> None:
    def read(part: Part) -> int:
        read_part.fn(part, source.image, here.limits, here.keys)
        return part.count

    with ThreadPoolExecutor(_READERS) as pool, progress("ingest", sum(part.count for part in parts)) as advance:
        for count in pool.map(read, parts):
            advance(count)


def shards_alone(catalog: Catalog, dataset: Dataset, here: Workspace) -> ShardSet:
    """Write the shards that are not there yet."""
    plans = plan_shards.fn(catalog, dataset, here)
    with ThreadPoolExecutor(_READERS) as pool:
        written = sum(pool.map(lambda plan: write_shard.fn(plan, catalog, here.keys), plans))
    return finish_shards.fn(plans, written, catalog, dataset)
