"""`grayline sort`: a batch's files as folders by label. The originals are never moved, changed or deleted.

Files unlike all that was learned go to `unknown`, others that need a person's look to `review`. Files that could not be
scored go to `failed`.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from resnet_core.errors import UserError
from resnet_core.sources import shard_files
from resnet_core.sources.fetch import open_files
from resnet_core.sources.listing import LISTING
from resnet_core.sources.locate import locate
from resnet_core.storage.database import database
from resnet_core.storage.files import is_local, to_output
from resnet_core.storage.locations import existing, is_url
from tasks.batch.folder import lies_in
from tasks.batch.values import Scores
from tasks.progress import progress
from tasks.report.words import file_name

REVIEW, FAILED, UNKNOWN = "review", "failed", "unknown"
RESERVED = (REVIEW, FAILED, UNKNOWN)
_AT_ONCE = 64  # files that are read together
_ENDINGS = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"II*\0": ".tif", b"MM\0*": ".tif", b"BM": ".bmp"}


def check_folder(to: str, scores: Scores, copy: bool) -> Path:
    """Return the folder to sort into. Raises UserError unless it is new or empty, and outside of the source."""
    path = to_output(to, "--to")
    if not is_local(path):
        raise UserError(f"--to: {to} is not on this machine. Name a folder.")
    folder = Path(path.path)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--to: {to} is not empty. Name a new folder.")
    if lies_in(str(folder), scores.source):
        raise UserError(f"--to: {to} lies in the batch's source, which would hold its files twice. Name another.")
    if scores.confidential and copy:
        raise UserError(f"--copy: {scores.model} is of encrypted data. Use --link: links hold no pixels.")
    return folder


def sort_files(scores: Scores, folder: Path, copy: bool) -> tuple[Counter[str], list[str]]:
    """Link or copy every file of a batch into a folder of its label. Return counts by folder, and files that are gone.

    Links need files of their own: members of archives and tables are copied.
    """
    counts: Counter[str] = Counter()
    gone: list[str] = []
    taken: set[str] = set()
    folders = _Folders()
    with progress("sort", scores.files, "files") as advance:
        for rows in _rows(scores):
            found = locate([row["uri"] for row in rows]).to_pylist()
            for row, file, data in zip(rows, found, _contents(found, copy), strict=True):
                if file["size"] is None or isinstance(data, OSError):
                    gone.append(row["uri"])
                    continue
                name = f"{folders.of(row)}/{_safe(file_name(row['uri']))}"
                if file["container"] and data and not re.search(r"\.\w{2,5}$", name):
                    name += next((end for head, end in _ENDINGS.items() if data.startswith(head)), "")
                place = folder / _free(name, taken)
                place.parent.mkdir(parents=True, exist_ok=True)
                if data is None:
                    place.symlink_to(existing(row["uri"]))
                else:
                    place.write_bytes(data)
                counts[place.parent.name] += 1
            advance(len(rows))
    return counts, gone


def _rows(scores: Scores) -> Iterator[list[dict[str, Any]]]:
    """Yield uri, status, label and marks of the batch's files, some at a time, in the order of their URIs."""
    # Rows of earlier releases have no column `unknown`.
    query = """
    select uri, status, label, needs_review, unknown
    from (select null::boolean as unknown where false union all by name from read_parquet($files, union_by_name = true))
    order by uri
    """
    with database() as db:
        table = db.sql(query, params={"files": [str(part) for part in scores.parts]}).to_arrow_table()
    for batch in table.to_batches(_AT_ONCE):
        yield batch.to_pylist()


def _contents(found: list[dict[str, Any]], copy: bool) -> Iterator[bytes | OSError | None]:
    """Yield the bytes of the files that are copied; None for those that can be linked."""
    linked = [not copy and row["container"] is None and not is_url(row["uri"]) for row in found]
    if any(row["kind"] == shard_files.KIND for row in found):
        raise UserError("BATCH: it was scored out of shards, which hold no files. Score the images themselves.")
    read = [row for row, is_linked in zip(found, linked, strict=True) if not is_linked and row["size"] is not None]
    contents = open_files(pa.Table.from_pylist(read, LISTING))
    for row, is_linked in zip(found, linked, strict=True):
        yield None if is_linked or row["size"] is None else next(contents)


class _Folders(dict[str, str]):
    """The folder of each label: a name that any system takes, and that no other label has."""

    def __missing__(self, label: str) -> str:
        plain = _safe(label)
        wanted = f"label-{plain}" if plain.casefold() in RESERVED else plain
        self[label] = _free(wanted, {name.casefold() for name in self.values()})
        return self[label]

    def of(self, row: dict[str, Any]) -> str:
        if row["status"] != "ok":
            return FAILED
        if row["unknown"]:
            return UNKNOWN
        return REVIEW if row["needs_review"] else self[row["label"]]


def _safe(name: str) -> str:
    """Return a name that is one part of a path on any system."""
    plain = re.sub(r'[\x00-\x1f/\\:*?"<>|]', "_", name).strip(". ")
    return plain[:200] or "_"


def _free(name: str, taken: set[str]) -> str:
    """Return the name with a number behind it if a file of another folder has it already."""
    stem, dot, ending = name.rpartition(".")
    number, free = 1, name
    while free.casefold() in taken:
        number += 1
        free = f"{stem}-{number}{dot}{ending}" if dot and "/" not in ending else f"{name}-{number}"
    taken.add(free.casefold())
    return free
