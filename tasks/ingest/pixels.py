"""The files under `pixels/`: the facts and the pixels from reading a part of the source.

They are a cache between two stages: ingest writes them, the catalog takes the facts and preprocess the pixels.
Deleting them costs reading the source again.
"""

import logging
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from prefect import task
from prefect.client.schemas.objects import State
from upath import UPath

import resnet_core.images
import resnet_core.reading
import resnet_core.reasons
from resnet_core.catalog.build import FACTS
from resnet_core.errors import JobError
from resnet_core.images.limits import Limits
from resnet_core.images.preprocessing import Preprocessing
from resnet_core.reading.pool import read_files
from resnet_core.reasons import TRIED_AGAIN
from resnet_core.shards import format as shards
from resnet_core.shards.encryption import Keys
from resnet_core.storage.digest import digest_of, source_digest
from resnet_core.storage.files import DamagedFileError, write_whole
from tasks.access.modes import keep_confidential
from tasks.dataset import Dataset
from tasks.ingest.arrivals import set_aside
from tasks.parts import Part
from tasks.store import own_files
from tasks.workspace import Workspace

log = logging.getLogger("grayline")


def may_succeed(task: object, run: object, state: State) -> bool:
    """Return whether another try may succeed: not where the error names a remedy, such as more space."""
    return not isinstance(state.result(raise_on_failure=False), JobError)


@task(retries=2, retry_delay_seconds=5, retry_condition_fn=may_succeed, task_run_name="read {part.path.name}")
def read_part(part: Part, settings: Preprocessing, limits: Limits, keys: Keys | None = None) -> int:
    """Read every file of the part and write its facts and pixels. Returns the number of files."""
    if keys is not None:
        keep_confidential()  # also in a process of its own
    if not _is_complete(part, keys):
        files = part.files()
        _write_part(part, files, set_aside(files, read_files(files, settings, limits)), keys)
    return part.count


# The code that decides the pixels and facts of a file.
READING = (resnet_core.images, resnet_core.reading, resnet_core.reasons)


def pixel_folder(dataset: Dataset, image: Preprocessing, here: Workspace) -> UPath:
    """Return the cache of a data set's pixels, named by all that decides them: settings, limits, code.

    image: the data set's, with the ranges of gray levels that were decided.
    """
    digest = digest_of(image, here.limits, dataset.encrypt, source_digest(*READING))
    return here.store.pixels(dataset.name) / digest


def _write_part(part: Part, files: pa.Table, images: pa.Table, keys: Keys | None) -> None:
    """Write facts and pixels. files: the rows of `part.files()`; images: the results of reading them, row by row."""
    table = images
    for name in ("modified", "size", "uri"):
        table = table.add_column(0, name, files[name])
    with write_whole(part.path) as draft:
        shards.write_pixels(table, draft, keys)


def _is_complete(part: Part, keys: Keys | None) -> bool:
    """Return whether an interrupted run has read this part.

    A file with a fault of the moment is tried again.
    """
    try:
        codes = shards.open_file(part.path, keys).read(columns=["reason_code"])["reason_code"]
    except (FileNotFoundError, DamagedFileError):  # it is read again
        return False
    return TRIED_AGAIN.isdisjoint(codes.to_pylist())


def whole_parts(folder: UPath, keys: Keys | None) -> list[str]:
    """Return the names of the parts in a cache. A torn one is removed, with a line: its files are read again."""
    there = []
    for path in own_files(folder, "*.parquet"):
        try:
            shards.open_file(path, keys)
            there.append(path.name)
        except DamagedFileError as error:
            path.unlink()
            log.warning("ingest      %s: its files are read again", error)
    return there


def _read(path: UPath, columns: Sequence[str], keys: Keys | None) -> pa.Table:
    """Return columns of a part. A torn one is removed: the next run reads its files again."""
    try:
        return shards.open_file(path, keys).read(columns=list(columns))
    except DamagedFileError as error:
        path.unlink(missing_ok=True)
        raise JobError(f"{error}. It is removed: run the same command again, which reads its files again.") from None


def read_facts(path: UPath, keys: Keys | None) -> pa.RecordBatch:
    """Return all columns but the pixels, as rows of the catalog's `facts`."""
    columns = [name for name in FACTS.names if name not in ("part", "row")]
    table = _read(path, columns, keys)
    named = table.append_column("part", pa.array([path.name] * len(table), pa.string()))
    named = named.append_column("row", pa.array(range(len(table)), pa.int32()))
    return named.select(FACTS.names).cast(FACTS).combine_chunks().to_batches()[0]


def read_rows(path: UPath, rows: NDArray[np.int64], size: int, keys: Keys | None) -> NDArray[np.uint8]:
    """Return uint8 [N, size, size]: the pixels in these rows of the part."""
    table = _read(path, ["pixels"], keys)
    return shards.unpacked(table["pixels"], size)[rows]


def read_pixels(path: UPath, uris: Sequence[str], size: int, keys: Keys | None) -> NDArray[np.uint8]:
    """Return uint8 [N, size, size]: the pixels of these files of the part, in this order."""
    place, pixels = _part(path, size, keys)
    return pixels[[place[uri] for uri in uris]]


@lru_cache(maxsize=8)
def _part(path: UPath, size: int, keys: Keys | None) -> tuple[dict[str, int], NDArray[np.uint8]]:
    table = _read(path, ["uri", "pixels"], keys)
    return {uri: row for row, uri in enumerate(table["uri"].to_pylist())}, shards.unpacked(table["pixels"], size)


def is_usable(path: UPath, rows: int, keys: Keys | None) -> bool:
    """Return whether the shard is there and whole; a torn one is made again, with a line."""
    if not path.exists():
        return False
    try:
        shards.check(path, rows, keys)
    except DamagedFileError as error:
        log.warning("preprocess  %s: it is made again", error)
        return False
    return True
