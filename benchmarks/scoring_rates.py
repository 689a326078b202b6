"""The cost of a scoring batch's stages on this machine, with the shipped code at two or three sizes.

The stages are those of `classify-batch`. Only inputs from elsewhere (the listing, the registered version) are replaced.
"""

import os
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from benchmarks.batch import CHOICE, VERSION, WORKERS, scoring
from benchmarks.simulation import Growth
from resnet_core.images.limits import DEFAULT_LIMITS
from resnet_core.images.preprocessing import Preprocessing
from resnet_core.inference.engines import Engine
from resnet_core.model.classifier import Classifier
from resnet_core.reading.pool import end_idle
from resnet_core.sources.listing import BATCH, LISTING
from resnet_core.storage.files import write_whole
from tasks import parts
from tasks.batch import finish as finish_batch
from tasks.batch import plan as plan_batch
from tasks.batch.drift import read_batch
from tasks.batch.folder import MANIFEST, Job, check_run, claim
from tasks.batch.score import Scoring, score_part
from tasks.batch.values import Batch
from tasks.parts import Part

FILES_IN_A_FOLDER = 1000
ROWS = 10_000  # of a part, as of a batch of 100 million


@dataclass(frozen=True)
class Plan:
    """A plan's seconds by files: `queries` is DuckDB's share, `cut` that of the parts. `spilled`: bytes that the last
    one had in DuckDB's temporary files when it began to cut."""

    queries: Growth
    cut: Growth
    spilled: int

    def at(self, files: int) -> float:
        return self.queries.at(files) + self.cut.at(files)


@dataclass(frozen=True)
class Finish:
    """Seconds by rows: `check` is the tally, `whole` all of finish_batch, `drift` a reading of the rows for it.
    `manifest`: bytes a part."""

    check: Growth
    whole: Growth
    drift: Growth
    manifest: float

    def at(self, rows: int) -> float:
        return self.whole.at(rows) + self.drift.at(rows)


def seconds(work: Callable[[], object], times: int = 1) -> float:
    """The least of some times: the machine is shared, and whoever else works only adds."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def growth(sizes: Sequence[int], measure: Callable[[int], float]) -> Growth:
    return Growth(tuple(sizes), tuple(measure(size) for size in sizes))


def listing_of_folder(folder: Path, sizes: Sequence[int]) -> Growth:
    """Empty files, FILES_IN_A_FOLDER each, which the system has just seen."""

    def measure(count: int) -> float:
        for number in range(count):
            if number % FILES_IN_A_FOLDER == 0:
                place = folder / str(count) / f"{number:09}"
                place.mkdir(parents=True)
            (place / f"{number}.jpg").touch()
        return seconds(lambda: listed(folder / str(count), count), 2)

    return growth(sizes, measure)


def listing_of_tar(folder: Path, sizes: Sequence[int]) -> Growth:
    """Members without content."""

    def measure(count: int) -> float:
        path = folder / f"{count}.tar"
        with path.open("wb") as file:
            for number in range(count):
                file.write(tarfile.TarInfo(f"{number:09}.jpg").tobuf())
            file.write(bytes(1024))
        found = seconds(lambda: listed(path, count), 2)
        path.unlink()
        return found

    return growth(sizes, measure)


def listed(source: Path, count: int) -> None:
    found = sum(map(len, plan_batch.list_files(str(source))))
    if found != count:
        raise RuntimeError(f"{found} of {count} files")


def planning(folder: Path, sizes: Sequence[int]) -> Plan:
    """plan_batch on a listing that lies in memory."""
    source = folder / "source"
    source.mkdir()
    (source / "0.jpg").touch()
    whole, cuts, spilled = [], [], 0
    cut = plan_batch.cut

    def timed_cut(db: Any, *rest: Any) -> tuple[Part, ...]:
        nonlocal spilled
        spilled = int(db.execute("select coalesce(sum(size), 0) from duckdb_temporary_files()").fetchall()[0][0])
        made: list[tuple[Part, ...]] = []
        cuts.append(seconds(lambda: made.append(cut(db, *rest))))
        return made[0]

    for count in sizes:
        rows = list(files_in_memory(count))
        output = UPath(folder / f"out{count}")
        with (
            patch.object(plan_batch, "list_files", partial(in_memory, rows)),
            patch.object(plan_batch, "cut", timed_cut),
        ):
            whole.append(seconds(partial(plan_batch.plan_batch.fn, str(source), output, VERSION, Preprocessing(64))))
        del rows
    queries = tuple(all_of_it - cutting for all_of_it, cutting in zip(whole, cuts, strict=True))
    return Plan(Growth(tuple(sizes), queries), Growth(tuple(sizes), tuple(cuts)), spilled)


def in_memory(rows: list[pa.RecordBatch], place: str) -> Iterator[pa.RecordBatch]:
    return iter(rows)


def files_in_memory(count: int) -> Iterator[pa.RecordBatch]:
    """A listing as a folder gives it, in an order that is none."""
    for start in range(0, count, BATCH):
        numbers = [(start + k) * 7919 % 1_000_003 * 1000 + (start + k) % 1000 for k in range(min(BATCH, count - start))]
        paths = [f"line{n % 97}/{n % 1009:04}/{n:010}-{start + k:09}.jpg" for k, n in enumerate(numbers)]
        size = len(paths)
        columns = {
            "uri": [f"/srv/images/new/{path}" for path in paths],
            "path": paths,
            "size": [100_000 + n % 50_000 for n in numbers],
            "modified": [str(1_700_000_000_000_000_000 + n) for n in numbers],
            "ignored": [False] * size,
        }
        arrays = [pa.array(columns.get(field.name, [None] * size), field.type) for field in LISTING]
        yield pa.RecordBatch.from_arrays(arrays, schema=LISTING)


def opening(folder: Path, sizes: Sequence[int]) -> Growth:
    """Measure the time in which a worker finds its part in the listing, by the number of parts."""

    def measure(count: int) -> float:
        table = pa.Table.from_batches(list(files_in_memory(count))).select(parts.COLUMNS)
        few = count // 100
        pieces = (table.slice(k * 100, 100) for k in range(few))
        made = parts.make_parts(pieces, UPath(folder / "listing"), UPath(folder))
        return seconds(made[few // 2].files, 5)

    found = growth([100 * size for size in sizes], measure)
    return Growth(tuple(sizes), found.seconds)


@dataclass(frozen=True)
class Scored:
    """`part`: seconds of a worker for a part, its file included, by the part's files. `start`: seconds that the first
    pass took longer, in which the readers' processes start. `rows`: those of a part."""

    part: Growth
    start: float
    rows: pa.Table

    @property
    def speed(self) -> float:
        """Images/s of a worker, in the largest parts."""
        return self.part.sizes[-1] / self.part.seconds[-1]


