"""Sink `iceberg:CATALOG/NAMESPACE.TABLE`: an Iceberg table partitioned by batch.

A commit replaces the files of one batch. PyIceberg's own configuration says how the catalog is reached.
"""

import re
import uuid
import warnings
from collections.abc import Iterator
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NotInstalledError,
    RESTError,
    TableAlreadyExistsError,
    ValidationException,
)
from pyiceberg.expressions import EqualTo
from pyiceberg.table import Table
from sqlalchemy.exc import SQLAlchemyError

from resnet_core.errors import UserError
from tasks.sinks.rows import ADDED, BATCH, COLUMNS, differences

ERRORS: tuple[type[Exception], ...] = (
    CommitFailedException,
    ValidationException,
    RESTError,
    SQLAlchemyError,
    OSError,
)
_ROWS_A_FILE = 1024**2
# With the batch's full name in a file's metrics, PyIceberg drops the file without opening it.
_KNOWN = {f"write.metadata.metrics.column.{BATCH}": "full"}
_PLACE = re.compile(r"([^/]+)/([^/]+)\.([^/.]+)")


def check(place: str) -> None:
    """Raises UserError unless the catalog is there and its table, if it has one, is a table of scores."""
    catalog, name = _open_catalog(place)
    if catalog.table_exists(name) and (wrong := differences(catalog.load_table(name).schema().as_arrow())):
        raise UserError(f"--to: the Iceberg table {place} {wrong}. Choose another name.")


def _open_catalog(place: str) -> tuple[Catalog, str]:
    """Return the catalog and the table's name in it."""
    match = _PLACE.fullmatch(place)
    if not match:
        raise UserError(f"--to: iceberg:{place} is not iceberg:CATALOG/NAMESPACE.TABLE.")
    try:
        return load_catalog(match[1]), f"{match[2]}.{match[3]}"
    except (ValueError, NotInstalledError) as error:
        raise UserError(f"--to: the catalog {match[1]} is not set up for PyIceberg ({error}).") from None


def write(place: str, batch: str, rows: Iterator[pa.RecordBatch]) -> None:
    """Raises an exception of ERRORS and changes nothing on failure.

    ValidationException: another process has written the same batch.
    """
    warnings.filterwarnings("ignore", message="Delete operation did not match any records")
    table = open_table(*_open_catalog(place))
    with table.transaction() as transaction:
        if not set(ADDED) <= set(table.schema().column_names):
            with transaction.update_schema() as update:
                update.union_by_name(COLUMNS)
        # Needed even without rows to delete: PyIceberg compares the deletion with other commits.
        transaction.delete(EqualTo(term=BATCH, value=batch))
        if files := _write_files(table, rows):
            transaction.add_files(files, check_duplicate_files=False)


def open_table(catalog: Catalog, identifier: str) -> Table:
    """Return the table; create it if it is missing."""
    if not catalog.table_exists(identifier):
        catalog.create_namespace_if_not_exists(identifier.rpartition(".")[0])
        with (
            suppress(TableAlreadyExistsError),
            catalog.create_table_transaction(identifier, schema=COLUMNS, properties=_KNOWN) as made,
            made.update_spec() as partition,
        ):
            partition.add_identity(BATCH)
    return catalog.load_table(identifier)


def _write_files(table: Table, rows: Iterator[pa.RecordBatch]) -> list[str]:
    """Write Parquet files of up to _ROWS_A_FILE rows into the table's folder. Returns their locations, uncommitted."""
    files: list[str] = []
    piece = next(rows, None)
    while piece is not None:
        at = table.location_provider().new_data_location(f"{uuid.uuid4()}.parquet")
        left = _ROWS_A_FILE
        with table.io.new_output(at).create() as file, pq.ParquetWriter(file, COLUMNS, compression="zstd") as writer:
            while piece is not None and left > 0:
                writer.write_batch(piece)
                left -= len(piece)
                piece = next(rows, None)
        files.append(at)
    return files
