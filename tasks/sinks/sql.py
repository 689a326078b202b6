"""Sink `DATABASE-URL#TABLE`: a table of any database that SQLAlchemy reaches.

A transaction replaces the rows of the batch. Lists are arrays in PostgreSQL and JSON in other databases.
"""

import io
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from pyarrow.csv import WriteOptions, write_csv
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from resnet_core.credentials import opened
from resnet_core.errors import UserError, nearest, plural
from resnet_core.storage.files import to_output
from tasks.sinks.rows import ADDED, BATCH, COLUMNS, missing_columns, with_text

_TABLE = "scores"
ERRORS: tuple[type[Exception], ...] = (SQLAlchemyError,)
_DIALECTS = ["mariadb", "mssql", "mysql", "oracle", "postgresql", "sqlite"]
_PACKAGES = {"MySQLdb": "mysqlclient", "psycopg": "'grayline[postgres]'"}
_ROWS_A_STATEMENT = 1024  # Python objects take many times the memory of Arrow rows
_SECONDS_TO_CONNECT, _SECONDS_TO_WAIT = 10, 60
_UNDOES_CREATE_TABLE = ("postgresql", "sqlite")  # in other databases a table made for a check would stay
_LONGEST_NAME = 255  # characters of a batch's name; MySQL cannot index text without a length
_NAME = re.compile(r"(?:(\w+)\.)?(\w+)", re.ASCII)


def check(place: str) -> None:
    """Insert a row and roll back. Raises UserError or SQLAlchemyError if the database does not take it."""
    url, table = _open_place(place)
    engine = open_engine(url)
    with engine.connect() as connection, connection.begin() as transaction:
        lacking = _check_columns(connection, table)
        if engine.dialect.name in _UNDOES_CREATE_TABLE or lacking == []:
            _make_table(connection, table)
            replace(connection, table, "", iter([probe()]))
        transaction.rollback()


def _check_columns(connection: sa.Connection, table: sa.Table) -> list[str] | None:
    """Return the columns that an older release's table lacks, or None without a table. Raises UserError for others."""
    inspector = sa.inspect(connection)
    if not inspector.has_table(table.name, schema=table.schema):
        return None
    names = {column["name"] for column in inspector.get_columns(table.name, schema=table.schema)}
    if missing := missing_columns(names):
        raise UserError(
            f"--to: the table {table.fullname} has no column {', '.join(missing)}. Name another table after a #."
        )
    return [name for name in ADDED if name not in names]


def _make_table(connection: sa.Connection, table: sa.Table) -> None:
    """Make the table, or add the columns that an older release's table lacks."""
    for name in _check_columns(connection, table) or ():
        column = sa.schema.CreateColumn(table.c[name]).compile(dialect=connection.dialect)
        connection.exec_driver_sql(
            f"ALTER TABLE {connection.dialect.identifier_preparer.format_table(table)} ADD {column}"
        )
    table.metadata.create_all(connection)


def write(place: str, batch: str, rows: Iterator[pa.RecordBatch]) -> None:
    """Raises SQLAlchemyError and changes nothing on failure.

    On PostgreSQL and SQLite another process that writes the same batch waits, then replaces its rows.
    """
    url, table = _open_place(place)
    engine = open_engine(url)
    with engine.begin() as connection:
        lock(connection, table.fullname)
        _make_table(connection, table)
    with engine.begin() as connection:
        lock(connection, f"{table.fullname} {batch}")
        replace(connection, table, batch, rows)


def replace(connection: sa.Connection, table: sa.Table, batch: str, rows: Iterator[pa.RecordBatch]) -> None:
    connection.execute(sa.delete(table).where(table.c[BATCH] == batch))
    if connection.dialect.driver == "psycopg":
        copy(connection, table, map(_without_nul, rows))
        return
    arrays = connection.dialect.name == "postgresql"
    for piece in rows:
        for start in range(0, len(piece), _ROWS_A_STATEMENT):
            values = _without_nul(piece.slice(start, _ROWS_A_STATEMENT))
            connection.execute(sa.insert(table), (values if arrays else with_text(values)).to_pylist())


def lock(connection: sa.Connection, name: str) -> None:
    """Take a lock until the transaction ends. A transaction of SQLite locks the whole database by itself."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(name, 0))))


def _without_nul(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Replace zero bytes, which names in archives may have and PostgreSQL refuses, by the four characters \\x00."""
    columns = [
        pc.replace_substring(column, "\0", "\\x00") if pa.types.is_string(column.type) else column
        for column in rows.columns
    ]
    return pa.RecordBatch.from_arrays(columns, schema=rows.schema)


