"""The key of Prefect's Secret blocks does not lie in the database that has the blocks."""

import json
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from resnet_core.errors import JobError
from tasks.access.prefect_key import take_key_out, use_key

NAME = "PREFECT_SERVER_ENCRYPTION_KEY"


def make_database(folder: Path, key: bytes) -> None:
    """A database as Prefect leaves it after a block: the key in a table of settings."""
    with closing(sqlite3.connect(folder / "prefect.db")) as db, db:
        db.execute("pragma journal_mode = wal")
        db.execute("create table configuration (key text, value json)")
        db.execute("insert into configuration values ('ENCRYPTION_KEY', ?)", [json.dumps({"fernet_key": key.decode()})])
        db.execute("insert into configuration values ('TELEMETRY_SESSION', '{}')")


def test_the_key_moves_out_of_the_database_and_is_used(tmp_path: Path) -> None:
    key = Fernet.generate_key()
    make_database(tmp_path, key)
    environ = {"PREFECT_HOME": str(tmp_path)}
    take_key_out(environ)
    file = tmp_path / "prefect.db.key"
    assert environ[NAME] == file.read_text() == key.decode()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with sqlite3.connect(tmp_path / "prefect.db") as db:
        assert db.execute("select key from configuration").fetchall() == [("TELEMETRY_SESSION",)]
    assert not [path for path in tmp_path.iterdir() if path != file and key in path.read_bytes()]
    again = {"PREFECT_HOME": str(tmp_path)}
    use_key(again)  # a command without `make up`
    assert again[NAME] == key.decode()


@pytest.mark.parametrize("table", [True, False], ids=["no key yet", "no table yet"])
def test_a_new_database_gets_a_key_outside(tmp_path: Path, table: bool) -> None:
    with sqlite3.connect(tmp_path / "prefect.db") as db:
        if table:
            db.execute("create table configuration (key text, value json)")
    environ = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{tmp_path}/prefect.db"}
    take_key_out(environ)
    Fernet(environ[NAME].encode())  # a valid key
    assert (tmp_path / "prefect.db.key").read_text() == environ[NAME]


def test_a_database_that_is_locked_gets_no_other_key(tmp_path: Path) -> None:
    """Another key would make all its blocks unreadable."""
    key = Fernet.generate_key()
    make_database(tmp_path, key)
    environ = {"PREFECT_HOME": str(tmp_path)}
    with closing(sqlite3.connect(tmp_path / "prefect.db", isolation_level=None)) as other:
        other.execute("pragma journal_mode = delete")  # its readers wait for a writer
        other.execute("begin exclusive")
        with pytest.raises(JobError, match=r"database is locked\. Nothing was changed"):
            take_key_out(environ, patience=0.1)
    assert NAME not in environ
    take_key_out(environ)
    assert environ[NAME] == key.decode()
    with closing(sqlite3.connect(tmp_path / "prefect.db")) as db:
        assert db.execute("select key from configuration").fetchall() == [("TELEMETRY_SESSION",)]


def test_a_key_that_the_user_sets_stays(tmp_path: Path) -> None:
    make_database(tmp_path, Fernet.generate_key())
    environ = {"PREFECT_HOME": str(tmp_path), NAME: "theirs"}
    take_key_out(environ)
    assert environ[NAME] == "theirs"
    assert not (tmp_path / "prefect.db.key").exists()


@pytest.mark.parametrize(
    "environ", [{}, {"PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql+asyncpg://me@db/prefect"}]
)
def test_a_database_that_is_not_a_file_is_left_alone(environ: dict[str, str]) -> None:
    before = dict(environ)
    take_key_out(environ)
    use_key(environ)
    assert environ == before
