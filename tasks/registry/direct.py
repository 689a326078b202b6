"""Find and load a version without MLflow, whose import takes longer than a prediction.

In a store's own database the answer is three rows, and the files lie beside it. Everything else is asked of MLflow:
servers, schemas that this file does not know, a store that has moved. So is what is not there, for the message.
"""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from tasks.registry.integrity import FILES, check_files
from tasks.registry.loading import classifier_in, split_reference
from tasks.settings import Settings
from tasks.store import ARTIFACTS as STORED
from tasks.store import sqlite_file
from tasks.values import ModelVersion

if TYPE_CHECKING:
    from resnet_core.model.classifier import Classifier

_SCHEMAS = ("dc11669786a5",)  # Alembic's revisions of MLflow's tables that the statements below were written for
_NUMBER = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)  # as MLflow writes it, and SQLite can
_SECONDS = 5.0  # that another process may write for
_ONE = "select name from registered_models"
_BY_ALIAS = "select version from registered_model_aliases where name = ? and alias = ?"
_VERSION = """
    select run_id, source, storage_location, workspace, (
        select value from model_version_tags t where t.name = v.name and t.version = v.version and t.key = ?
    ) from model_versions v where name = ? and version = ? and current_stage is not 'Deleted_Internal'
"""


def load(
    tracking_uri: str, reference: str | None, device: str, field: str = "--model"
) -> tuple[ModelVersion, Classifier]:
    """Return a version and its classifier, after a check of its files. reference, errors: as `versions.resolve`."""
    if (found := _find(tracking_uri, reference)) is None:
        from tasks.registry import versions

        version = versions.resolve(tracking_uri, reference, field)
        return version, versions.load_classifier(tracking_uri, version, device)
    version, folder = found
    check_files(folder, version, version.files, Settings().verify_key)
    return version, classifier_in(folder, version, device)[0]


def _find(tracking_uri: str, reference: str | None) -> tuple[ModelVersion, Path] | None:
    """Return the version and the folder of its files. None: ask MLflow."""
    database = sqlite_file(tracking_uri)
    if database is None or not database.is_file() or "MLFLOW_WORKSPACE" in os.environ:
        return None
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=_SECONDS)) as db:
            return _read(db, reference, database.absolute().parent / STORED)
    except (sqlite3.Error, UnicodeError):  # MLflow asks again, and says what is wrong
        return None


def _read(db: sqlite3.Connection, reference: str | None, stored: Path) -> tuple[ModelVersion, Path] | None:
    if db.execute("select version_num from alembic_version").fetchall() not in [[(each,)] for each in _SCHEMAS]:
        return None
    if reference is None:
        names = db.execute(_ONE).fetchall()
        if len(names) != 1:
            return None
        reference = str(names[0][0])
    name, number, alias = split_reference(reference)
    if number is None:
        aliased = db.execute(_BY_ALIAS, (name, alias)).fetchall()
        number = str(aliased[0][0]) if len(aliased) == 1 else ""
    rows = db.execute(_VERSION, (FILES, name, int(number))).fetchall() if _NUMBER.fullmatch(number) else []
    if len(rows) != 1:
        return None
    run_id, source, location, workspace, listed = rows[0]
    place = urlsplit(location or source)
    folder = Path(unquote(place.path))
    if place.scheme != "file" or place.netloc or workspace != "default" or not listed:
        return None
    if not folder.resolve().is_relative_to(stored.resolve()):
        return None
    return (ModelVersion(name, number, run_id or "", listed), folder) if folder.is_dir() else None
