"""Files: what is written is whole or not there."""

import errno
import os
import re
import shutil
import stat
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from upath import UPath

from resnet_core.errors import UserError
from resnet_core.storage.files import (
    DamagedFileError,
    DiskFullError,
    link,
    read_json,
    refused_by_disk,
    remove_drafts,
    says_full,
    to_path,
    write_folder,
    write_text,
    write_whole,
)


@pytest.mark.parametrize("where", ["local", "memory"])
def test_a_file_is_whole_or_not_there(tmp_path: Path, where: str) -> None:
    path = (UPath(tmp_path) if where == "local" else UPath(f"memory://{tmp_path.name}")) / "new" / "file.txt"
    with suppress(RuntimeError), write_whole(path) as draft:
        draft.write_text("half")
        raise RuntimeError
    assert not path.exists()
    write_text(path, "whole")
    assert path.read_text() == "whole"
    if where == "local":
        assert [p.name for p in (tmp_path / "new").iterdir()] == ["file.txt"]


@pytest.mark.parametrize(("number", "refused"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_a_share_that_cannot_flush_a_folder_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, refused: bool
) -> None:
    flush, flushed = os.fsync, []

    def fsync(file: int) -> None:
        flushed.append(stat.S_ISDIR(os.fstat(file).st_mode))
        if flushed[-1]:
            raise OSError(number, os.strerror(number))
        flush(file)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output") if refused else nullcontext():
        write_text(UPath(tmp_path / "file"), "whole")
    assert flushed == [False, True]  # the content, then the name
    assert (tmp_path / "file").read_text() == "whole"


def test_contents_and_names_are_flushed_before_the_name_that_others_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file and a folder, below folders that are made for them."""
    flushed: list[tuple[str, bool]] = []

    def fsync(file: int) -> None:
        path = Path(f"/proc/self/fd/{file}").readlink()
        flushed.append((re.sub(r"\.(\w+)\.[0-9a-f]{8}", "draft", str(path.relative_to(tmp_path))), final.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    final = tmp_path / "a" / "b" / "file"
    write_text(UPath(final), "whole")
    assert flushed == [("a", False), (".", False), ("a/b/draft", False), ("a/b", True)]
    flushed.clear()
    final = tmp_path / "c" / "folder"
    with write_folder(UPath(final)) as draft:
        (draft / "file").write_text("whole")
    assert flushed == [
        (".", False), ("c/draft/file", False), ("c/draft", False), ("c", False), ("c", True)
    ]  # fmt: skip


@pytest.mark.parametrize("where", ["local", "memory"])
def test_a_folder_replaces_the_one_before(tmp_path: Path, where: str) -> None:
    path = (UPath(tmp_path) if where == "local" else UPath(f"memory://{tmp_path.name}-f")) / "model"
    for name in ("old", "new"):
        with write_folder(path) as draft:
            (draft / name).write_text(name)
    assert [p.name for p in path.iterdir()] == ["new"]
    assert (path / "new").read_text() == "new"


def test_a_link_costs_no_space(tmp_path: Path) -> None:
    old = UPath(tmp_path / "old")
    old.write_bytes(b"content")
    link(old, UPath(tmp_path / "set" / "new"))
    assert (tmp_path / "set" / "new").stat().st_ino == (tmp_path / "old").stat().st_ino


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "a.parquet"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        shutil.Error([("a", "b", "[Errno 28] No space left on device: 'a' -> 'b'")]),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),  # safetensors
        ValueError("(sqlite3.OperationalError) database or disk is full"),
    ],
)
def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path: Path, error: Exception) -> None:
    file, folder = UPath(tmp_path / "a.json"), UPath(tmp_path / "model")
    write_text(file, "before")
    with write_folder(folder) as draft:
        (draft / "weights").write_text("before")
    for writer in (write_whole(file), write_folder(folder)):
        with (
            pytest.raises(DiskFullError, match=r"^\S+: No space left on device\. Make room .* goes on from here\.$"),
            writer,
        ):
            raise error
    assert file.read_text() == "before"
    assert (folder / "weights").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "model"]
    assert not says_full(OSError(errno.EACCES, "Permission denied"))


def test_a_disk_that_refuses_a_file_is_told_in_a_line_and_a_defect_is_not(tmp_path: Path) -> None:
    behind = RuntimeError("the task failed")
    behind.__cause__ = PermissionError(errno.EPERM, "Operation not permitted", "/store/shards/a.parquet")
    read_only = OSError(errno.EROFS, "Read-only file system")
    database = ValueError("(sqlite3.OperationalError) attempt to write a readonly database")
    for error, words in (
        (behind, "/store/shards/a.parquet: Operation not permitted. Finished work stays."),
        (read_only, "Read-only file system. Finished work stays."),
        (database, "attempt to write a readonly database. Finished work stays."),
    ):
        assert words in str(refused_by_disk(error))
    for defect in (ValueError("x"), FileNotFoundError(errno.ENOENT, "No such file", "/x"), None):
        assert refused_by_disk(defect) is None


def test_a_folder_that_cannot_be_copied_whole_keeps_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = UPath(tmp_path / "model")
    with write_folder(folder) as draft:
        (draft / "weights").write_text("before")

    def fail(made: str, to: Path) -> None:
        to.mkdir()
        raise shutil.Error([("weights", "weights", "[Errno 28] No space left on device")])

    monkeypatch.setattr(shutil, "copytree", fail)
    with pytest.raises(DiskFullError), write_folder(folder) as draft:
        (draft / "weights").write_text("after")
    assert (folder / "weights").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_drafts_of_killed_processes_are_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "runs" / ".model.0123abcd").mkdir(parents=True)
    (tmp_path / "runs" / ".model.0123abcd" / "weights").write_text("half")
    (tmp_path / ".a.parquet.89abcdef").write_text("half")
    for kept in ("a.parquet", ".hidden", ".DS_Store"):
        (tmp_path / kept).write_text("whole")
    assert remove_drafts(UPath(tmp_path)) == 2
    assert remove_drafts(UPath(tmp_path / "nowhere")) == 0
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".DS_Store", ".hidden", "a.parquet", "runs"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"<html>"])
def test_torn_json_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"a\.json is damaged \(.*\)\. Delete it\.$"):
        read_json(tmp_path / "a.json", "Delete it.")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b.json", "Delete it.")
    with pytest.raises(FileNotFoundError):  # it has no number
        read_json(UPath(f"memory://{tmp_path.name}/b.json"), "Delete it.")


@pytest.mark.parametrize("place", ["", " ", "\n"])
def test_an_empty_text_is_not_the_current_folder(place: str) -> None:
    """A parameter of a deployment, or a variable that is not set."""
    with pytest.raises(UserError, match="an empty text is no path"):
        to_path(place)
