"""Prefect's encryption key, which encrypts Secret blocks: in a file beside the database instead of in it."""

import base64
import contextlib
import json
import os
import sqlite3
from collections.abc import MutableMapping
from pathlib import Path

from resnet_core.errors import JobError
from tasks.access.passwords import own_secret
from tasks.store import sqlite_file

_KEY = "PREFECT_SERVER_ENCRYPTION_KEY"
_FIND = "select value from configuration where key = 'ENCRYPTION_KEY'"
_REMOVE = "delete from configuration where key = 'ENCRYPTION_KEY'"


def use_key(environ: MutableMapping[str, str]) -> None:
    """Give Prefect's server the key in the file, if there is one and no other is set."""
    database = prefect_database(environ)
    if database and _file(database).exists():
        environ.setdefault(_KEY, own_secret(_file(database)))


def take_key_out(environ: MutableMapping[str, str], patience: float = 5.0) -> None:
    """Move the key from the database to a file; make one for a database without. Blocks stay readable.

    Prefect makes the key itself when the first block is saved, and keeps it beside the block. Nothing is done for a
    database that is not a file, or if the user sets a key. patience: seconds that a locked database is waited for.
    """
    database = prefect_database(environ)
    if database is None or _KEY in environ or not database.parent.is_dir():
        return
    key = base64.urlsafe_b64encode(os.urandom(32)).decode()
    if database.exists():
        try:
            with contextlib.closing(sqlite3.connect(database, patience)) as db:
                if row := db.execute(_FIND).fetchone():
                    _move(db, json.loads(row[0])["fernet_key"], _file(database))
        except sqlite3.Error as error:
            if "no such table" not in str(error):  # Prefect has not made its tables yet
                # Another key would make all blocks unreadable.
                raise JobError(f"{database}: {error}. Nothing was changed: run the same command again.") from None
    own_secret(_file(database), key)
    use_key(environ)


def _move(db: sqlite3.Connection, key: str, file: Path) -> None:
    """Write the key to the file, then delete it from the database; a file with another key leaves both."""
    if own_secret(file, key) == key:
        db.execute("pragma secure_delete = on")
        db.execute(_REMOVE)
        db.commit()
        db.execute("pragma wal_checkpoint(truncate)")


def _file(database: Path) -> Path:
    return database.with_name(f"{database.name}.key")


def prefect_database(environ: MutableMapping[str, str]) -> Path | None:
    """Return the file of Prefect's database; None if it is another kind of database."""
    address = environ.get("PREFECT_SERVER_DATABASE_CONNECTION_URL", environ.get("PREFECT_API_DATABASE_CONNECTION_URL"))
    if address:
        return sqlite_file(address)
    home = environ.get("PREFECT_HOME")
    return Path(home).expanduser() / "prefect.db" if home else None
