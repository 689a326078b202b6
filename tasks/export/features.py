"""Features: the outputs of a layer of a version for every image of a data set, part by part.

A part is a run of images of one shard. It becomes one file, whole or not at all, named by the digest of its inputs.
An interrupted run goes on with the missing parts. `_manifest.json` is written last.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from prefect import task
from upath import UPath

import resnet_core.inference
import resnet_core.model
from resnet_core.catalog.queries import good_images
from resnet_core.errors import UserError, plural
from resnet_core.export.formats import check_installed
from resnet_core.inference import feature_files
from resnet_core.inference.feature_files import Kind, Rows
from resnet_core.model.features import Layer, compute, shape_of
from resnet_core.shards import format as shards
from resnet_core.shards.encryption import Keys
from resnet_core.storage.digest import digest_of, source_digest, table_digest
from resnet_core.storage.files import read_json, write_text, write_whole
from tasks.artifacts import publish_table
from tasks.registry.images import check_fits
from tasks.registry.versions import load_classifier
from tasks.store import FEATURE_LISTING, FEATURES_BEGUN, MANIFEST, WORK, own_files
from tasks.values import Catalog, ModelVersion, Night, ShardSet, have
from tasks.workspace import Workspace


@dataclass(frozen=True)
class FeatureSet:
    """The outputs of a layer for `count` images, `shape` each, in `files` files; an earlier run wrote `reused` of
    them.
    """

    version: ModelVersion
    folder: UPath
    layer: str
    kind: str
    shape: tuple[int, ...]
    count: int
    files: int
    reused: int


log = logging.getLogger("grayline")

PART_BYTES = 64 * 1024**2  # of features in a file, and in the memory of a task
MOST_IN_A_PART = 1024  # images
_KNOWN = ["image_id", "label", "split"]
_CODE = (resnet_core.inference, resnet_core.model)


@dataclass(frozen=True)
class _FeaturePart:
    """`count` images of a shard from row `start` on; their features become `path`.

    Row group `group` of `listing` has the facts of the images.
    """

    path: UPath
    shard: UPath
    start: int
    count: int
    listing: UPath
    group: int


@dataclass(frozen=True)
class _FeatureJob:
    """The settings that all parts share; the facts are written into every file."""

    version: ModelVersion
    layer: Layer
    kind: Kind
    facts: dict[str, Any]


@dataclass(frozen=True)
class _FeaturePlan:
    """All parts, and those in `waiting` that are not done yet."""

    job: _FeatureJob
    folder: UPath
    parts: tuple[_FeaturePart, ...]
    waiting: tuple[_FeaturePart, ...]


def check_wanted(kind: str, output: UPath, encrypted: bool, in_clear: bool) -> None:
    """Raises UserError for missing packages, and for confidential images unless `in_clear` allows unencrypted
    features.
    """
    check_installed("--format", kind)
    if encrypted and not in_clear:
        raise UserError(
            "--dataset: the data set is encrypted, and features are not: early layers show the images. "
            "Say --in-clear if that may be."
        )
    if output.is_file():
        raise UserError(f"-o: {output} is a file. Name a folder.")


@task
def plan_features(
    model: ModelVersion, night: Night, layer: Layer, kind: Kind, output: UPath, here: Workspace
) -> _FeaturePlan:
    """Cut the shards into parts, and find finished ones.

    Raises UserError for a version that does not fit the data set, and for an output that another job uses.
    """
    shard_set = have(night.shard_set)
    classifier = load_classifier(here.tracking_uri, model, here.device)
    check_fits(model, classifier, shard_set)
    shape = shape_of(classifier, layer)
    facts = {
        "dataset": shard_set.dataset,
        "model_name": model.name,
        "model_version": model.version,
        "model_files": model.files,
        "layer": layer,
        "shape": list(shape),
        "classes": list(shard_set.classes),
    }
    begin(output, facts | {"format": kind})
    size = 4 * int(pc.product(pa.array(shape, pa.int64())).as_py())
    most = min(MOST_IN_A_PART, max(1, PART_BYTES // size))
    job = _FeatureJob(model, layer, kind, facts)
    parts = _make_parts(job, night, output, most, here)
    waiting = tuple(part for part in parts if not part.path.exists())
    return _FeaturePlan(job, output, parts, waiting)


def begin(output: UPath, job: dict[str, Any]) -> None:
    """Claim the folder for this job: the same job may go on, another may not write into it."""
    mark = output / FEATURES_BEGUN
    if mark.exists():
        found = read_json(mark, f"Delete {output}, and run the same command again.")
        if found != job:
            raise UserError(
                f"-o: {output} holds {found['layer']} features of {found['dataset']} as {found['format']}, by "
                f"{found['model_name']} version {found['model_version']}. Choose another folder."
            )
    elif own_files(output):
        raise UserError(f"-o: {output} is not empty. Choose another folder.")
    else:
        write_text(mark, json.dumps(job, indent=2, ensure_ascii=False) + "\n")


def _make_parts(job: _FeatureJob, night: Night, output: UPath, most: int, here: Workspace) -> tuple[_FeaturePart, ...]:
    """Return parts of at most `most` images each, in the order of the shards, and write their listing."""
    parts: list[_FeaturePart] = []
    context = (job.facts, source_digest(*_CODE))
    listing = output / WORK / FEATURE_LISTING
    with write_whole(listing) as draft, pq.ParquetWriter(draft, LISTING) as writer:
        for shard, start, rows in pieces(have(night.shard_set), night.catalog, most, here.keys):
            writer.write_table(rows, row_group_size=len(rows))
            group = len(parts)
            name = f"{group:06}-{digest_of(table_digest([rows]), shard.name, start, job.kind, context)}.{job.kind}"
            parts.append(_FeaturePart(output / name, shard, start, len(rows), listing, group))
    return tuple(parts)


LISTING = pa.schema([(name, pa.string()) for name in Rows._fields])


def pieces(
    shard_set: ShardSet, catalog: Catalog, most: int, keys: Keys | None
) -> Iterator[tuple[UPath, int, pa.Table]]:
    """Yield shard, first row and facts of up to `most` images each.

    Only ids and uris of the catalog are in memory at once, about 150 bytes per image.
    """
    there = good_images(catalog.path, ["image_id", "uri"]).combine_chunks()
    ids = there["image_id"].combine_chunks()
    for shard in shard_set.files:
        rows = shards.open_file(shard, keys).read(columns=_KNOWN)
        uris = there["uri"].take(pc.index_in(rows["image_id"], value_set=ids))
        rows = rows.append_column("uri", uris).select(LISTING.names).replace_schema_metadata().cast(LISTING)
        for start in range(0, len(rows), most):
            yield shard, start, rows.slice(start, most).combine_chunks()


@task(retries=2, retry_delay_seconds=5, task_run_name="features {part.path.name}")
def write_features(part: _FeaturePart, job: _FeatureJob, here: Workspace) -> int:
    """Compute and write the features of one part. Returns the number of images."""
    classifier = load_classifier(here.tracking_uri, job.version, here.device)
    with part.listing.open("rb") as file:
        rows = Rows(*(column.to_pylist() for column in pq.ParquetFile(file).read_row_group(part.group).columns))
    file = shards.open_file(part.shard, here.keys)
    levels = file.read(columns=["levels"])["levels"].slice(part.start, part.count)
    pixels = shards.unpacked(levels, shards.image_size(file))
    found = compute(classifier, pixels, job.layer)
    with write_whole(part.path) as draft:
        feature_files.write(job.kind, draft, found, rows, job.facts)
    return part.count


@task
def finish_features(plan: _FeaturePlan) -> FeatureSet:
    """Remove files of images that are gone, and write `_manifest.json`."""
    job = plan.job
    names = {part.path.name: part.count for part in plan.parts}
    for old in plan.folder.glob(f"*.{job.kind}"):
        if old.name not in names:
            old.unlink()
    total = sum(names.values())
    manifest = job.facts | {"format": job.kind, "dtype": "float32", "images": total, "files": names}
    write_text(plan.folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    work = plan.folder / WORK
    work.fs.rm(work.path, recursive=True)
    reused = total - sum(part.count for part in plan.waiting)
    made = FeatureSet(
        job.version, plan.folder, job.layer, job.kind, tuple(job.facts["shape"]), total, len(names), reused
    )
    log.info("features    %s, %s of them done in an earlier run", plural(total, "image"), f"{reused:,}")
    publish_table(
        [{name: str(value) for name, value in asdict(made).items()}],
        key="features",
        description=f"{job.layer} of {plural(total, 'image')}",
    )
    return made
