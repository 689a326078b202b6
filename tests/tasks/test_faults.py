"""Whatever stops a night, the next one goes on and ends with the shards of a night that nothing stopped."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from upath import UPath

from tests.conftest import write_folder
from tests.faults import enlarge, object_store, small_disk

HOME = Path(__file__).resolve().parents[2]
KILLS = 8

# A night up to its shards as the flow runs it, without Prefect's engine, in a process that may die.
NIGHT = """
import os, sys
from pathlib import Path
from upath import UPath
free = os.environ.get("GRAYLINE_FREE_BYTES")
from tests.tasks.ingest.test_ingest import dataset_of, sharded  # forgets the machine's settings
os.environ |= {"GRAYLINE_FREE_BYTES": free} if free else {}
print("begins", flush=True)
sharded(dataset_of(Path(sys.argv[1]), smallest_side=8), UPath(sys.argv[2]))
"""


@pytest.fixture
def source(tmp_path: Path, digits: tuple[np.ndarray, list[str]]) -> Path:
    """1,500 digits and a few files that are none."""
    folder = write_folder(tmp_path / "source", digits, range(10), 1500)
    whole = next(folder.rglob("*.png")).read_bytes()
    for k in range(5):
        (folder / "3" / f"cut{k}.png").write_bytes(whole[: len(whole) * k // 5])
    return folder


def start(source: Path, store: Path | str, **environment: str) -> "subprocess.Popen[str]":
    """A night that has got past its imports."""
    process = subprocess.Popen(
        [sys.executable, "-c", NIGHT, str(source), str(store)],
        cwd=HOME, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "begins\n", process.communicate()[1]
    return process


def shards_of(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in (store / "shards").rglob("*.parquet")}


@pytest.mark.heavy
def test_killed_at_any_moment(source: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    clean = start(source, tmp_path / "clean")
    assert clean.wait() == 0
    whole = time.monotonic() - began
    chance = random.Random(0)
    killed = 0
    for _ in range(KILLS):
        process = start(source, tmp_path / "store")
        time.sleep(chance.uniform(0, whole * 0.4))
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert killed >= KILLS // 2
    last = start(source, tmp_path / "store")
    assert last.wait() == 0
    assert shards_of(tmp_path / "store") == shards_of(tmp_path / "clean")


def test_a_disk_that_is_full(source: Path, tmp_path: Path) -> None:
    clean = start(source, tmp_path / "clean")
    assert clean.wait() == 0
    with small_disk(tmp_path / "disk", "512k") as disk:
        full = start(source, disk, GRAYLINE_FREE_BYTES="0")  # otherwise the space is asked for before
        said = full.communicate()[1]
        assert full.returncode != 0
        assert "No space left on device" in said or os.strerror(28) in said
        enlarge(disk)
        assert not [path for path in disk.rglob(".*") if path.name != ".probe"]
        again = start(source, disk, GRAYLINE_FREE_BYTES="0")
        assert again.wait() == 0, again.communicate()[1]
        assert shards_of(disk) == shards_of(tmp_path / "clean")


@pytest.mark.heavy
def test_an_object_store_that_breaks_in_the_middle(source: Path) -> None:
    with object_store() as (line, access, direct):
        fs = UPath("s3://store", **direct).fs

        def objects(store: str) -> dict[str, bytes]:
            names = [name for name in fs.find(f"store/{store}/shards") if name.endswith(".parquet")]
            return {name.removeprefix(f"store/{store}/"): fs.cat_file(name) for name in names}

        line.budget = 10**9
        clean = start(source, "s3://store/clean", **access)
        assert clean.wait() == 0, clean.communicate()[1]
        used = 10**9 - line.budget
        broken = 0
        for share in (0.2, 0.6):
            line.budget = int(used * share)
            process = start(source, "s3://store/again", **access)
            process.communicate()
            broken += process.returncode != 0
        assert broken
        line.budget = 10**9
        last = start(source, "s3://store/again", **access)
        assert last.wait() == 0, last.communicate()[1]
        assert len(objects("clean")) >= 8
        assert objects("again") == objects("clean")