def _open_place(place: str) -> tuple[sa.URL, sa.Table]:
    """Parse `URL`, `URL#TABLE` or `URL#SCHEMA.TABLE`. Raises UserError."""
    address, _, name = opened(place).partition("#")
    match = _NAME.fullmatch(name or _TABLE)
    if not match:  # the text may be half a password and is not repeated
        raise UserError("--to: after the # comes the name of a table. Write a # in a password as %23.")
    kind = address.partition(":")[0]
    try:
        url = sa.make_url(address)
        asynchronous = url.get_dialect().is_async
    except NoSuchModuleError:
        raise UserError(
            f"--to: {kind} is not a database that SQLAlchemy knows.{nearest(kind, _DIALECTS)} "
            "A file's name ends in .csv or .csv.gz."
        ) from None
    except ArgumentError:
        raise UserError("--to: the database's URL is not DIALECT://USER:PASSWORD@HOST/DATABASE.") from None
    if asynchronous:
        raise UserError(f"--to: {kind} is a driver for asynchronous programs. Name another driver.")
    if "table" in url.query:
        raise UserError("--to: the name of the table comes after a #, as in sqlite:///scores.db#scores.")
    if url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:":
        to_output(url.database, "--to")
    schema, table = match.groups()
    return url, _table_of_scores(table, schema)


def open_engine(url: sa.URL) -> sa.Engine:
    """Return an engine that keeps no connections. Raises UserError if the driver is missing."""
    waits = {
        "psycopg": {"connect_timeout": _SECONDS_TO_CONNECT},
        "pysqlite": {"timeout": _SECONDS_TO_WAIT, "isolation_level": None},
    }
    try:
        driver = url.get_dialect().driver
        engine = sa.create_engine(
            url,
            poolclass=sa.NullPool,
            hide_parameters=True,
            json_serializer=str,  # values are JSON text already
            connect_args=waits.get(driver, {}),
        )
    except ModuleNotFoundError as error:
        package = _PACKAGES.get(str(error.name), error.name)
        raise UserError(f"--to: {url.drivername} needs {error.name}. Run `pip install {package}`.") from None
    if driver == "pysqlite":
        # Transactions of the sqlite3 module begin too late to include a CREATE TABLE.
        sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def _table_of_scores(name: str, schema: str | None) -> sa.Table:
    columns = [sa.Column(field.name, _column_type(field)) for field in COLUMNS]
    return sa.Table(name, sa.MetaData(), *columns, sa.Index(f"ix_{name}_{BATCH}", BATCH), schema=schema)


def _column_type(field: pa.Field) -> sa.types.TypeEngine[Any]:
    kind = field.type
    if pa.types.is_list(kind):
        numbers = pa.types.is_floating(kind.value_type)
        arrays: ARRAY[Any] = ARRAY(sa.REAL() if numbers else sa.Text())
        return sa.JSON(none_as_null=True).with_variant(arrays, "postgresql")
    if pa.types.is_timestamp(kind):
        return sa.DateTime(timezone=True)
    if field.name == BATCH:
        return sa.String(_LONGEST_NAME)
    plain: dict[pa.DataType, sa.types.TypeEngine[Any]] = {
        pa.string(): sa.Text(), pa.bool_(): sa.Boolean(), pa.float32(): sa.REAL(),
        pa.int32(): sa.Integer(), pa.int64(): sa.BigInteger(),
    }  # fmt: skip
    return plain[kind]


def probe() -> pa.RecordBatch:
    """Return a row with a value in every column."""
    samples = {pa.string(): "", pa.bool_(): True, pa.list_(pa.string()): [""], pa.list_(pa.float32()): [0.5]}
    row = {field.name: samples.get(field.type, 0) for field in COLUMNS}
    return pa.RecordBatch.from_pylist([row | {"scored_at": datetime.now(UTC)}], COLUMNS)


def copy(connection: sa.Connection, table: sa.Table, rows: Iterator[pa.RecordBatch]) -> None:
    """Send the rows by COPY. Raises SQLAlchemyError, and RuntimeError if the server counts other rows."""
    quote = connection.dialect.identifier_preparer
    names = ", ".join(quote.quote(column.name) for column in table.columns)
    command = f"COPY {quote.format_table(table)} ({names}) FROM STDIN (FORMAT csv)"
    driver: Any = connection.connection.driver_connection
    given = 0
    with driver.cursor() as cursor:
        try:
            with cursor.copy(command) as to:
                for piece in rows:
                    to.write(_as_csv(piece))
                    given += len(piece)
        except connection.dialect.loaded_dbapi.Error as error:
            raise DBAPIError(command, None, error, hide_parameters=True) from None
        if cursor.rowcount != given:
            raise RuntimeError(f"PostgreSQL has taken {cursor.rowcount:,} of {plural(given, 'row')}")


def _as_csv(rows: pa.RecordBatch) -> memoryview:
    sink = io.BytesIO()
    write_csv(with_text(rows, "{}", _in_array), sink, WriteOptions(include_header=False))
    return sink.getbuffer()


def _in_array(text: str) -> str:
    """Quote an element of a PostgreSQL array: quotes and backslashes are escaped, zero bytes spelt out."""
    escaped = text.replace("\0", "\\x00").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
