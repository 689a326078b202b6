"""A split begun anew: a person's decision, with who, when and why, that the next night carries out. A catalog again.

The file `splits.json` beside the catalog's history has an entry for each. Their number is the split's generation: it
goes into the hash, so that a test image of before may become a training image.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import pyarrow as pa
from upath import UPath

from resnet_core.catalog import build, history
from resnet_core.catalog.history import last_version
from resnet_core.errors import JobError, UserError, plural
from resnet_core.storage import database
from resnet_core.storage.files import DamagedFileError, read_json, write_text
from tasks.store import CATALOG_VERSION, LOOK_ALIKES_SOUGHT, NOTES, SPLIT_GENERATION, SPLITS, Store
from tasks.workspace import Workspace

log = logging.getLogger("grayline")

# Without it, the split would go back to the one that people have left.
_REMEDY = (
    "It says when the split began anew. Restore it from a backup of the store; without one, delete it, and run "
    "`grayline split --again NAME`."
)
_NOTES_REMEDY = (
    "It says how gray levels and folders were read. Restore it from a backup of the store; without one, delete it, and "
    "both are decided anew."
)


@dataclass(frozen=True)
class _Beginning:
    """A split that a person began anew after `version` of the catalog."""

    at: str  # ISO 8601, UTC
    who: str
    version: int
    why: str


def beginnings(history: UPath) -> tuple[_Beginning, ...]:
    """Return all of a data set, oldest first. history: the folder of its catalog's versions."""
    path = history / SPLITS
    if not path.exists():
        return ()
    return tuple(_Beginning(**entry) for entry in read_json(path, _REMEDY))


def begin_again(store: Store, name: str, why: str) -> _Beginning:
    """Record that the next night splits the data set anew. Raises UserError for an unknown data set, or no reason."""
    from tasks.registry.champion import shortened, who  # MLflow takes 2 s to import

    if not why.strip():
        raise UserError("--reason: is empty. Say why the split begins anew: it is recorded.")
    history = store.history(store.find_catalog(name))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    begun = _Beginning(now, who(), last_version(history), shortened(why))
    entries = [asdict(entry) for entry in (*beginnings(history), begun)]
    write_text(history / SPLITS, json.dumps(entries, indent=2, ensure_ascii=False) + "\n")
    return begun


def seed_of(seed: int, generation: int) -> str:
    """Return the text that the hash begins with; that of the first generation is the seed alone."""
    return f"{seed}.{generation}" if generation else str(seed)


def keep_notes(history: UPath, notes: Mapping[str, str]) -> None:
    """Keep a copy of what a catalog's metadata says: the decisions of earlier nights outlive a damaged catalog."""
    text = json.dumps(notes, indent=2, sort_keys=True) + "\n"
    path = history / NOTES
    if not path.exists() or path.read_bytes() != text.encode():
        write_text(path, text)


def heal_catalog(dataset: str, here: Workspace) -> None:
    """Restore a catalog that is damaged, or gone, from its history: files with labels, splits and statuses.

    Facts of the files, and rows of files that are gone, are lost. Raises JobError without a history.
    """
    path, versions = here.store.catalog(dataset), here.store.history(dataset)
    why = "is gone"
    if path.exists():
        try:
            database.check_parquet(path)
            return
        except DamagedFileError as error:
            why = f"is damaged ({error.why})"
    version, rows = history.restored(versions)
    if not version:
        if path.exists():
            raise JobError(f"{path} {why}. Restore it from a backup of the store, or delete it to begin anew.")
        return
    columns = {
        name: rows[name] if name in rows.column_names else pa.nulls(len(rows), field.type)
        for name, field in zip(build.CATALOG.names, build.CATALOG, strict=True)
    }
    table = pa.table(columns | {"present": pa.array([True] * len(rows))}, build.CATALOG)
    notes = read_json(versions / NOTES, _NOTES_REMEDY) if (versions / NOTES).exists() else {}
    notes |= {CATALOG_VERSION: str(version), SPLIT_GENERATION: str(len(beginnings(versions)))}
    notes.pop(LOOK_ALIKES_SOUGHT, None)  # the restored rows do not have what was found
    list(database.write_through(iter([table]), path, notes))
    log.warning(
        "ingest      %s %s: %s restored from %s, with labels, splits and decisions; every file is read again",
        path, why, plural(len(rows), "row"), versions,
    )  # fmt: skip
