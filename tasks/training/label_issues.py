"""Label issues: training labels that are probably wrong, as a table to correct and a sheet to look through.

The table holds every label of the data set, suspects first. Once corrected, it can be the data set's `labels`.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from prefect import task
from upath import UPath

import resnet_core.evaluation
import resnet_core.plotting
from resnet_core.annotations.exports import read_label_texts
from resnet_core.errors import plural
from resnet_core.evaluation.label_issues import find
from resnet_core.plotting.sheets import SUSPECTS, Suspect, label_sheet
from resnet_core.policy import more_roots
from resnet_core.shards import format as shards
from resnet_core.shards.encryption import Keys
from resnet_core.shards.row_groups import row_groups
from resnet_core.sources.listing import NO_LABELS
from resnet_core.sources.manifest import list_manifest, read_texts
from resnet_core.sources.source import list_source, source_kind
from resnet_core.storage.delimited import as_cell
from resnet_core.storage.digest import digest_of, source_digest
from resnet_core.storage.files import as_local, to_path, write_text, write_whole
from resnet_core.storage.matching import Places, match
from tasks.artifacts import code, markdown_table, picture, publish_page
from tasks.dataset import Dataset
from tasks.registry import runs as tracking
from tasks.store import ISSUES, ISSUES_SHEET
from tasks.training.cross_validate import CrossValidation
from tasks.values import ShardSet
from tasks.workspace import Workspace


def labels_table(dataset: Dataset, catalog: UPath | None = None) -> pd.DataFrame:
    """Return a row per image, all text: `path`, `label`, any other columns of the labels, and `uri`.

    Paths are those that `labels:` takes; those of a manifest are absolute. Without a table, the labels are the
    source's own, as the catalog has read them.
    """
    if source_kind(dataset.source) == "manifest":
        manifest = to_path(dataset.source)
        table = read_texts(manifest, dataset.label_column).to_pandas().fillna("")
        with more_roots(dataset.manifest_roots):
            uris = [uri for batch in list_manifest(manifest, dataset.label_column) for uri in batch["uri"].to_pylist()]
        return table.assign(path=uris, uri=uris)
    own_labels = NO_LABELS if dataset.labels else dataset.label_column
    listed = pd.DataFrame(
        list(files(list_source(dataset.source, label_column=own_labels))), columns=["uri", "path", "label"]
    )
    if dataset.labels is None:
        if catalog is not None:
            with catalog.open("rb") as file:
                known = pq.read_table(file, columns=["uri", "label"], filters=pc.field("present")).to_pandas()
            listed["label"] = listed["uri"].map(known.set_index("uri")["label"]).fillna("")
        return listed[listed["label"] != ""][["path", "label", "uri"]].reset_index(drop=True)
    texts, tails = read_label_texts(to_path(dataset.labels), dataset.label_column, dataset.annotators)
    table, places = texts.to_pandas().fillna(""), Places.of(dataset.source, dataset.labels)
    named = match(table["path"].tolist(), listed["path"].tolist(), places, tails=tails)
    return table.assign(uri=table["path"].map(named).map(listed.set_index("path")["uri"]).fillna(""))


def files(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[str, str, str]]:
    """Yield uri, path and label of each file that may be an image."""
    for batch in batches:
        columns = (batch[name].to_pylist() for name in ("uri", "path", "label", "ignored"))
        for uri, path, label, ignored in zip(*columns, strict=True):
            if not ignored:
                yield uri, path, label or ""


@dataclass(frozen=True)
class LabelIssues:
    """The outcome: `issues` of `images` training labels are probably wrong.

    `table` holds every label, suspects first; `sheet` shows them, and is None if no pictures may be made. `worst`
    are uri, label, suggestion and the confidence in the label.
    """

    dataset: str
    folder: UPath
    table: UPath
    sheet: UPath | None
    images: int
    issues: int
    worst: tuple[tuple[str, str, str, float], ...]
    mlflow_run_id: str


log = logging.getLogger("grayline")

_MADE_BY = (resnet_core.evaluation, resnet_core.plotting)

LISTED = 20  # rows of the page
_TRUST = "confidence in its label"
FIRST = ("path", "label", "suggested", "self_confidence", "rank")


@dataclass(frozen=True)
class _Judged:
    """Training images with the predictions of classifiers that have not seen them."""

    image_ids: list[str]
    uris: list[str]
    labels: NDArray[np.int64]  # [N]
    targets: NDArray[np.float32]  # [N, C]
    probabilities: NDArray[np.float32]  # [N, C]


@task
def find_label_issues(found: CrossValidation, shard_set: ShardSet, dataset: Dataset, here: Workspace) -> LabelIssues:
    """Judge the labels by the folds' predictions; write, log and show the suspects."""
    judged = _read_judged(found, shard_set, here.keys)
    issues = find(judged.labels, judged.targets, judged.probabilities)
    names = shard_set.classes
    suspects = pd.DataFrame(
        {
            "image_id": [judged.image_ids[row] for row in issues.rows],
            "uri": [judged.uris[row] for row in issues.rows],
            "given": [names[judged.labels[row]] for row in issues.rows],
            "suggested": [names[label] for label in issues.suggested],
            "self_confidence": issues.self_confidence,
            "rank": np.arange(1, len(issues.rows) + 1),
        }
    )
    table = table_of(suspects, labels_table(dataset, here.store.catalog(dataset.name)))
    text = table.map(lambda cell: as_cell(cell) if isinstance(cell, str) else cell).to_csv(index=False)
    digest = digest_of(hashlib.sha256(found.predictions.read_bytes()).hexdigest(), text, source_digest(*_MADE_BY))
    folder = here.store.label_issues(dataset.name) / digest
    write_text(folder / ISSUES, text)
    if here.keys is None:
        with write_whole(folder / ISSUES_SHEET) as draft:
            draft.write_bytes(sheet(dataset.name, suspects, shard_set))
    else:
        log.info("issues      %s is encrypted: no pictures are made of it", dataset.name)
    made = LabelIssues(
        dataset=dataset.name,
        folder=folder,
        table=folder / ISSUES,
        sheet=None if here.keys else folder / ISSUES_SHEET,
        images=len(judged.image_ids),
        issues=len(suspects),
        worst=tuple(worst(suspects)),
        mlflow_run_id=found.mlflow_run_id,
    )
    _log_to_mlflow(made, here.tracking_uri)
    publish_page(page(made), key="label-issues", description=headline(made))
    return made


