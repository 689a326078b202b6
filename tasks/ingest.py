"""Ingest: a source of images into the catalog, each file read once.

`scan` lists the files and looks up which of them an earlier night has read. `read_part` reads some of
the others: one pass for hash, size, decoding and the pixels that preprocessing will want.
`write_catalog` gives every image its split and its status. The pixels wait under `pixels/` for
`tasks.preprocess`; that folder is a cache and can be deleted, at the price of reading again.
"""

import io
import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from prefect import task
from upath import UPath

from resnet_core import grayscale, preprocessing, read, shards, splits
from resnet_core.digest import digest_of, source_digest, table_digest
from resnet_core.errors import UserError
from resnet_core.files import absolute, write_whole
from resnet_core.manifest import is_manifest, read_manifest
from resnet_core.preprocessing import Preprocessing
from resnet_core.read import ReadImage, read_file
from resnet_core.sources import list_files, locate
from tasks.dataset import Dataset
from tasks.parts import Part, make_parts
from tasks.values import Catalog, Scan

log = logging.getLogger("grayline")

CATALOG_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("label", pa.string()),
        ("split", pa.string()),
        ("group", pa.string()),
        ("weight", pa.float32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("size", pa.int64()),
        ("modified", pa.string()),
        ("present", pa.bool_()),
        ("part", pa.string()),
    ]
)


@task
def scan(dataset: Dataset, store: UPath, max_pixels: int) -> Scan:
    """List the source, join the labels, and find what is unread. Raises UserError for a source that
    is missing, empty, or of fewer than two classes."""
    entries = list_entries(dataset)
    found = sorted(entries["label"].dropna().unique())
    if len(found) < 2:
        names = repr(found[0]) if found else "none"
        raise UserError(
            f"{dataset.source}: a classifier needs two classes or more, found {names}. "
            "Put images into one folder a class, or name a table of labels with `labels:`."
        )
    old = read_catalog(store, dataset.name)
    folder = pixel_folder(store, dataset, max_pixels)
    entries = entries.merge(known_files(old, folder), on=["uri", "size", "modified"], how="left")
    entries["part"] = entries["part"].astype(object).where(entries["part"].notna(), None)
    unread = entries[entries["part"].isna() & entries["reason"].isna()]
    parts = make_parts(unread, folder)
    for part in parts:
        entries.loc[part.files.index, "part"] = part.path.name
    return Scan(dataset.name, folder, entries, parts)


def list_entries(dataset: Dataset) -> pd.DataFrame:
    """One row a file of the source, or of its labels: uri, size, modified, label, split, group,
    weight, and a reason where the row cannot be an image."""
    source = absolute(UPath(dataset.source))
    frame = entries_of_manifest(source) if is_manifest(source) else entries_of_folder(source, dataset)
    frame["reason"] = None
    frame.loc[frame["label"].isna(), "reason"] = "label missing: no row of the labels names it"
    frame.loc[frame["modified"].isna(), "reason"] = "file missing: the labels name it, the source has it not"
    frame["size"] = frame["size"].fillna(0).astype("int64")
    frame["modified"] = frame["modified"].fillna("")
    frame["weight"] = frame["weight"].fillna(1.0)
    return frame.sort_values("uri", ignore_index=True)


def check_source(dataset: Dataset) -> None:
    """Raises UserError unless there is something to list; looks at no file."""
    source = absolute(UPath(dataset.source))
    if not source.exists():
        raise UserError(f"{dataset.source}: there is no such folder. Correct `source:`.")
    if source.is_dir() and not any(source.iterdir()):
        raise UserError(f"{dataset.source}: holds no images. Fill it, or correct `source:`.")
    if not source.is_dir() and not is_manifest(source):
        raise UserError(f"{dataset.source}: is no folder and no .csv or .parquet manifest. Correct `source:`.")


def entries_of_manifest(manifest: UPath) -> pd.DataFrame:
    """The manifest says what belongs to the data set; its paths are relative to its folder."""
    table = read_manifest(manifest)
    files = [locate(manifest.parent, path) for path in table["path"]]
    if not any(files):
        raise UserError(f"{manifest}: none of its {len(table):,} paths is a file. Write them relative to it.")
    uris = [f.uri if f else str(manifest.parent / path) for f, path in zip(files, table["path"], strict=True)]
    return table.assign(
        uri=uris,
        size=[f.size if f else None for f in files],
        modified=[f.modified if f else None for f in files],
    )


