"""A DuckDB for the length of a block: joins and sorts of tables that need not fit in memory."""

import atexit
import glob
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain, islice
from itertools import count as numbers
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from resnet_core.storage.digest import check_seal, seal
from resnet_core.storage.files import as_local, whole, write_whole

_MEMORY = "256MB"  # enough for the hash tables of a million images; beyond it DuckDB goes on in files
_ROW_GROUP = 4096
BATCH_ROWS = 8192
_numbers = numbers()


@contextmanager
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield an empty database, gone when the block ends."""
    name, engine = f"night{next(_numbers)}", _engine(os.getpid())
    try:
        with engine.cursor() as db:
            db.execute(f"attach ':memory:' as {name}; use {name}")
            yield db
    finally:
        with engine.cursor() as db:
            db.execute(f"detach {name}")


@lru_cache
def _engine(process: int) -> duckdb.DuckDBPyConnection:
    """Start the engine that all databases of a process share; a start takes as long as a thousand look-ups.

    process: its number, for a forked process must not use its parent's engine.
    """
    folder = tempfile.mkdtemp(prefix="grayline-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return duckdb.connect(
        ":memory:",
        config={
            "memory_limit": _MEMORY,
            "threads": 2,
            "temp_directory": folder,
            "temp_file_encryption": True,  # with a key of this process: what it spills tells of confidential images
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,  # it would fetch them from duckdb.org
            "allocator_background_threads": True,  # give memory back to the system, though the engine stays
        },
    )


def create(db: duckdb.DuckDBPyConnection, name: str, schema: pa.Schema, rows: Iterable[pa.RecordBatch] = ()) -> None:
    """Create a table of the schema with all rows; columns that they lack are null."""
    tables = _together(rows)
    first = _joined([schema.empty_table(), *islice(tables, 1)])
    _run(db, f'create or replace table "{name}" as select * from incoming', first)
    for table in tables:
        _run(db, f'insert into "{name}" by name select * from incoming', table)


def _together(rows: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yield BATCH_ROWS rows or a few more at a time: a statement costs as much as a thousand rows."""
    waiting: list[pa.Table] = []
    for batch in rows:
        waiting.append(pa.Table.from_batches([batch]))
        if sum(map(len, waiting)) >= BATCH_ROWS:
            yield _joined(waiting)
            waiting = []
    if waiting:
        yield _joined(waiting)


def _joined(tables: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables, promote_options="default")


def _run(db: duckdb.DuckDBPyConnection, statement: str, incoming: pa.Table) -> None:
    db.register("incoming", incoming)
    db.execute(statement)
    db.unregister("incoming")


def pieces(db: duckdb.DuckDBPyConnection, query: str, rows: int) -> Iterator[pa.Table]:
    """Yield the query's rows in order, as tables of exactly `rows` rows but for the last."""
    waiting: list[pa.RecordBatch] = []
    held = 0
    reader = db.sql(query).to_arrow_reader(rows)
    for batch in reader:
        while held + len(batch) >= rows:
            room = rows - held
            yield pa.Table.from_batches([*waiting, batch.slice(0, room)], reader.schema)
            batch, waiting, held = batch.slice(room), [], 0
        if len(batch):
            waiting.append(batch)
            held += len(batch)
    if held:
        yield pa.Table.from_batches(waiting, reader.schema)


def write_through(rows: Iterator[pa.Table], path: UPath, metadata: Mapping[str, str]) -> Iterator[pa.Table]:
    """Yield the same tables; once the last is taken, they are one Parquet file.

    Row groups are small, so that reading one part of the rows reads few others.
    """
    first = next(rows)
    schema = first.schema.with_metadata(metadata)
    with (
        write_whole(path) as draft,
        pq.ParquetWriter(draft, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        for table in chain([first], rows):
            writer.write_table(table, row_group_size=_ROW_GROUP)
            yield table
        writer.close()
        seal(draft)


def write_parquet(path: UPath, table: pa.Table, **how: Any) -> None:
    """Write a Parquet file whole or not at all, with the checksums and the seal that `check_parquet` looks at."""
    with write_whole(path) as draft:
        pq.write_table(table, draft, write_page_checksum=True, **how)
        seal(draft)


def check_parquet(path: UPath) -> None:
    """Read a Parquet file with its checksums, a piece at a time, and hold it to its seal. Raises DamagedFileError."""
    with as_local(path) as local, whole(path):
        for _ in pq.ParquetFile(local, page_checksum_verification=True).iter_batches():
            pass
        check_seal(local)


def file_name(path: object) -> str:
    """Return how DuckDB is told a file: its stars and brackets would be a pattern for others."""
    return glob.escape(str(path))


def count(db: duckdb.DuckDBPyConnection, query: str, params: Mapping[str, object] | None = None) -> int:
    """Return the query's only value, an integer."""
    return int(db.execute(query, params).fetchall()[0][0])
