"""Files and folders are their owner's alone, whatever the machine's umask; the group comes in by a setting."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from upath import UPath

from resnet_core.storage.files import write_folder, write_text, write_whole
from tasks.access.modes import keep_private
from tasks.settings import check_store


@pytest.fixture(autouse=True)
def umask() -> object:
    """The modes of most machines, and back to those of the session."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def modes(folder: Path) -> set[int]:
    """The modes of a folder and everything below it; folders without their x."""
    return {mode(path) & ~0o111 for path in (folder, *folder.rglob("*"))}


@pytest.mark.parametrize(
    ("group", "file", "folder"), [("none", 0o600, 0o700), ("read", 0o640, 0o750), ("write", 0o660, 0o770)]
)
def test_what_is_written_is_closed_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, file: int, folder: int
) -> None:
    monkeypatch.setenv("GRAYLINE_GROUP", group)
    root = UPath(tmp_path / "store")
    check_store(root)
    write_text(root / "runs" / "x" / "a.json", "{}")
    with write_folder(root / "shards" / "x") as made:
        (made / "b.parquet").write_bytes(b"")
        save_file({"x": np.zeros(1)}, made / "c.safetensors")  # the library makes it its owner's alone
    with write_whole(root / "runs" / "x" / "d.safetensors") as draft:
        save_file({"x": np.zeros(1)}, draft)
    below = tmp_path / "store"
    assert mode(below) == mode(below / "runs" / "x") == mode(below / "shards" / "x") == folder
    assert {mode(path) for path in below.rglob("*.*") if path.suffix in (".parquet", ".safetensors")} == {file}
    assert mode(below / "runs" / "x" / "a.json") == file
    assert len(list(below.rglob("*.safetensors"))) == 2
    assert mode(below / "prefect") == 0o700  # its database has Secret blocks


def test_a_store_of_an_earlier_release_is_closed_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store" / "stack").mkdir(parents=True)
    check_store(UPath(tmp_path / "store"))
    check_store(UPath(tmp_path / "store"))
    assert mode(tmp_path / "store") == 0o700
    assert [record.message.count("was open to others (mode 755)") for record in caplog.records] == [1]
    monkeypatch.setenv("GRAYLINE_GROUP", "read")
    check_store(UPath(tmp_path / "store"))
    assert (mode(tmp_path / "store"), mode(tmp_path / "store" / "stack")) == (0o750, 0o700)


def test_a_team_that_writes_to_one_store_keeps_its_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store").chmod(0o2775)
    monkeypatch.setenv("GRAYLINE_GROUP", "write")
    check_store(UPath(tmp_path / "store"))
    assert mode(tmp_path / "store") == 0o2770


def test_processes_that_are_started_write_private_files_too(tmp_path: Path) -> None:
    keep_private("none")
    subprocess.run([sys.executable, "-c", "import sys; open(sys.argv[1], 'w')", str(tmp_path / "x")], check=True)
    assert modes(tmp_path / "x") == {0o600}
