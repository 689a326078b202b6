"""A batch in an Iceberg table, partitioned by batch: the old files of the batch go and the new ones come in one commit.

Where the catalog is and how it is reached, PyIceberg's own configuration says.
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
# Files are dropped by what is known of them, and not opened, where their whole name is known.
_KNOWN = {f"write.metadata.metrics.column.{BATCH}": "full"}
_PLACE = re.compile(r"([^/]+)/([^/]+)\.([^/.]+)")


def check(place: str) -> None:
    """Raises UserError unless there is a catalog that has a table of scores there, or none."""
    catalog, name = _open_catalog(place)
    if catalog.table_exists(name) and (wrong := differences(catalog.load_table(name).schema().as_arrow())):
        raise UserError(f"--to: the Iceberg table {place} {wrong}. Choose another name.")


def _open_catalog(place: str) -> tuple[Catalog, str]:
    """The catalog, and the table's name in it."""
    named = _PLACE.fullmatch(place)
    if not named:
        raise UserError(f"--to: iceberg:{place} is not iceberg:CATALOG/NAMESPACE.TABLE.")
    try:
        return load_catalog(named[1]), f"{named[2]}.{named[3]}"
    except (ValueError, NotInstalledError) as error:
        raise UserError(f"--to: the catalog {named[1]} is not set up for PyIceberg ({error}).") from None


def write(place: str, batch: str, rows: Iterator[pa.RecordBatch]) -> None:
    """Raises ValidationException where another has written the same batch meanwhile; whatever it raises,
    nothing has changed."""
    warnings.filterwarnings("ignore", message="Delete operation did not match any records")
    table = open_table(*_open_catalog(place))
    with table.transaction() as transaction:
        if not set(ADDED) <= set(table.schema().column_names):
            with transaction.update_schema() as update:
                update.union_by_name(COLUMNS)
        # Even where there is nothing to delete: it is what PyIceberg compares with what others have committed.
        transaction.delete(EqualTo(term=BATCH, value=batch))
        if files := _write_files(table, rows):
            transaction.add_files(files, check_duplicate_files=False)


def open_table(catalog: Catalog, identifier: str) -> Table:
    """Made where it is missing."""
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
    """Parquet files of up to ROWS_A_FILE rows among the table's own; no table knows them yet."""
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