def entries_of_folder(folder: UPath, dataset: Dataset) -> pd.DataFrame:
    """Every file of the folder; the labels are a table's, or the names of the folders at the top."""
    check_source(dataset)
    files = list_files(folder).files
    if not files:
        raise UserError(f"{dataset.source}: holds no images. Fill it, or correct `source:`.")
    frame = pd.DataFrame([asdict(file) for file in files])
    if dataset.labels is None:
        names = [path.split("/", 1)[0] if "/" in path else None for path in frame["path"]]
        return frame.assign(label=names, split=None, group=None, weight=1.0)
    frame = frame.merge(read_manifest(UPath(dataset.labels)), on="path", how="outer")
    return frame.assign(uri=frame["uri"].fillna(str(folder) + "/" + frame["path"]))


@task(retries=2, retry_delay_seconds=5, task_run_name="read {part.path.name}")
def read_part(part: Part, settings: Preprocessing, max_pixels: int) -> int:
    """Read every file of the part and write its facts and pixels. Returns the number of files."""
    if part.path.exists():  # a run that was killed had come this far
        known = shards.open_file(part.path).read(columns=["image_id"])["image_id"]
        if known.null_count == 0:
            return len(part.files)
    images = [read_file(uri, settings, max_pixels) for uri in part.files["uri"]]
    write_part(part, images, settings)
    return len(images)


def write_part(part: Part, images: Sequence[ReadImage], settings: Preprocessing) -> None:
    blank = np.zeros((settings.size, settings.size), dtype=np.uint8)
    pixels = np.stack([blank if image.pixels is None else image.pixels for image in images])
    columns: dict[str, Any] = {
        "uri": pa.array(part.files["uri"], pa.string()),
        "size": pa.array(part.files["size"], pa.int64()),
        "modified": pa.array(part.files["modified"], pa.string()),
        "image_id": pa.array([image.image_id for image in images], pa.string()),
        "width": pa.array([image.width for image in images], pa.int32()),
        "height": pa.array([image.height for image in images], pa.int32()),
        "reason": pa.array([image.reason for image in images], pa.string()),
        "pixels": shards.packed(pixels),
    }
    with write_whole(part.path) as draft:
        pq.write_table(pa.table(columns), draft, compression="none", use_dictionary=False)


@task
def write_catalog(scan: Scan, dataset: Dataset, store: UPath) -> Catalog:
    """Give every image its split and status, and write the catalog when anything has changed."""
    old = read_catalog(store, dataset.name)
    rows = merge_facts(scan)
    rows = set_status(rows, set(old.loc[old["status"] == "ok", "uri"]))
    rows["split"] = set_splits(rows, dataset.split)
    rows["present"] = True
    table = pd.concat([rows, vanished(old, rows)], ignore_index=True)[CATALOG_SCHEMA.names]
    table = table.sort_values(["present", "uri"], ascending=[False, True], ignore_index=True)
    path = _catalog_path(store, dataset.name)
    arrow = pa.Table.from_pandas(table, CATALOG_SCHEMA, preserve_index=False)
    digest = table_digest(arrow.drop_columns(["modified", "part"]))
    if not arrow.equals(_read_arrow(path)):
        with write_whole(path) as draft:
            pq.write_table(arrow, draft)
    catalog = _summary(dataset, path, digest, table[table["present"]], sum(len(part.files) for part in scan.unread))
    if len(catalog.classes) < 2:
        raise UserError(
            f"{dataset.source}: only {', '.join(catalog.classes) or 'no class'} is left after quarantine; "
            f"see the reasons in {path}."
        )
    log.info(
        "ingest      %s images of %d classes: %s ok, %s duplicate, %s quarantined; %s read now, %s known from before",
        f"{catalog.ok + catalog.duplicate + catalog.quarantined:,}", len(catalog.classes), f"{catalog.ok:,}",
        f"{catalog.duplicate:,}", f"{catalog.quarantined:,}", f"{catalog.read:,}",
        f"{len(scan.entries) - catalog.read:,}",
    )  # fmt: skip
    return catalog


