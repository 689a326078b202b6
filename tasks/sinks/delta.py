"""Sink `delta:PLACE`: a Delta table partitioned by batch. A commit replaces the files of one batch."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from deltalake import DeltaTable, WriterProperties, write_deltalake
from deltalake.exceptions import DeltaError

from resnet_core.credentials import opened
from resnet_core.errors import UserError
from resnet_core.storage import locations
from resnet_core.storage.files import to_output
from tasks.sinks.rows import ADDED, BATCH, COLUMNS, ROWS, differences

ERRORS: tuple[type[Exception], ...] = (DeltaError, OSError)
# Fail within seconds if the store does not answer; the default is minutes.
_IMPATIENT = {"max_retries": "2", "retry_timeout": "20s", "connect_timeout": "10s"}


def check(place: str) -> None:
    """Raises UserError or DeltaError unless the place has a table of scores or is empty."""
    to_output(place, "--to")
    at = opened(locations.absolute(place))
    if DeltaTable.is_deltatable(at, _IMPATIENT):
        if wrong := differences(pa.schema(DeltaTable(at, storage_options=_IMPATIENT).schema().to_arrow())):
            raise UserError(f"--to: the Delta table {place} {wrong}. Choose another place.")
    elif not locations.is_url(at) and Path(at).exists() and any(Path(at).iterdir()):
        raise UserError(f"--to: {place} is not a Delta table. Choose another folder.")


def write(place: str, batch: str, rows: Iterator[pa.RecordBatch]) -> None:
    """Raises DeltaError and changes nothing on failure, also if another process writes the same batch."""
    name, at = batch.replace("'", "''"), opened(locations.absolute(place))
    lacking = DeltaTable.is_deltatable(at) and not set(ADDED) <= {
        field.name for field in DeltaTable(at).schema().fields
    }
    write_deltalake(
        at,
        pa.RecordBatchReader.from_batches(COLUMNS, rows),
        mode="overwrite",
        predicate=f"{BATCH} = '{name}'",
        partition_by=[BATCH],
        schema_mode="merge" if lacking else None,
        writer_properties=WriterProperties(max_row_group_size=ROWS),
    )
