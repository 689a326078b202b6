"""A batch that is ended at any moment, on a full disk, behind a line that breaks. Files come and go meanwhile. After
the last run its rows are those of a batch that nobody disturbed, row for row.

A process that has everything imported is forked for each run, so that fifty of them take a minute.
"""

import multiprocessing
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from upath import UPath

from tests.batch_process import batch
from tests.conftest import write_folder
from tests.faults import enlarge, object_store, small_disk

KILLS = int(os.environ.get("GRAYLINE_TEST_KILLS", "50"))
FILES = 700


@pytest.fixture
def source(tmp_path: Path, digits: tuple[np.ndarray, list[str]]) -> Path:
    """700 digits, and files that are none."""
    folder = write_folder(tmp_path / "source", digits, range(10), FILES)
    whole = next(folder.rglob("*.png")).read_bytes()
    for k in range(5):
        (folder / "3" / f"cut{k}.png").write_bytes(whole[: len(whole) * k // 5])
    return folder


def start(*arguments: Any) -> tuple[Any, float]:
    """A process that is at it, and when it began."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.batch_process"])
    ready = context.Event()
    process = context.Process(target=batch, args=(*arguments[:2], ready, *arguments[2:]), daemon=True)
    process.start()
    assert ready.wait(60)
    return process, time.monotonic()


def finish(*arguments: Any) -> int:
    process, _ = start(*arguments)
    process.join(120)
    return int(process.exitcode)


def rows_of(output: str, **access: Any) -> pd.DataFrame:
    """All that does not depend on when, in an order of its own."""
    folder = UPath(output, **access)
    tables = [pq.read_table(path.open("rb")).to_pandas() for path in folder.glob("*.parquet")]
    rows = pd.concat(tables).drop(columns=["scored_at", "modified"])
    return rows.sort_values("uri").reset_index(drop=True)


def same(mine: pd.DataFrame, theirs: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(mine, theirs, atol=1e-5)


@pytest.mark.heavy
def test_killed_at_fifty_moments_while_files_come_and_go(source: Path, tmp_path: Path) -> None:
    process, began = start(str(source), str(tmp_path / "first"))
    process.join(120)
    assert process.exitcode == 0
    whole = time.monotonic() - began
    chance = random.Random(0)
    files = sorted(source.rglob("*.png"))
    away: list[Path] = []
    killed = 0
    for _ in range(KILLS):
        process, _ = start(str(source), str(tmp_path / "out"))
        time.sleep(chance.uniform(0, whole / 3))
        come_and_go(source, chance, files, away)
        time.sleep(chance.uniform(0, whole / 6))
        killed += process.is_alive()
        process.kill()
        process.join(60)
    assert killed >= KILLS // 2
    assert finish(str(source), str(tmp_path / "out")) == 0
    assert finish(str(source), str(tmp_path / "undisturbed")) == 0
    rows = rows_of(str(tmp_path / "out"))
    assert sorted(rows["uri"]) == sorted(str(path) for path in source.rglob("*.png"))
    same(rows, rows_of(str(tmp_path / "undisturbed")))
    left = {path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".parquet"}
    assert left == {"_batch.json", "_manifest.json"}


def test_what_killed_runs_had_begun_to_write_is_gone(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("._batch.json.0123abcd", "._manifest.json.0123abcd", ".key-0123.parquet.0123abcd"):
        (out / name).write_text("{")
    assert finish(str(source), str(out)) == 0
    assert {path.name for path in out.iterdir() if path.suffix != ".parquet"} == {"_batch.json", "_manifest.json"}


def come_and_go(source: Path, chance: random.Random, files: list[Path], away: list[Path]) -> None:
    """One comes, one goes, one gets another's content."""
    if away and chance.random() < 0.5:
        back = away.pop()
        shutil.copyfile(files[0], back)
    gone, changed = chance.sample([path for path in files[1:] if path.exists()], 2)
    gone.unlink()
    away.append(gone)
    shutil.copyfile(files[0], source / f"new{chance.randrange(10**9)}.png")
    changed.write_bytes(files[0].read_bytes() + b" ")


def test_a_disk_that_is_full(source: Path, tmp_path: Path) -> None:
    assert finish(str(source), str(tmp_path / "clean")) == 0
    with small_disk(tmp_path / "disk", "192k") as disk:
        assert finish(str(source), str(disk / "out")) != 0
        assert not (disk / "out" / "_manifest.json").exists()
        enlarge(disk)
        assert finish(str(source), str(disk / "out")) == 0
        same(rows_of(str(disk / "out")), rows_of(str(tmp_path / "clean")))


def test_an_object_store_that_breaks_in_the_middle(source: Path, tmp_path: Path) -> None:
    assert finish(str(source), str(tmp_path / "clean")) == 0
    with object_store() as (line, access, filesystem):
        line.budget = 10**9
        assert finish(str(source), "s3://store/first", access) == 0
        used = 10**9 - line.budget
        broken = 0
        for share in (0.1, 0.3, 0.6):
            line.budget = int(used * share)
            broken += finish(str(source), "s3://store/out", access) != 0
        assert broken
        line.budget = 10**9
        assert finish(str(source), "s3://store/out", access) == 0
        rows = rows_of("s3://store/out", **filesystem)
    same(rows, rows_of(str(tmp_path / "clean")))