def vanished(old: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The old rows of images that are not in the source any more; what could never be read is not kept."""
    seen = set(zip(rows["uri"], rows["image_id"], strict=True))
    known = zip(old["uri"], old["image_id"], strict=True)
    gone = np.array([image is not None and (uri, image) not in seen for uri, image in known], dtype=bool)
    return old[gone].assign(present=False)


def merge_facts(scan: Scan) -> pd.DataFrame:
    """The entries with what reading them told: image_id, width, height, reason."""
    entries = scan.entries
    columns = ["uri", "image_id", "width", "height", "reason"]
    parts = sorted(entries["part"].dropna().unique())
    tables = [shards.open_file(scan.pixels / name).read(columns=columns).to_pandas() for name in parts]
    for name, table in zip(parts, tables, strict=True):
        table["part"] = name
    facts = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=[*columns, "part"])
    rows = entries.merge(facts, on=["uri", "part"], how="left", suffixes=("", "_read"))
    rows["reason"] = rows["reason"].where(rows["reason"].notna(), rows.pop("reason_read"))
    for column in ("image_id", "reason", "label", "group", "split", "part"):
        rows[column] = rows[column].astype(object).where(rows[column].notna(), None)
    return rows


def set_status(rows: pd.DataFrame, elders: set[str]) -> pd.DataFrame:
    """Among images of the same bytes one is `ok`, an elder if there is one, the rest `duplicate`;
    under different labels none is, for nobody knows which is right."""
    status = pd.Series(np.where(rows["reason"].isna(), "ok", "quarantined"), rows.index)
    reason = rows["reason"].copy()
    good = rows[status == "ok"].assign(younger=lambda table: ~table["uri"].isin(elders))
    for _, same in good[good["image_id"].duplicated(keep=False)].groupby("image_id"):
        same = same.sort_values(["younger", "uri"])
        if same["label"].nunique() > 1:
            status[same.index] = "quarantined"
            for row in same.itertuples():
                other = same[same["label"] != row.label].iloc[0]
                reason[row.Index] = f"label conflict: the same bytes are {other['label']!r} in {other['uri']}"
        else:
            status[same.index[1:]] = "duplicate"
            reason[same.index[1:]] = f"same bytes as {same['uri'].iloc[0]}"
    return rows.assign(status=status, reason=reason)


def set_splits(rows: pd.DataFrame, config: splits.SplitConfig) -> list[str | None]:
    """What the labels fix stays; else the group, or the content, decides."""
    return [
        None if status == "quarantined" else fixed or splits.assign(group or image, config)
        for status, fixed, group, image in zip(
            rows["status"], rows["split"], rows["group"], rows["image_id"], strict=True
        )
    ]


def read_catalog(store: UPath, name: str) -> pd.DataFrame:
    """The catalog's rows; none before the first night."""
    table = _read_arrow(_catalog_path(store, name))
    frame = table.to_pandas()
    for column in frame.select_dtypes(["object", "string"]).columns:
        frame[column] = frame[column].astype(object).where(frame[column].notna(), None)
    return frame


def _read_arrow(path: UPath) -> pa.Table:
    if not path.exists():
        return CATALOG_SCHEMA.empty_table()
    return pq.read_table(io.BytesIO(path.read_bytes()))


def _catalog_path(store: UPath, name: str) -> UPath:
    return store / "catalog" / name / "catalog.parquet"


def pixel_folder(store: UPath, dataset: Dataset, max_pixels: int) -> UPath:
    """Named by all that decides what a file's bytes become: settings, limit, code."""
    code = source_digest(grayscale, preprocessing, read)
    return store / "pixels" / dataset.name / digest_of(dataset.image, max_pixels, code)


def known_files(old: pd.DataFrame, folder: UPath) -> pd.DataFrame:
    """Files of which an earlier night's part is still there. One that could not be opened is tried
    again: permissions and networks recover, and neither shows in a file's size or time."""
    there = {path.name for path in folder.iterdir()} if folder.exists() else set()
    known = old[old["part"].isin(there) & old["image_id"].notna()]
    return known[["uri", "size", "modified", "part"]].drop_duplicates(["uri", "size", "modified"])


def _summary(dataset: Dataset, path: UPath, digest: str, rows: pd.DataFrame, read: int) -> Catalog:
    counts = rows["status"].value_counts()
    ok = rows[rows["status"] == "ok"]
    return Catalog(
        dataset=dataset.name,
        path=path,
        digest=digest,
        classes=tuple(sorted(ok["label"].unique())),
        ok=int(counts.get("ok", 0)),
        duplicate=int(counts.get("duplicate", 0)),
        quarantined=int(counts.get("quarantined", 0)),
        read=read,
    )
