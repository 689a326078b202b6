"""A batch in a table of a database: whichever SQLAlchemy reaches.

The old rows of the batch go and the new ones come in one transaction. PostgreSQL keeps lists as arrays, other
databases as JSON.
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

from resnet_core.errors import UserError, nearest
from tasks.sinks.rows import ADDED, BATCH, COLUMNS, missing_columns, with_text

TABLE = "scores"
ERRORS: tuple[type[Exception], ...] = (SQLAlchemyError,)
_DIALECTS = ["mariadb", "mssql", "mysql", "oracle", "postgresql", "sqlite"]
_PACKAGES = {"MySQLdb": "mysqlclient", "psycopg": "'grayline[postgres]'"}
_ROWS_A_STATEMENT = 1024  # as Python's objects a row takes many times the memory that it takes as Arrow's
_SECONDS_TO_CONNECT, _SECONDS_TO_WAIT = 10, 60
_TAKES_TABLES_BACK = ("postgresql", "sqlite")  # elsewhere one that was only tried out would stay
_LONGEST_NAME = 255  # characters of a batch's name, as of any folder's: MySQL indexes no text without end
NAME = re.compile(r"(?:(\w+)\.)?(\w+)", re.ASCII)


def check(place: str) -> None:
    """Raises UserError or SQLAlchemyError unless the database takes a row of scores, which is not kept."""
    url, table = _open_place(place)
    engine = open_engine(url)
    with engine.connect() as connection, connection.begin() as transaction:
        taken_back = engine.dialect.name in _TAKES_TABLES_BACK
        lacking = _check_columns(connection, table)
        if taken_back or lacking == []:
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
    """Raises SQLAlchemyError, and then nothing has changed. On PostgreSQL and SQLite who writes the same batch
    meanwhile waits for this one, and then replaces it."""
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
            some = _without_nul(piece.slice(start, _ROWS_A_STATEMENT))
            connection.execute(sa.insert(table), (some if arrays else with_text(some)).to_pylist())


def lock(connection: sa.Connection, name: str) -> None:
    """Until the transaction ends. SQLite's transactions have the whole database for themselves."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(name, 0))))


def _without_nul(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Text with a zero byte, as a name in an archive may have, is refused by PostgreSQL: it is spelt out."""
    columns = [
        pc.replace_substring(column, "\0", "\\x00") if pa.types.is_string(column.type) else column
        for column in rows.columns
    ]
    return pa.RecordBatch.from_arrays(columns, schema=rows.schema)


def _open_place(place: str) -> tuple[sa.URL, sa.Table]:
    """`URL` or `URL#TABLE` or `URL#SCHEMA.TABLE`."""
    address, _, name = place.partition("#")
    named = NAME.fullmatch(name or TABLE)
    if not named:  # it may be half a password, and is not repeated
        raise UserError("--to: after the # comes the name of a table. A # in a password is written as %23.")
    kind = address.partition(":")[0]
    try:
        url = sa.make_url(address)
        asynchronous = url.get_dialect().is_async
    except NoSuchModuleError:
        raise UserError(
            f"--to: {kind} is no database that SQLAlchemy knows.{nearest(kind, _DIALECTS)} A file's name ends in .csv "
            "or .csv.gz."
        ) from None
    except ArgumentError:
        raise UserError("--to: the database's URL is not DIALECT://USER:PASSWORD@HOST/DATABASE.") from None
    if asynchronous:
        raise UserError(f"--to: {kind} is a driver for asynchronous programs. Name another one.")
    if "table" in url.query:
        raise UserError("--to: the name of the table comes after a #, as in sqlite:///scores.db#scores.")
    schema, table = named.groups()
    return url, _table_of_scores(table, schema)


def open_engine(url: sa.URL) -> sa.Engine:
    """It keeps no connections. Raises UserError where the driver is missing."""
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
            json_serializer=as_it_is,
            connect_args=waits.get(driver, {}),
        )
    except ModuleNotFoundError as error:
        wanted = _PACKAGES.get(str(error.name), error.name)
        raise UserError(f"--to: {url.drivername} needs {error.name}. Run `pip install {wanted}`.") from None
    if driver == "pysqlite":
        # The sqlite3 module's own transactions begin too late to hold a CREATE TABLE.
        sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def as_it_is(value: str) -> str:
    """For JSON columns, whose values are text of JSON already."""
    return value


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
    """A row with a value in every column."""
    samples = {pa.string(): "", pa.bool_(): True, pa.list_(pa.string()): [""], pa.list_(pa.float32()): [0.5]}
    row = {field.name: samples.get(field.type, 0) for field in COLUMNS}
    return pa.RecordBatch.from_pylist([row | {"scored_at": datetime.now(UTC)}], COLUMNS)


def copy(connection: sa.Connection, table: sa.Table, rows: Iterator[pa.RecordBatch]) -> None:
    """Raises SQLAlchemyError; RuntimeError if the server has taken another number of rows than it was given."""
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
            raise RuntimeError(f"PostgreSQL has taken {cursor.rowcount:,} of {given:,} rows")


def _as_csv(rows: pa.RecordBatch) -> memoryview:
    sink = io.BytesIO()
    write_csv(with_text(rows, "{}", _in_array), sink, WriteOptions(include_header=False))
    return sink.getbuffer()


def _in_array(text: str) -> str:
    """An element of an array as PostgreSQL reads it: only quotes and backslashes are special, and no zero
    bytes may be in it."""
    escaped = text.replace("\0", "\\x00").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
