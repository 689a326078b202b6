"""History: the changes of the catalog by version, a file a night.

file                   rows (_CHANGE)
000001.parquet         source files that came, went or changed in version 1, with values before and after
000001-000064.parquet  the same of versions 1 to 64, once more than MOST files exist

The difference of two versions follows from the rows between them, without the catalog.
"""

import re
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from resnet_core.errors import UserError
from resnet_core.storage.database import check_parquet, create, database, write_parquet
from resnet_core.storage.files import whole

MOST = 64
_REMEDY = (
    "It has what changed in these versions of the catalog. Restore it from a backup of the store; without one, "
    "delete it, and `grayline catalog log` and `diff` lack them."
)
WATCHED = ("image_id", "label", "soft_label", "split", "status")
_CHANGE = pa.schema(
    [
        ("version", pa.int32()),
        ("uri", pa.string()),
        ("change", pa.string()),  # came, went, changed
        *((f"{name}_before", pa.string()) for name in WATCHED),
        *((name, pa.string()) for name in WATCHED),
    ]
)

_DELTA = f"""
select coalesce(a.uri, b.uri) as uri,
    case when a.uri is null then 'came' when b.uri is null then 'went' else 'changed' end as change,
    {", ".join(f"a.{name} as {name}_before" for name in WATCHED)}, {", ".join(f"b.{name}" for name in WATCHED)}
from (select * from previous where present) a full join (select * from finished where present) b on a.uri = b.uri
where a.uri is null or b.uri is null or ({", ".join(f"a.{name}" for name in WATCHED)})
    is distinct from ({", ".join(f"b.{name}" for name in WATCHED)})
order by uri
"""

_BETWEEN = f"""
select uri, case when change_first = 'came' and change_last = 'went' then null when change_first = 'came' then 'came'
        when change_last = 'went' then 'went' else 'changed' end as change,
    {", ".join(f"{name}_before" for name in WATCHED)}, {", ".join(WATCHED)}
from (
    select uri, arg_min(change, version) as change_first, arg_max(change, version) as change_last,
        {", ".join(f"arg_min_null({name}_before, version) as {name}_before" for name in WATCHED)},
        {", ".join(f"arg_max_null({name}, version) as {name}" for name in WATCHED)}
    from changes where version > $low and version <= $high group by uri
)
where change is not null
    and ({", ".join(f"{name}_before" for name in WATCHED)}) is distinct from ({", ".join(WATCHED)})
order by uri
"""


@dataclass(frozen=True)
class _Delta:
    """A file of the history with the versions `first` to `last`."""

    path: UPath
    first: int
    last: int


def _deltas(folder: UPath) -> list[_Delta]:
    """Return the history's files in order, without those that a longer one has replaced."""
    deltas = []
    for path in folder.glob("*.parquet") if folder.exists() else ():
        if match := re.fullmatch(r"(\d{6})(?:-(\d{6}))?\.parquet", path.name):
            deltas.append(_Delta(path, int(match[1]), int(match[2] or match[1])))
    deltas.sort(key=lambda delta: (delta.first, -delta.last))
    kept: list[_Delta] = []
    for delta in deltas:
        if not kept or delta.first > kept[-1].last:
            kept.append(delta)
    return kept


def check(folder: UPath) -> None:
    """Raise DamagedFileError for a file of other bytes than were written, ValueError for a version that is missing."""
    for delta in _deltas(folder):
        check_parquet(delta.path)
    numbers = versions(folder)["version"].to_pylist()
    if gaps := sorted(set(range(1, last_version(folder) + 1)) - set(numbers)):
        raise ValueError(f"version {gaps[0]} of the catalog is missing")


def last_version(folder: UPath) -> int:
    """Return the newest version, 0 before the first night."""
    return max((delta.last for delta in _deltas(folder)), default=0)


def append(db: duckdb.DuckDBPyConnection, folder: UPath, version: int) -> int:
    """Write the difference of `previous`, of this version, and `finished` as the next version, unless there is none.

    Returns the version of `finished`. The next night overwrites the file of a night killed before its catalog.
    """
    changes = db.sql(_DELTA).to_arrow_table()
    if not len(changes) and version:
        return version
    numbers = pa.array([version + 1] * len(changes), pa.int32())
    table = changes.append_column("version", numbers).select(_CHANGE.names).cast(_CHANGE)
    write_parquet(folder / f"{version + 1:06}.parquet", table, compression="zstd")
    return version + 1


def compact(folder: UPath) -> None:
    """Join the files into one if there are more than MOST.

    A kill loses nothing and counts nothing twice: the long file is whole before the short ones go.
    """
    deltas = _deltas(folder)
    if len(deltas) > MOST:
        # Files of older code may lack columns.
        joined = pa.concat_tables([_read(delta) for delta in deltas], promote_options="default")
        write_parquet(folder / f"{deltas[0].first:06}-{deltas[-1].last:06}.parquet", joined, compression="zstd")
    kept = {delta.path.name for delta in _deltas(folder)}
    for path in folder.glob("*.parquet"):
        if path.name not in kept:
            path.unlink()


def difference(folder: UPath, low: int, high: int) -> pa.Table:
    """Return the files that came, went or changed from version `low` to `high`: _CHANGE without version.

    Version 0 is before the first night. Raises UserError for a version that does not exist.
    """
    last = last_version(folder)
    for version in (low, high):
        if not 0 <= version <= last:
            known = f"1 to {last}" if last else "none yet"
            raise UserError(f"catalog: there is no version {version}. There are: {known}.")
    if low > high:
        raise UserError(f"catalog: version {low} comes after {high}. Give the older one first.")
    with database() as db:
        _load(db, [delta for delta in _deltas(folder) if delta.last > low and delta.first <= high])
        return db.sql(_BETWEEN, params={"low": low, "high": high}).to_arrow_table()


def restored(folder: UPath) -> tuple[int, pa.Table]:
    """Return the newest version, 0 without any, and its files with the columns WATCHED: all that a history knows."""
    last = last_version(folder)
    return last, difference(folder, 0, last).select(["uri", *WATCHED])


def versions(folder: UPath) -> pa.Table:
    """Return the numbers of files that `came`, `went` and `changed` by `version`."""
    with database() as db:
        _load(db, _deltas(folder))
        return db.sql(
            "select version, count(*) filter (change = 'came') as came, count(*) filter (change = 'went') as went, "
            "count(*) filter (change = 'changed') as changed from changes group by version order by version"
        ).to_arrow_table()


def _load(db: duckdb.DuckDBPyConnection, files: list[_Delta]) -> None:
    create(db, "changes", _CHANGE, (batch for delta in files for batch in _read(delta).to_batches()))


def _read(delta: _Delta) -> pa.Table:
    with whole(delta.path, _REMEDY), delta.path.open("rb") as file:
        return pq.read_table(file, page_checksum_verification=True)