def _read_judged(found: CrossValidation, shard_set: ShardSet, keys: Keys | None) -> _Judged:
    """Return the out-of-fold predictions with the soft labels of the shards."""
    with found.predictions.open("rb") as file:
        table = pq.read_table(file)
    names = json.loads(table.schema.metadata[shards.METADATA_KEY])["classes"]
    place = {name: k for k, name in enumerate(names)}
    labels = np.array([place[name] for name in table["label"].to_pylist()], dtype=np.int64)
    flat = table["probabilities"].combine_chunks().values.to_numpy()
    targets = np.zeros((len(labels), len(names)), dtype=np.float32)
    start = 0
    # Out-of-fold predictions are in the order of the shards.
    for path in shard_set.files:
        for group in row_groups(path, "train", shard_set.classes, keys):
            count = len(group.rows.places)
            some = slice(start, start + count)
            targets[np.arange(start, start + count), labels[some]] = 1
            if group.rows.soft is not None:
                targets[some] = group.rows.soft.targets(np.arange(count), labels[some])
            start += count
    return _Judged(
        table["image_id"].to_pylist(), table["uri"].to_pylist(), labels, targets, flat.reshape(len(labels), len(names))
    )


def table_of(suspects: pd.DataFrame, given: pd.DataFrame) -> pd.DataFrame:
    """Return every label of the source, suspects first, with suggestions.

    A suspect's label is the label that was learned from, which may be a person's correction. Columns of an earlier
    table of this kind are written anew.
    """
    given = given.drop(columns=[name for name in FIRST[2:] if name in given])
    learned = given["uri"].map(suspects.set_index("uri")["given"])
    given = given.assign(label=learned.fillna(given["label"]))
    known = suspects[["uri", "suggested", "self_confidence", "rank"]]
    table = given.merge(known, on="uri", how="left").sort_values("rank", kind="stable", na_position="last")
    table["self_confidence"] = [f"{value:.4f}" if pd.notna(value) else "" for value in table["self_confidence"]]
    table["rank"] = [str(int(value)) if pd.notna(value) else "" for value in table["rank"]]
    table["suggested"] = table["suggested"].fillna("")
    others = [name for name in table if name not in (*FIRST, "uri")]
    return table[[*FIRST, *others]]


def sheet(dataset: str, suspects: pd.DataFrame, shard_set: ShardSet) -> bytes:
    shown = suspects[:SUSPECTS]
    pixels = shards.take_ids(shard_set.files, "train", shown["image_id"].tolist())
    rows = [
        Suspect(levels, row.rank, row.given, row.suggested, row.self_confidence, _tail(row.uri))
        for levels, row in zip(pixels, shown.itertuples(), strict=True)
    ]
    title = f"{dataset}: {len(suspects):,} of {plural(shard_set.train, 'training label')} look wrong"
    return label_sheet(rows, title, len(suspects))


def _tail(uri: str) -> str:
    """Return the end of a path, which tells images apart."""
    return "/".join(uri.split("/")[-2:])


def worst(suspects: pd.DataFrame) -> list[tuple[str, str, str, float]]:
    rows = suspects[:LISTED]
    return list(zip(rows["uri"], rows["given"], rows["suggested"], map(float, rows["self_confidence"]), strict=True))


def _log_to_mlflow(made: LabelIssues, tracking_uri: str) -> None:
    """Log the number of issues, the table and the sheet on the run of the cross-validation."""
    tracking.log_metrics(tracking_uri, made.mlflow_run_id, {"label_issues": float(made.issues)})
    mlflow = tracking.client(tracking_uri)
    for path in (made.table, made.sheet):
        if path is not None:
            with as_local(path) as file:
                mlflow.log_artifact(made.mlflow_run_id, str(file), "label_issues")


def headline(made: LabelIssues) -> str:
    return f"{made.dataset}: {made.issues:,} of {plural(made.images, 'training label')} look wrong"


def page(made: LabelIssues) -> str:
    """Return the Prefect page: the sheet, the worst suspects, and the place of the table."""
    rows = (
        (rank, label, suggested, f"{trust:.3f}", uri)
        for rank, (uri, label, suggested, trust) in enumerate(made.worst, 1)
    )
    shown = f"{picture('The worst of them', made.sheet.read_bytes())}\n\n" if made.sheet else ""
    return (
        f"# {headline(made)}\n\n"
        f"Correct `label` in {code(made.table)} and name that file as `labels:`.\n\n{shown}"
        f"{markdown_table(('', 'label', 'rather', _TRUST, 'image'), rows, numbers=('', _TRUST))}\n"
    )
