"""The flow's own stages up to the shards, without Prefect (`.fn`), and the sample data sets through them."""

import runpy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from upath import UPath

from resnet_core.images.limits import Limits
from tasks.dataset import Dataset, load_dataset
from tasks.ingest.catalog import write_catalog
from tasks.ingest.levels import decide_levels
from tasks.ingest.pixels import read_part
from tasks.ingest.preprocess import finish_shards, plan_shards, write_shard
from tasks.ingest.scan import scan
from tasks.store import Store
from tasks.values import Catalog, ShardSet
from tasks.workspace import Workspace

DATA = Path(__file__).parents[1] / "data"
WORKERS = 2


def write_sample(name: str, folder: Path, labels: str = "labels.csv", settings: str | None = None) -> Dataset:
    """Write a sample data set's images to `folder`; what `data/<settings>.yaml` (by default `data/<name>.yaml`)
    says of them, with the labels of that file."""
    runpy.run_path(str(DATA / "samples" / f"{name}.py"))["make"](folder)
    wanted = load_dataset(DATA / f"{settings or name}.yaml")
    return wanted.model_copy(update={"source": str(folder), "labels": str(folder / labels)})


def place(store: UPath, resident_bytes: int = 2 * 1024**3) -> Workspace:
    """Return a workspace without MLflow."""
    return Workspace(Store(store), "", "auto", Limits(), "threads", resident_bytes)


def preprocess(dataset: Dataset, store: UPath) -> ShardSet:
    """Run the flow's stages up to `preprocess`."""
    return catalog_and_shards(dataset, store)[1]


def catalog_and_shards(dataset: Dataset, store: UPath) -> tuple[Catalog, ShardSet]:
    here = place(store)
    found = scan.fn(dataset, here)
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(lambda part: read_part.fn(part, found.image, here.limits), found.unread))
        found, again = decide_levels.fn(found, dataset, here)
        list(pool.map(lambda part: read_part.fn(part, found.image, here.limits), again))
        catalog = write_catalog.fn(found, dataset, here)
        plans = plan_shards.fn(catalog, dataset, here)
        written = sum(pool.map(lambda plan: write_shard.fn(plan, catalog), plans))
    return catalog, finish_shards.fn(plans, written, catalog, dataset)