def scored(folder: Path, source: Path, classifier: Classifier, engine: Engine, sizes: Sequence[int]) -> Scored:
    """Score a source in parts of these sizes, WORKERS at once, into folders below this one.

    Sizes are scored three times; the first time does not count.
    """
    taken: dict[int, list[float]] = {}
    end_idle()
    with scoring(classifier, engine), ThreadPoolExecutor(WORKERS) as pool:
        for number, size in enumerate(size for size in sizes for _ in range(3)):
            output = UPath(folder / f"{number}")
            with patch.object(plan_batch, "part_size", partial(fixed, size)):
                work = plan_batch.plan_batch.fn(str(source), output, VERSION, classifier.preprocessing)
            how = Scoring(VERSION, CHOICE, "", "cpu", DEFAULT_LIMITS, work.run)
            spent = seconds(partial(consume, pool.map, partial(score_part.fn, how=how), work.waiting))
            taken.setdefault(size, []).append(spent * WORKERS / len(work.waiting))
    first, *others = taken[sizes[0]]
    start = (first - min(others)) * work.files / sizes[0] / WORKERS
    rows = pq.read_table(work.waiting[0].path.path)
    return Scored(growth(sizes, lambda size: min(taken[size][1:])), max(0.0, start), rows)


def fixed(size: int, *given: object, **more: object) -> int:
    return size


def consume(mapped: Callable[..., Iterator[object]], *work: Any) -> None:
    for _ in mapped(*work):
        pass


def commit(folder: Path, rows: pa.Table, sizes: Sequence[int]) -> Growth:
    """To write a part's rows, flushed to the disk and renamed, by their number."""
    place = UPath(folder)
    run = claim(place, Job("/srv/images", VERSION, "0123456789ab")).run

    def write(table: pa.Table) -> None:
        check_run(place, run)
        with write_whole(place / "part.parquet") as draft:
            pq.write_table(table, draft)

    return growth(sizes, lambda size: seconds(lambda: write(repeated(rows, size)), 5))


def repeated(rows: pa.Table, size: int) -> pa.Table:
    return pa.concat_tables([rows] * -(-size // len(rows))).slice(0, size)


def batch_of(folder: Path, kept: tuple[UPath, ...], waiting: tuple[Part, ...], check: tuple[int, int]) -> Batch:
    place = UPath(folder)
    return Batch("/srv/images", VERSION, place, place, "", kept, waiting, None, (), check[0], check)


def finishing(folder: Path, rows: pa.Table, sizes: Sequence[int]) -> Finish:
    """finish_batch over parts of ROWS rows, hard links of one file; `sizes` are numbers of parts."""
    one = folder / "part"
    pq.write_table(repeated(rows, ROWS), one)
    checks, wholes, drifts, pages = [], [], [], []
    for count in sizes:
        place = folder / str(count)
        run = claim(UPath(place), Job("/srv/images", VERSION, "0123456789ab")).run
        made = tuple(UPath(place / f"0123456789ab-{k:020}.parquet") for k in range(count))
        for path in made:
            os.link(one, path.path)
        began = time.perf_counter()
        found = finish_batch.tally(made)
        checks.append(time.perf_counter() - began)
        batch = replace(batch_of(place, made, (), found.check), run=run)
        with patch.object(finish_batch, "publish_page", lambda *page, **more: None):
            wholes.append(seconds(partial(finish_batch.finish_batch.fn, batch, 1.0)))
        drifts.append(seconds(partial(read_batch, made)))
        pages.append((place / MANIFEST).stat().st_size)
    by_rows = tuple(count * ROWS for count in sizes)
    manifest = (pages[-1] - pages[0]) / (sizes[-1] - sizes[0])
    check, whole, drift = (Growth(by_rows, tuple(each)) for each in (checks, wholes, drifts))
    return Finish(check, whole, drift, manifest)
