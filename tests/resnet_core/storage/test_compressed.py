"""The unpacked form of a compressed file: made once for all processes, private, and not left to pile up."""

import gzip
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from resnet_core.storage import compressed

CONTENT = b"content " * 10_000


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder of its own."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def packed(tmp_path: Path, content: bytes = CONTENT) -> str:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(content))
    return str(path)


def test_it_is_made_once_and_anew_when_the_file_changes(tmp_path: Path, scratch: Path) -> None:
    first = compressed.unpacked(packed(tmp_path))
    assert Path(first).read_bytes() == CONTENT
    inode = os.stat(first).st_ino
    assert os.stat(compressed.unpacked(str(tmp_path / "x.gz"))).st_ino == inode
    second = compressed.unpacked(packed(tmp_path, b"other"))
    assert (second != first, Path(second).read_bytes()) == (True, b"other")
    compressed._remove_made()
    assert list(Path(second).parent.iterdir()) == []


def test_processes_that_need_it_at_once_wait_for_one(tmp_path: Path, scratch: Path) -> None:
    place = packed(tmp_path, CONTENT * 50)
    script = (
        "import sys, os; from resnet_core.storage.compressed import unpacked; path = unpacked(sys.argv[1]);"
        "print(path, os.stat(path).st_ino, flush=True); input()"
    )
    command = [sys.executable, "-c", script, place]
    environment = {**os.environ, "TMPDIR": str(scratch)}
    running = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    lines = [process.stdout.readline() for process in running if process.stdout]
    for process in running:
        process.communicate("\n")
    assert len(set(lines)) == 1
    assert lines[0].startswith(str(scratch))
    assert [file for file in scratch.rglob("*") if file.is_file()] == []


def test_nobody_else_may_look_into_it(tmp_path: Path, scratch: Path) -> None:
    folder = Path(compressed.unpacked(packed(tmp_path))).parent
    assert folder.stat().st_mode & 0o077 == 0
    compressed._folder.cache_clear()  # another process
    assert Path(compressed.unpacked(packed(tmp_path))).parent == folder


def test_nobody_else_can_take_the_name_first_or_keep_a_lock(tmp_path: Path, scratch: Path) -> None:
    """Folders that others prepare under /tmp: open to all, a link, a file; and the name that earlier releases used."""
    (scratch / "grayline-unpacked-0").mkdir()
    (scratch / "grayline-unpacked-0").chmod(0o777)
    (scratch / "grayline-unpacked-1").symlink_to(tmp_path)
    (scratch / "grayline-unpacked-2").write_bytes(b"")
    (scratch / f"grayline-{os.getuid()}").write_bytes(b"")
    prepared = set(scratch.iterdir())
    folder = Path(compressed.unpacked(packed(tmp_path))).parent
    assert folder not in prepared
    assert folder.stat().st_mode & 0o077 == 0
    assert list((scratch / "grayline-unpacked-0").iterdir()) == []


def test_what_a_killed_process_left_goes_a_day_later(tmp_path: Path, scratch: Path) -> None:
    folder = Path(compressed.unpacked(packed(tmp_path))).parent
    for name, age in (("old", 90_000), ("young", 3_600)):
        (folder / name).write_bytes(b"left")
        os.utime(folder / name, (time.time() - age,) * 2)
    compressed.unpacked(packed(tmp_path, b"other"))
    assert (folder / "young").exists()
    assert not (folder / "old").exists()


def test_a_file_that_does_not_unpack_leaves_nothing(tmp_path: Path, scratch: Path) -> None:
    place = packed(tmp_path)
    Path(place).write_bytes(Path(place).read_bytes()[:-20])
    with pytest.raises(OSError, match="does not unpack"):
        compressed.unpacked(place)
    assert [file for file in scratch.rglob("*") if file.suffix != ".lock" and file.is_file()] == []


def test_a_confidential_copy_has_no_name_and_goes_with_a_killed_process(tmp_path: Path, scratch: Path) -> None:
    """Another process of the user, such as a reader, opens it for as long as its process lives."""
    script = (
        "import sys; from resnet_core.storage.compressed import be_private, unpacked; be_private();"
        "print(unpacked(sys.argv[1]), flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, packed(tmp_path)],
        env={**os.environ, "TMPDIR": str(scratch)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout
        place = process.stdout.readline().strip()
        assert Path(place).read_bytes() == CONTENT
        assert [file for file in scratch.rglob("*") if file.is_file()] == []
        process.kill()
    assert not Path(place).exists()
    assert [file for file in scratch.rglob("*") if file.is_file()] == []
