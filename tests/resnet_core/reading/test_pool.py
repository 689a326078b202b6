"""Files read in processes of their own: whatever an image does to its decoder, it costs that image."""

import random
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest
from PIL import Image

from resnet_core.images.limits import Limits
from resnet_core.images.preprocessing import Preprocessing
from resnet_core.reading._process import ReaderError
from resnet_core.reading.image import as_table
from resnet_core.reading.pool import end_idle, iterate_files, read_file, read_files
from resnet_core.sources.source import list_source

SETTINGS = Preprocessing(size=32)

# A reader whose decoder does what no decoder does on demand. `ONCE` crashes where it is not the first
# image that the process reads.
NAUGHTY = """
import ctypes, os
from resnet_core.reading import image as read, worker as reader

decode = read.decode_square
seen = []

def decode_square(data, settings, max_pixels):
    seen.append(data)
    if data.startswith(b"CRASH") or (data.startswith(b"ONCE") and len(seen) > 1):
        ctypes.string_at(0)
    while data.startswith(b"HANG"):
        pass
    while data.startswith(b"FLOOD"):
        os.write(2, b"endless\\n" * 1000)
    if data.startswith(b"BOMB"):
        bytearray(2**36)
    if data.startswith(b"EXIT"):
        os._exit(1)
    if data.startswith(b"DEFECT"):
        raise ZeroDivisionError("a defect")
    if data.startswith(b"NOISE"):
        os.write(1, b"noise" * 2**20)
        os.write(2, b"noise" * 2**20)
    return decode(data, settings, max_pixels)

read.decode_square = decode_square
reader.main()
"""
NAUGHTY_COMMAND = (sys.executable, "-P", "-c", NAUGHTY)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """After each test no process and no pipe is more than before."""
    end_idle()
    before = pipes()
    yield
    end_idle()
    assert readers() == []
    assert pipes() <= before


