"""A store that has moved: its own MLflow database names files by their absolute places, and these follow the store.

`mlflow.db` and `mlartifacts/` lie side by side. A store that is moved, copied or restored brings both along, but the
places are those of the former folder. An MLflow server gives places of another kind, `mlflow-artifacts:/`, which only
that server can read. Both become the place where the files lie now.
"""

import logging
import re
import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path
from urllib.parse import quote, unquote

from tasks.store import ARTIFACTS, sqlite_file

_SCHEME = re.compile(r"^([a-z-]+:)?/*")

log = logging.getLogger("grayline")

# Columns of MLflow 3 that hold a place.
_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)


@cache
def follow_store(tracking_uri: str) -> None:
    """Correct the places in a store's own database, once a process. Other registries are left as they are."""
    database = sqlite_file(tracking_uri)
    if database is None or not (database.is_file() and (database.parent / ARTIFACTS).is_dir()):
        return
    artifacts = database.absolute().parent / ARTIFACTS  # a place is a URL, and the folder of a process is none
    with closing(sqlite3.connect(database, timeout=30)) as db, db:
        moved = sum(_correct(db, table, column, artifacts) for table, column in _PLACES if _has(db, table, column))
    if moved:
        log.info("mlflow      %s: the store has moved, %d places of files in it are corrected", database, moved)


def place_within(place: str, artifacts: Path) -> str:
    """Return the place of files below this folder of artifacts, if it is one that an MLflow server gives."""
    return f"file://{quote(f'{artifacts}/{_below(place)}')}" if place.startswith("mlflow-artifacts:/") else place


def _has(db: sqlite3.Connection, table: str, column: str) -> bool:
    return any(name == column for _, name, *_ in db.execute(f"pragma table_info({table})"))


def _correct(db: sqlite3.Connection, table: str, column: str, artifacts: Path) -> int:
    """Correct a column's places. Returns their number.

    A place stays whose files lie there and not here. So does one that names these files by a link to the store.
    """
    own = f"file://{quote(str(artifacts))}/"
    places = db.execute(f"select rowid, {column} from {table} where substr({column}, 1, ?) != ?", (len(own), own))
    changes = [
        (own + quote(rest), row)
        for row, place in places
        if (rest := _below(place)) and _has_moved(_path(place), artifacts / rest)
    ]
    db.executemany(f"update {table} set {column} = ? where rowid = ?", changes)
    return len(changes)


def _has_moved(then: Path, now: Path) -> bool:
    return not then.exists() or (now.exists() and not now.samefile(then))


def _below(place: str) -> str:
    """Return the path below the folder of artifacts; empty for a place that is not below one."""
    if place.startswith("mlflow-artifacts:/"):
        return _path(place).as_posix().lstrip("/")
    _, inside, rest = _path(place).as_posix().rpartition(f"/{ARTIFACTS}/")
    return rest if inside and place.startswith(("file:", "/")) else ""


def _path(place: str) -> Path:
    """Return the path of a place: `file:///a`, `file:/a`, `/a`, `mlflow-artifacts:/a`."""
    return Path("/" + unquote(_SCHEME.sub("", place)))
