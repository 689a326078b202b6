"""The folder in which a night's stages hand things to each other, from its scan to its catalog."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from upath import UPath

LONGEST_NIGHT = timedelta(days=7)
WHEN = "%Y-%m-%dT%H%M%S"


def begin_work(store: UPath, dataset: str) -> UPath:
    """A folder for this night, which its last stage removes. What killed nights have left goes when it is so old
    that no night can be working with it."""
    folder = store / "work" / dataset
    for path in folder.iterdir() if folder.exists() else ():
        if is_old(path):
            path.fs.rm(path.path, recursive=True)
    return folder / f"{datetime.now(UTC):{WHEN}}-{uuid4().hex[:8]}"


def at_work(store: UPath, dataset: str) -> bool:
    """Whether a night may be between its scan and its catalog: one that was killed there looks the same until it is
    old."""
    folder = store / "work" / dataset
    return folder.exists() and not all(is_old(path) for path in folder.iterdir())


def is_old(path: UPath) -> bool:
    return path.name < f"{datetime.now(UTC) - LONGEST_NIGHT:{WHEN}}"
