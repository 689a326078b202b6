"""Where a data set's catalog lies, one row an image ever seen, and what each night changed in it."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pyarrow.parquet as pq
from duckdb import DuckDBPyConnection
from upath import UPath

from resnet_core.catalog.build import CATALOG
from resnet_core.catalog.entries import load_previous
from resnet_core.errors import UserError, nearest
from resnet_core.storage.files import as_local

VERSION = "grayline.version"  # in the catalog file's schema metadata


def catalog_path(store: UPath, name: str) -> UPath:
    return store / "catalog" / name / "catalog.parquet"


def versions_folder(store: UPath, name: str) -> UPath:
    """Not below the catalog: whoever reads that folder gets the images alone."""
    return store / "history" / name


def checks_folder(store: UPath, name: str) -> UPath:
    """A folder a version, with what the data checks said of it."""
    return store / "checks" / name


def has_all_columns(path: UPath) -> bool:
    """Whether a catalog has every column that its readers take for granted: that of another release may not."""
    with path.open("rb") as file:
        return set(CATALOG.names) <= set(pq.read_schema(file).names)


def find_catalog(store: UPath, name: str | None) -> str:
    """The data set's name, if it has a catalog; by default the only one there is. Raises UserError."""
    folder = store / "catalog"
    there = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    if not there:
        raise UserError("catalog: there is none yet. Run `grayline ingest --dataset FILE.yaml` first.")
    if name is None and len(there) > 1:
        raise UserError(f"--dataset: say which of {', '.join(there)}.")
    if name and name not in there:
        raise UserError(
            f"--dataset: there is no catalog of {name!r}.{nearest(name, there)} There are: {', '.join(there)}."
        )
    return name or there[0]


def load_catalog(db: DuckDBPyConnection, store: UPath, name: str, columns: Sequence[str] = ("*",)) -> int:
    """Make `previous`, the last night's catalog, empty before the first night. Returns its version.

    Columns that are not named stay null.
    """
    path = catalog_path(store, name)
    if not path.exists():
        load_previous(db, None)
        return 0
    with as_local(path) as file:
        load_previous(db, file, columns)
        return int(pq.read_schema(file).metadata[VERSION.encode()])


_LONGEST_NIGHT = timedelta(days=7)
_WHEN = "%Y-%m-%dT%H%M%S"


def begin_work(store: UPath, dataset: str) -> UPath:
    """A folder for this night, which its last stage removes. What killed nights have left goes when it is so old
    that no night can be working with it."""
    folder = store / "work" / dataset
    for path in folder.iterdir() if folder.exists() else ():
        if _is_old(path):
            path.fs.rm(path.path, recursive=True)
    return folder / f"{datetime.now(UTC):{_WHEN}}-{uuid4().hex[:8]}"


def at_work(store: UPath, dataset: str) -> bool:
    """Whether a night may be between its scan and its catalog: one that was killed there looks the same until it is
    old."""
    folder = store / "work" / dataset
    return folder.exists() and not all(_is_old(path) for path in folder.iterdir())


def _is_old(path: UPath) -> bool:
    return path.name < f"{datetime.now(UTC) - _LONGEST_NIGHT:{_WHEN}}"
