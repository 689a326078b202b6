"""Preprocess: write the catalog's good images into shards, from the pixels that ingest has made.

A shard set is a folder that holds exactly one state of the data; it is never changed. Its shards are named by the
digest of their content, so shards of an earlier set become links.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import groupby

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from prefect import task
from upath import UPath

import resnet_core.shards
from resnet_core.catalog.queries import GOOD, good_images
from resnet_core.errors import UserError, nearest, plural
from resnet_core.shards import format as shards
from resnet_core.shards.encryption import Keys
from resnet_core.shards.soft_labels import parse
from resnet_core.storage.digest import digest_of, source_digest, table_digest
from resnet_core.storage.files import link, write_text, write_whole
from tasks.dataset import Dataset
from tasks.ingest.pixels import READING, is_usable, may_succeed, pixel_folder, read_pixels
from tasks.store import MANIFEST, own_files
from tasks.values import Catalog, ShardSet
from tasks.workspace import Workspace

log = logging.getLogger("grayline")

_CONTENT = ("image_id", "label", "split", "weight", "soft_label")
_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class ShardPlan:
    """A shard to write: the good images of `part` become `path`; `twin` is an equal file of an earlier set.

    `images` are counted by SPLITS.
    """

    path: UPath
    part: UPath
    twin: UPath | None
    images: tuple[int, int, int]

    @property
    def count(self) -> int:
        return sum(self.images)


@task
def plan_shards(catalog: Catalog, dataset: Dataset, here: Workspace) -> tuple[ShardPlan, ...]:
    """Plan the shards of the catalog's good images.

    Raises UserError for unknown classes in soft labels.
    """
    code, pixels = source_digest(*READING, resnet_core.shards), pixel_folder(dataset, catalog.image, here)
    context = (catalog.classes, catalog.image, dataset.encrypt, code)
    found = []
    for part, rows in _rows_by_part(catalog):
        name = digest_of(table_digest([rows.select(_CONTENT)]), *context) + ".parquet"
        splits = rows["split"].to_pylist()
        _check_soft_labels(rows, catalog, dataset)
        images = table_digest([rows.select(["image_id"])])
        found.append((images, name, pixels / part, tuple(splits.count(split) for split in _SPLITS)))
    # A training depends on the order of its shards. So images alone decide: parts are named by places and dates, too,
    # and shards by the code.
    found.sort()
    folder = here.store.shards(dataset.name) / digest_of([name for _, name, _, _ in found])
    twins = {path.name: path for path in own_files(folder.parent, "*/*.parquet")}
    return tuple(ShardPlan(folder / name, part, twins.get(name), images) for _, name, part, images in found)


def _rows_by_part(catalog: Catalog) -> Iterator[tuple[str, pa.Table]]:
    """Yield the good images of each part, in order; the catalog's rows lie in the order of parts."""
    with catalog.path.open("rb") as file:
        batches = pq.ParquetFile(file).iter_batches(columns=[*_CONTENT, "uri", "part", "present", "status"])
        good = (pa.Table.from_batches([batch]).filter(GOOD) for batch in batches)
        pieces = ((part, rows) for table in good for part, rows in cut(table))
        for part, same in groupby(pieces, key=lambda piece: piece[0]):
            yield part, pa.concat_tables([rows for _, rows in same])


def cut(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Cut a table into runs of rows of the same part."""
    start = 0
    for part, same in groupby(table["part"].to_pylist()):
        rows = len(list(same))
        yield part, table.slice(start, rows)
        start += rows


def _rows_of_part(catalog: Catalog, part: str) -> pa.Table:
    """Return the good images of one part; row groups of other parts are not read."""
    return good_images(catalog.path, [*_CONTENT, "uri"], pc.field("part") == part)


def _check_soft_labels(rows: pa.Table, catalog: Catalog, dataset: Dataset) -> None:
    """Raises UserError for a class that is left without images: quarantine may have taken all of them."""
    for text in pc.unique(rows["soft_label"]).drop_null().to_pylist():
        for name in sorted(parse(text).keys() - set(catalog.classes)):
            uri = rows["uri"].filter(pc.equal(rows["soft_label"], text))[0].as_py()
            raise UserError(
                f"{dataset.labels or dataset.source}: soft_label {text!r} of {uri}: no good image's label is "
                f"{name!r}.{nearest(name, list(catalog.classes))} Name a class that has images, or add some."
            )


@task(retries=2, retry_delay_seconds=5, retry_condition_fn=may_succeed, task_run_name="shard {plan.path.name}")
def write_shard(plan: ShardPlan, catalog: Catalog, keys: Keys | None = None) -> int:
    """Write the shard unless it exists. Returns the number of images written."""
    if is_usable(plan.path, plan.count, keys):
        return 0
    if plan.twin and plan.twin != plan.path and is_usable(plan.twin, plan.count, keys):
        link(plan.twin, plan.path)
        return 0
    rows = _rows_of_part(catalog, plan.part.name)
    pixels = read_pixels(plan.part, rows["uri"].to_pylist(), catalog.image.size, keys)
    image_ids, labels, splits, weights, soft_labels = (rows[name] for name in _CONTENT)
    metadata = shards.metadata(catalog.classes, catalog.image)
    table = shards.make_table(image_ids, labels, splits, weights, pixels, metadata, soft_labels)
    with write_whole(plan.path) as draft:
        shards.write_table(table, draft, keys)
    return plan.count


@task
def finish_shards(plans: tuple[ShardPlan, ...], written: int, catalog: Catalog, dataset: Dataset) -> ShardSet:
    """Write `_manifest.json`, which completes the set."""
    folder = plans[0].path.parent
    train, validation, test = (sum(plan.images[k] for plan in plans) for k in range(len(_SPLITS)))
    made = ShardSet(
        dataset=dataset.name,
        folder=folder,
        files=tuple(plan.path for plan in plans),
        digest=folder.name,
        classes=catalog.classes,
        preprocessing=catalog.image,
        train=train,
        validation=validation,
        test=test,
        written=written,
    )
    manifest = {
        "catalog": catalog.digest,
        "catalog_version": catalog.version,
        "classes": list(made.classes),
        "preprocessing": asdict(made.preprocessing),
        "images": {"train": made.train, "validation": made.validation, "test": made.test},
        "shards": {plan.path.name: plan.count for plan in plans},
    }
    write_text(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    total = made.train + made.validation + made.test
    log.info(
        "preprocess  %s of %d px in %s: %s written now, %s reused",
        plural(total, "image"), made.preprocessing.size, plural(len(made.files), "shard"),
        f"{made.written:,}", f"{total - made.written:,}",
    )  # fmt: skip
    return made
