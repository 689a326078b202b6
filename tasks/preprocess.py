"""Preprocess: the catalog's good images into shards, from the pixels that ingest has made.

A shard set is a folder that holds exactly one state of the data; it is never changed. Its shards
are named by the digest of what is in them: those that an earlier set has too become links to it.
"""

import json
import logging
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from prefect import task
from upath import UPath

from resnet_core import grayscale, preprocessing, read, shards
from resnet_core.digest import digest_of, source_digest
from resnet_core.errors import UserError
from resnet_core.files import link, write_text, write_whole
from resnet_core.preprocessing import Preprocessing
from tasks.dataset import Dataset
from tasks.values import Catalog, ShardSet

log = logging.getLogger("grayline")

COLUMNS = ["image_id", "label", "split", "weight", "uri", "part"]


@dataclass(frozen=True)
class ShardPlan:
    """One shard to be: `rows` of the part's pixels become `path`, or `twin` does, which has the same."""

    path: UPath
    part: UPath
    twin: UPath | None
    rows: pd.DataFrame


@task
def plan_shards(catalog: Catalog, pixels: UPath, dataset: Dataset, store: UPath) -> tuple[ShardPlan, ...]:
    """Which shards the catalog's good images make, in which files. Raises UserError when a class has
    no image to learn from, or nothing is held out."""
    rows = good_images(catalog)
    check_splits(rows, catalog, dataset)
    groups = [(pixels / str(name), group[COLUMNS]) for name, group in rows.groupby("part")]
    names = [shard_name(group, catalog, dataset.image) for _, group in groups]
    folder = store / "shards" / dataset.name / digest_of(sorted(names))
    twins = {path.name: path for path in folder.parent.glob("*/*.parquet")} if folder.parent.exists() else {}
    return tuple(
        ShardPlan(folder / name, part, twins.get(name), group)
        for name, (part, group) in zip(names, groups, strict=True)
    )


def good_images(catalog: Catalog) -> pd.DataFrame:
    with catalog.path.open("rb") as file:
        table = pd.read_parquet(file)
    return table[table["present"] & (table["status"] == "ok")]


def check_splits(rows: pd.DataFrame, catalog: Catalog, dataset: Dataset) -> None:
    learned = set(rows.loc[rows["split"] == "train", "label"])
    for name in catalog.classes:
        if name not in learned:
            raise UserError(
                f"{dataset.source}: class {name!r} has no training image. Add images of it, or lower `split.test`."
            )
    if not (rows["split"] == "test").any():
        raise UserError(f"{dataset.source}: no image is held out for the test. Add images, or raise `split.test`.")


def shard_name(rows: pd.DataFrame, catalog: Catalog, settings: Preprocessing) -> str:
    """By what is in it and by the code that made the pixels: other code may give other pixels."""
    content = rows[["image_id", "label", "split", "weight"]].to_numpy().tolist()
    code = source_digest(grayscale, preprocessing, read)
    return digest_of(content, catalog.classes, settings, code) + ".parquet"


@task(retries=2, retry_delay_seconds=5, task_run_name="shard {plan.path.name}")
def write_shard(plan: ShardPlan, catalog: Catalog, settings: Preprocessing) -> bool:
    """Make the shard, unless it is there. Returns whether pixels were written."""
    if plan.path.exists():
        return False
    if plan.twin:
        link(plan.twin, plan.path)
        return False
    part = shards.open_file(plan.part).read(columns=["uri", "pixels"])
    place = {uri: row for row, uri in enumerate(part["uri"].to_pylist())}
    rows = [place[uri] for uri in plan.rows["uri"]]
    pixels = shards.unpacked(part["pixels"], settings.size)[np.array(rows)]
    table = pa.table(
        [
            pa.array(plan.rows["image_id"], pa.string()),
            pa.array(plan.rows["label"], pa.string()),
            pa.array(plan.rows["split"], pa.string()),
            pa.array(plan.rows["weight"], pa.float32()),
            shards.tensor_array(pixels),
        ],
        schema=shards.schema(settings.size, shards.metadata(catalog.classes, settings)),
    )
    with write_whole(plan.path) as draft:
        shards.write_table(table, draft)
    return True


@task
def finish_shards(plans: tuple[ShardPlan, ...], written: list[bool], catalog: Catalog, dataset: Dataset) -> ShardSet:
    """Write `_manifest.json`, with which the set is complete."""
    folder = plans[0].path.parent
    splits = pd.concat([plan.rows["split"] for plan in plans]).value_counts()
    made = ShardSet(
        dataset=dataset.name,
        folder=folder,
        files=tuple(plan.path for plan in plans),
        digest=folder.name,
        classes=catalog.classes,
        preprocessing=dataset.image,
        train=int(splits.get("train", 0)),
        validation=int(splits.get("validation", 0)),
        test=int(splits.get("test", 0)),
        written=sum(len(plan.rows) for plan, new in zip(plans, written, strict=True) if new),
    )
    manifest = {
        "catalog": catalog.digest,
        "classes": list(made.classes),
        "preprocessing": asdict(made.preprocessing),
        "images": {"train": made.train, "validation": made.validation, "test": made.test},
        "shards": {plan.path.name: len(plan.rows) for plan in plans},
    }
    write_text(folder / "_manifest.json", json.dumps(manifest, indent=2) + "\n")
    total = made.train + made.validation + made.test
    log.info(
        "preprocess  %s images of %d px in %d shards: %s written now, %s reused",
        f"{total:,}", made.preprocessing.size, len(made.files), f"{made.written:,}", f"{total - made.written:,}",
    )  # fmt: skip
    return made
