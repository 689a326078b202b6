"""A data set's labels as its owner wrote them, with where each image lies: to be corrected and used again."""

from collections.abc import Iterator

import pandas as pd
import pyarrow as pa
from upath import UPath

from resnet_core.sources.source import list_manifest, list_source, source_kind
from resnet_core.storage.files import absolute
from tasks.dataset import Dataset


def labels_table(dataset: Dataset) -> pd.DataFrame:
    """A row an image, all text, empty where nothing is said: `path`, `label`, whatever other columns the labels
    have, and `uri`. The paths are those that `labels:` takes, wherever its file lies; of a manifest they are
    absolute, for it is the source itself. Where there is no table, the source's own labels."""
    if source_kind(dataset.source) == "manifest":
        manifest = absolute(UPath(dataset.source))
        table = read_text(manifest)
        uris = [uri for batch in list_manifest(manifest) for uri in batch["uri"].to_pylist()]
        return table.assign(path=uris, uri=uris)
    listed = pd.DataFrame(list(files(list_source(dataset.source))), columns=["uri", "path", "label"])
    if dataset.labels is None:
        return listed[listed["label"] != ""][["path", "label", "uri"]].reset_index(drop=True)
    table = read_text(UPath(dataset.labels))
    places = listed.set_index("path")["uri"]
    return table.assign(uri=table["path"].str.removeprefix("./").map(places).fillna(""))


def files(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[str, str, str]]:
    """uri, path and label of each that may be an image."""
    for batch in batches:
        columns = (batch[name].to_pylist() for name in ("uri", "path", "label", "ignored"))
        for uri, path, label, ignored in zip(*columns, strict=True):
            if not ignored:
                yield uri, path, label or ""


def read_text(path: UPath) -> pd.DataFrame:
    """CSV or Parquet, every value as it is written: a class 007 stays that."""
    with path.open("rb") as file:
        if path.suffix.lower() == ".parquet":
            table = pd.read_parquet(file)
            return table.astype(object).where(table.notna(), "").astype(str)
        return pd.read_csv(file, dtype=str, keep_default_na=False, skipinitialspace=True, encoding="utf-8-sig")
