"""Reading a collection: the parts of `tasks.ingest.read_part` against a bare loop over its files.

Ours opens, hashes, decodes and resizes each file, and writes facts and pixels of a part as one
Parquet file, flushed to the disk; Prefect is left out (`read_part.fn`). The peer opens, decodes and
resizes with the same decoder, keeps the pixels and writes nothing. Both on two threads, a part or
as many files at a time. What lies between them is the price of parts.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pandas as pd
from upath import UPath

from benchmarks.images import cells
from benchmarks.rounds import Comparison, Result, Track, interleave, timed
from resnet_core.grayscale import MAX_PIXELS, decode
from resnet_core.preprocessing import Preprocessing, resize
from tasks.ingest import read_part
from tasks.parts import make_parts

SETTINGS = Preprocessing(size=64)
FILES = 1024
THREADS = 2
ROUNDS = 9


def run(folder: Path, track: Track) -> Result:
    files = list_cells()
    chunks = [part.files["uri"].tolist() for part in make_parts(files, UPath(folder))]
    fresh = count()
    with ThreadPoolExecutor(THREADS) as pool:
        rates = interleave(
            ROUNDS,
            {
                # A new folder each time: a part that is there would not be read again.
                "ours": timed(lambda: ours(pool, files, UPath(folder / str(next(fresh))))),
                "peer": timed(lambda: sum(pool.map(bare_loop, chunks))),
            },
            track,
        )
    return Result(
        "ingest",
        f"{FILES:,} PNG files of 300x300 to {SETTINGS.size} px, {THREADS} threads, {len(chunks)} parts, no Prefect",
        (Comparison("read_part, files to parts", "bare loop, same decoder", rates["ours"], rates["peer"]),),
    )


def list_cells() -> pd.DataFrame:
    facts = [(str(path), path.stat()) for path in cells(FILES)]
    return pd.DataFrame([(uri, f.st_size, str(f.st_mtime_ns)) for uri, f in facts], columns=["uri", "size", "modified"])


def ours(pool: ThreadPoolExecutor, files: pd.DataFrame, folder: UPath) -> int:
    return sum(pool.map(lambda part: read_part.fn(part, SETTINGS, MAX_PIXELS), make_parts(files, folder)))


def bare_loop(paths: Sequence[str]) -> int:
    return len([resize(decode(Path(path).read_bytes()), SETTINGS) for path in paths])
