"""Nights over a collection of images, against a bare loop over the same files.

Ours is the whole of ingest and preprocess: list, read, hash, decode, look for near-duplicates, write
parts, catalog, version and shards, all flushed to the disk. Prefect is left out (`.fn`). The peer
opens, decodes and resizes with the same decoder, keeps the pixels and writes nothing. Both have two
workers. Ours are two threads with a reader process each; the peer needs two processes to keep two cores busy.
The ratio is the price of everything else in a night.

The second night finds 1% more images; its peer is the first night.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from subprocess import PIPE, Popen

from upath import UPath

from benchmarks.images import scenes
from benchmarks.nights import WORKERS, preprocess
from benchmarks.rounds import Comparison, Result, Track, Turn, interleave
from resnet_core.images.preprocessing import Preprocessing
from tasks.dataset import Dataset

SETTINGS = Preprocessing(size=64)
FILES, MORE = 20_000, 200
ROUNDS = 2

BARE_LOOP = """
import sys
from pathlib import Path
from resnet_core.images.decode import decode_square
from resnet_core.images.preprocessing import Preprocessing

settings = Preprocessing(size=64)
print("ready", flush=True)
for names in sys.stdin:
    pixels = [decode_square(Path(name).read_bytes(), settings, 10**9).pixels for name in names.strip().split("|")]
    print(len(pixels), flush=True)
"""


def run(folder: Path, track: Track) -> Result:
    source, later = folder / "source", folder / "later"
    files = write_images(source, later)
    fresh = count()
    nights: list[float] = []

    def first_and_second_night() -> float:
        store = UPath(folder / f"store{next(fresh)}")
        began = time.perf_counter()
        images = night(source, store)
        first = time.perf_counter() - began
        moved = [path.rename(source / path.parent.name / path.name) for path in later.glob("*/*")]
        began = time.perf_counter()
        night(source, store)
        nights.append((time.perf_counter() - began) / first)
        for path in moved:
            path.rename(later / path.parent.name / path.name)
        return images / first

    with bare_loops(files) as loop:
        rates = interleave(ROUNDS, {"ours": first_and_second_night, "peer": loop}, track)
    counted = nights[-ROUNDS:]
    return Result(
        "ingest",
        f"{FILES:,} JPEG files of 1024x768 to {SETTINGS.size} px, {WORKERS} workers, no Prefect",
        (
            Comparison("ingest and preprocess, a first night", "bare loop, same decoder", rates["ours"], rates["peer"]),
            Comparison(
                f"the next night, {MORE} new images",
                "the first night",
                tuple(1 / share for share in counted),
                (1.0,) * len(counted),
                unit="first nights",
            ),
        ),
    )


def night(source: Path, store: UPath) -> int:
    """Returns the number of images."""
    made = preprocess(Dataset(name="d", source=str(source), image=SETTINGS), store)
    return made.train + made.validation + made.test


def write_images(source: Path, later: Path) -> list[Path]:
    """FILES images of two classes, and MORE that come a night later."""
    paths = []
    for number, data in enumerate(scenes(FILES + MORE)):
        path = (source if number < FILES else later) / "ab"[number % 2] / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        paths.append(path)
    return paths[:FILES]


@contextmanager
def bare_loops(files: Sequence[Path]) -> Iterator[Turn]:
    """A turn of WORKERS processes that share the files; they are started before, and end after."""
    command = [sys.executable, "-c", BARE_LOOP]
    processes = [Popen(command, stdin=PIPE, stdout=PIPE, text=True, bufsize=1) for _ in range(WORKERS)]

    def turn() -> float:
        began = time.perf_counter()
        for number, process in enumerate(processes):
            assert process.stdin is not None
            process.stdin.write("|".join(map(str, files[number::WORKERS])) + "\n")
            process.stdin.flush()
        images = sum(answer(process) for process in processes)
        return images / (time.perf_counter() - began)

    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        yield turn
    finally:
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()


def answer(process: "Popen[str]") -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())
