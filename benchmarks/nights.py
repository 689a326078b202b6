"""The flow's own stages up to the shards, without Prefect (`.fn`), and the sample data sets through them."""

import runpy
from pathlib import Path

from upath import UPath

from resnet_core.images.limits import Limits
from tasks.dataset import Dataset, load_dataset
from tasks.store import Store
from tasks.survey.alone import ingest_alone, shards_alone
from tasks.values import Catalog, ShardSet
from tasks.workspace import Workspace

DATA = Path(__file__).parents[1] / "data"
WORKERS = 2


def write_sample(name: str, folder: Path, labels: str = "labels.csv", settings: str | None = None) -> Dataset:
    """Write a sample data set's images to `folder`. Returns what `data/<settings>.yaml` says of them, with the labels
    of that file; by default `data/<name>.yaml`.
    """
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
    catalog = ingest_alone(dataset, here)
    return catalog, shards_alone(catalog, dataset, here)
