"""A DuckDB for the length of a block: joins and sorts of tables that need not fit in memory."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from resnet_core.files import write_whole

# Enough for the hash tables of a million images; beyond it DuckDB goes on in files.
MEMORY = "256MB"
ROW_GROUP = 4096

Config = dict[str, str | bool | int | float | list[str]]


@contextmanager
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty database; what goes beyond MEMORY lies in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="grayline-") as folder:
        config: Config = {
            "memory_limit": MEMORY,
            "threads": 2,
            "temp_directory": folder,
            "preserve_insertion_order": False,
        }
        with duckdb.connect(":memory:", config=config) as db:
            yield db


def create(db: duckdb.DuckDBPyConnection, name: str, schema: pa.Schema, rows: Iterable[pa.RecordBatch] = ()) -> None:
    """A table of the schema with all rows."""
    empty = schema.empty_table()
    db.register("incoming", empty)
    db.execute(f'create or replace table "{name}" as select * from incoming')
    db.unregister("incoming")
    append(db, name, rows)


def append(db: duckdb.DuckDBPyConnection, name: str, rows: Iterable[pa.RecordBatch]) -> None:
    """More rows for a table, a batch at a time."""
    for batch in rows:
        db.register("incoming", pa.Table.from_batches([batch]))
        db.execute(f'insert into "{name}" by name select * from incoming')
        db.unregister("incoming")


def pieces(db: duckdb.DuckDBPyConnection, query: str, rows: int) -> Iterator[pa.Table]:
    """The query's rows in order, as tables of exactly `rows` rows but for the last."""
    waiting: list[pa.RecordBatch] = []
    held = 0
    reader = db.sql(query).to_arrow_reader(rows)
    for batch in reader:
        while held + len(batch) >= rows:
            wanted = rows - held
            yield pa.Table.from_batches([*waiting, batch.slice(0, wanted)], reader.schema)
            batch, waiting, held = batch.slice(wanted), [], 0
        if len(batch):
            waiting.append(batch)
            held += len(batch)
    if held:
        yield pa.Table.from_batches(waiting, reader.schema)


def write_query(
    db: duckdb.DuckDBPyConnection, query: str, path: UPath, metadata: Mapping[str, str] | None = None
) -> None:
    """The query's rows, in order, as one Parquet file. Row groups are small: whoever wants the rows of
    one part reads few others."""
    schema = db.sql(query).limit(0).to_arrow_table().schema.with_metadata(metadata)
    with write_whole(path) as draft, pq.ParquetWriter(draft, schema, compression="zstd") as writer:
        for piece in pieces(db, query, ROW_GROUP):
            writer.write_table(piece)


def count(db: duckdb.DuckDBPyConnection, query: str) -> int:
    """The query's only value, an integer."""
    return int(db.execute(query).fetchall()[0][0])