def readers() -> list[psutil.Process]:
    """The readers of this process that live, among whatever else it has started."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if any("resnet_core" in word for word in child.cmdline()):
                found.append(child)
    return found


def pipes() -> set[str]:
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.add(str(link.readlink()))
    return {name for name in found if name.startswith("pipe:")}


@pytest.fixture
def small_files(tmp_path: Path, digits: tuple[np.ndarray, list[str]]) -> list[Path]:
    """600 digits as PNG files of 8 x 8."""
    paths = [tmp_path / f"{number:04}.png" for number in range(600)]
    for path, levels in zip(paths, digits[0], strict=False):
        Image.fromarray(levels).save(path)
    return paths


def listing(paths: list[Path]) -> pa.Table:
    """Files of their own, as `resnet_core.sources.source` lists them."""
    return pa.table(
        {
            "uri": pa.array([str(path) for path in paths], pa.string()),
            "size": pa.array([path.stat().st_size if path.exists() else 0 for path in paths], pa.int64()),
            "modified": pa.array(["" for _ in paths], pa.string()),
            "container": pa.nulls(len(paths), pa.string()),
            "kind": pa.nulls(len(paths), pa.string()),
            "offset": pa.nulls(len(paths), pa.int64()),
            "length": pa.nulls(len(paths), pa.int64()),
        }
    )


def here(paths: list[Path]) -> pa.Table:
    """The same files, read in this process."""
    return as_table([read_file(str(path), SETTINGS) for path in paths], SETTINGS.size)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def bomb() -> bytes:
    """A whole and valid PNG of 30,000 x 30,000 pixels, one bit each, in some 110 KB."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(30_000 * (1 + 30_000 // 8)))), (b"IEND", b""))
    packed = (struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_a_crash_a_hang_and_a_bomb_cost_one_image_each(tmp_path: Path) -> None:
    paths = sorted(Path(str(files("elpv_dataset"))).glob("data/images/*.png"))[:200]
    expected = here(paths).to_pylist()
    bad = {
        20: (b"CRASH", "decoder crashed: signal SIGSEGV"),
        21: (b"EXIT", "decoder crashed: exit status 1"),
        90: (b"HANG", "over time: no result after 2 s"),
        91: (b"FLOOD", "over time: no result after 2 s"),
        150: (b"BOMB", "too large: decoding needs more memory than a reader may have"),
        199: (bomb(), "too large: "),
    }
    for row, (content, _) in bad.items():
        paths[row] = write(tmp_path / str(row), content)
    found = read_files(listing(paths), SETTINGS, Limits(seconds=2), NAUGHTY_COMMAND).to_pylist()
    assert len(found) == len(paths)
    for row, (_, reason) in bad.items():
        assert found[row]["reason"].startswith(reason), row
        assert found[row]["reason_code"] == reason.partition(":")[0].replace(" ", "_")
        assert found[row]["image_id"] == here([paths[row]])["image_id"][0].as_py()
        assert found[row]["pixels"] == bytes(32 * 32)
    assert [found[row] for row in range(200) if row not in bad] == [
        expected[row] for row in range(200) if row not in bad
    ]


def test_readers_give_what_this_process_gives(small_files: list[Path], tmp_path: Path) -> None:
    paths = [*small_files, write(tmp_path / "empty", b""), tmp_path / "gone", write(tmp_path / "text", b"no image")]
    assert read_files(listing(paths), SETTINGS).equals(here(paths))


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_crash_in_an_archive_costs_one_member(small_files: list[Path], tmp_path: Path, kind: str) -> None:
    crash = write(tmp_path / "0100a.png", b"CRASH")
    paths = [*small_files[:101], crash, *small_files[101:200]]
    archive = tmp_path / f"archive.{kind}"
    if kind == "tar":
        with tarfile.open(archive, "w") as tar:
            for path in paths:
                tar.add(path, path.name)
    else:
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for path in paths:
                packed.write(path, path.name)
    files = pa.Table.from_batches(list_source(str(archive))).sort_by("path")
    found = read_files(files, SETTINGS, command=NAUGHTY_COMMAND)
    expected = here(paths)
    assert found["reason"][101].as_py() == "decoder crashed: signal SIGSEGV"
    assert found["image_id"].equals(expected["image_id"])
    assert found["pixels"].equals(expected["pixels"])


def test_nothing_to_read_is_an_empty_table() -> None:
    assert read_files(listing([]), SETTINGS).equals(here([]))


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    huge = tmp_path / "huge.png"
    with huge.open("wb") as file:
        file.truncate(2**40)
    (row,) = read_files(listing([huge]), SETTINGS).to_pylist()
    assert row["reason"] == "too large: 1,099,511,627,776 bytes, over the limit of 268,435,456"
    assert row["image_id"] is None


def test_an_image_is_given_up_only_when_it_crashes_a_reader_alone(small_files: list[Path], tmp_path: Path) -> None:
    innocent = write(tmp_path / "innocent", b"ONCE" + small_files[0].read_bytes())
    paths = [*small_files[:150], innocent, *small_files[150:300]]
    found = read_files(listing(paths), SETTINGS, command=NAUGHTY_COMMAND)
    assert found.equals(here(paths))  # not an image, but no crash either


def test_two_threads_at_once(small_files: list[Path]) -> None:
    halves = small_files[:300], small_files[300:]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            found = list(pool.map(lambda paths: read_files(listing(paths), SETTINGS), halves))
            assert [table.equals(here(half)) for table, half in zip(found, halves, strict=True)] == [True, True]
            assert 1 <= len(readers()) <= 2  # kept, and no more than were busy at the same time


def test_a_caller_that_stops_in_the_middle_leaves_no_answers_behind(small_files: list[Path]) -> None:
    tables = iterate_files(listing(small_files), SETTINGS)
    first = next(tables)
    assert 0 < len(first) < len(small_files)
    tables.close()
    assert not readers()
    assert read_files(listing(small_files[::-1]), SETTINGS).equals(here(small_files[::-1]))


def test_a_slow_caller_is_not_over_time(small_files: list[Path]) -> None:
    tables = iterate_files(listing(small_files), SETTINGS, Limits(seconds=2))
    first = next(tables)
    time.sleep(4)
    assert pa.concat_tables([first, *tables]).equals(here(small_files))


def test_readers_killed_by_somebody_else_at_any_moment(small_files: list[Path]) -> None:
    expected = here(small_files)
    chance = random.Random(0)
    killed = 0

    def kill() -> None:
        nonlocal killed
        time.sleep(chance.uniform(0, 0.4))
        for reader in readers():
            with suppress(psutil.Error):
                reader.kill()
                killed += 1

    for _ in range(20):
        killer = threading.Thread(target=kill)
        killer.start()
        found = read_files(listing(small_files), SETTINGS)
        killer.join()
        assert found.equals(expected)
        assert len(readers()) <= 1
    assert killed


def test_readers_do_not_outlive_a_parent_that_is_killed(small_files: list[Path], tmp_path: Path) -> None:
    """Neither one that waits for work, nor one in an endless loop."""
    script = """
import sys
from pathlib import Path
from resnet_core.images.preprocessing import Preprocessing
from resnet_core.images.limits import Limits
from resnet_core.reading.pool import read_files
from tests.resnet_core.reading.test_pool import NAUGHTY_COMMAND, listing

good, hanging = (listing([Path(name)]) for name in sys.argv[1:])
read_files(good, Preprocessing(size=32))
print("read", flush=True)
read_files(hanging, Preprocessing(size=32), Limits(seconds=2), NAUGHTY_COMMAND)
"""
    hanging = write(tmp_path / "hanging", b"HANG")
    parent = subprocess.Popen(
        [sys.executable, "-c", script, small_files[0], hanging],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    assert parent.stdout
    with parent.stdout:
        assert parent.stdout.readline() == b"read\n"
        time.sleep(0.5)
        children = psutil.Process(parent.pid).children()
        assert len(children) == 2
        parent.kill()
        parent.wait()
    assert psutil.wait_procs(children, timeout=20)[1] == []


def test_a_reader_that_cannot_start_is_an_error_that_says_why(small_files: list[Path]) -> None:
    with pytest.raises(ReaderError, match="No module named 'nothing_of_that_name'"):
        read_files(listing(small_files), SETTINGS, command=(sys.executable, "-c", "import nothing_of_that_name"))


def test_a_defect_of_ours_is_not_a_bad_image(tmp_path: Path) -> None:
    with pytest.raises(ReaderError, match="ZeroDivisionError: a defect"):
        read_files(listing([write(tmp_path / "defect", b"DEFECT")]), SETTINGS, command=NAUGHTY_COMMAND)


def test_what_a_decoder_prints_reaches_neither_the_terminal_nor_the_answers(
    small_files: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    noisy = write(tmp_path / "noisy", b"NOISE")
    paths = [small_files[0], noisy, noisy, small_files[1]]
    assert read_files(listing(paths), SETTINGS, command=NAUGHTY_COMMAND).equals(here(paths))
    assert capfd.readouterr() == ("", "")


def test_a_reader_takes_no_modules_from_the_folder_it_is_started_in(
    small_files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("numpy", "json", "resnet_core"):
        write(tmp_path / f"{name}.py", b"raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    assert read_files(listing(small_files[:3]), SETTINGS).equals(here(small_files[:3]))


def test_a_reader_starts_without_what_takes_seconds_to_import() -> None:
    slow = {"torch", "pandas", "prefect", "mlflow", "pyarrow"}
    script = f"import sys, resnet_core.reading.worker; print({slow} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    assert done.stdout == "set()\n"
