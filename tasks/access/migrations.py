"""Migrations: before another version of MLflow or Prefect opens a database of the store, it is copied.

`_store.json` has the versions that opened it last. Prefect brings its database up to date when its server starts;
MLflow asks for a command of its own, which is run here. PostgreSQL is its owner's to back up.
"""

import logging
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

from packaging.version import Version
from upath import UPath

from resnet_core.errors import JobError, UserError
from resnet_core.storage.turns import turn
from tasks.store import Store, note_in_mark, read_mark

log = logging.getLogger("grayline")

_FILES = {"mlflow": ("mlflow.db", "stack/mlflow-users.db"), "prefect": ("prefect/prefect.db",)}
_KEY = "opened_by"


def bring_up_to_date(root: UPath) -> None:
    """Copy and migrate databases that another version has opened last. Raises UserError if that was a newer one."""
    installed = {name: version(name) for name in _FILES}
    if _opened_by(root) == installed:
        return
    if not any(Path(root.path, file).exists() for files in _FILES.values() for file in files):
        note_in_mark(root, {_KEY: installed})
        return
    with turn(Store(root).turn("@migration"), wait=True):
        before = _opened_by(root)
        for name, now in installed.items():
            last = before.get(name, "")
            if last != now:
                _check_order(root, name, last, now)
                for file in _FILES[name]:
                    _copy(Path(root.path, file), Path(Store(root).backups().path), last or "before")
        if before.get("mlflow") != installed["mlflow"] and Path(root.path, "mlflow.db").exists():
            _migrate_mlflow(Store(root).tracking_uri())
        note_in_mark(root, {_KEY: installed})


def _opened_by(root: UPath) -> dict[str, Any]:
    found = read_mark(root).get(_KEY)
    return found if isinstance(found, dict) else {}


def _check_order(root: UPath, name: str, last: str, now: str) -> None:
    databases = [file for file in _FILES[name] if Path(root.path, file).exists()]
    if last and databases and Version(last) > Version(now):
        raise UserError(
            f"GRAYLINE_STORE: {name} {last} has opened {databases[0]} in {root}, and {name} {now} is installed. "
            f"Install {name}=={last} or newer, or set GRAYLINE_STORE to another store."
        )


def _copy(database: Path, to: Path, last: str) -> None:
    """Copy a database that may be in use; the copy of an earlier version goes."""
    if not database.exists():
        return
    to.mkdir(exist_ok=True)
    copy = to / f"{database.stem}@{last}.db"
    if not copy.exists():
        draft = to / f".{copy.name}"
        draft.unlink(missing_ok=True)
        with closing(sqlite3.connect(database, timeout=60)) as source, closing(sqlite3.connect(draft)) as target:
            source.backup(target)
        draft.replace(copy)
    for other in to.glob(f"{database.stem}@*.db"):
        if other != copy:
            other.unlink()
    log.info("store       %s is copied to %s: another version opens it now", database.name, copy)


def _migrate_mlflow(address: str) -> None:
    """Run `mlflow db upgrade`, which changes nothing in a database that is up to date."""
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", "db", "upgrade", address], capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise JobError(
            f"mlflow.db: `mlflow db upgrade` failed ({lines[-1][:200]}). Its copy lies in backups/; install the "
            "version of MLflow that opened it last, or move the copy back."
        )
