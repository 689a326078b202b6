"""Prefect's encryption key, which encrypts Secret blocks: in a file beside the database instead of in it."""

import base64
import contextlib
import json
import os
import re
import sqlite3
from collections.abc import MutableMapping
from pathlib import Path
from urllib.parse import unquote

from tasks.access.passwords import own_secret

_KEY = "PREFECT_SERVER_ENCRYPTION_KEY"
_FIND = "select value from configuration where key = 'ENCRYPTION_KEY'"
_REMOVE = "delete from configuration where key = 'ENCRYPTION_KEY'"


def use_key(environ: MutableMapping[str, str]) -> None:
    """Give Prefect's server the key in the file, if there is one and no other is set."""
    database = _database(environ)
    if database and _file(database).exists():
        environ.setdefault(_KEY, own_secret(_file(database)))


def take_key_out(environ: MutableMapping[str, str]) -> None:
    """Move the key from the database to a file; make one for a database without. Blocks stay readable.

    Prefect makes the key itself when the first block is saved, and keeps it beside the block. Nothing is done for a
    database that is not a file, or if the user sets a key.
    """
    database = _database(environ)
    if database is None or _KEY in environ or not database.parent.is_dir():
        return
    key = base64.urlsafe_b64encode(os.urandom(32)).decode()
    if database.exists() and not _file(database).exists():
        with contextlib.closing(sqlite3.connect(database)) as db, contextlib.suppress(sqlite3.OperationalError):
            row = db.execute(_FIND).fetchone()  # no such table: Prefect has not made it yet
            if row:
                own_secret(_file(database), json.loads(row[0])["fernet_key"])
                db.execute("pragma secure_delete = on")
                db.execute(_REMOVE)
                db.commit()
                db.execute("pragma wal_checkpoint(truncate)")
    own_secret(_file(database), key)
    use_key(environ)


def _file(database: Path) -> Path:
    return database.with_name(f"{database.name}.key")


def _database(environ: MutableMapping[str, str]) -> Path | None:
    """Return the file of Prefect's database; None if it is another kind of database."""
    address = environ.get("PREFECT_SERVER_DATABASE_CONNECTION_URL", environ.get("PREFECT_API_DATABASE_CONNECTION_URL"))
    if address:
        file = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+).*", address)
        return Path(unquote(file[1])) if file else None
    home = environ.get("PREFECT_HOME")
    return Path(home).expanduser() / "prefect.db" if home else None
