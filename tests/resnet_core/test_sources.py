"""Sources and files: every file is found once, and what is written is whole or not there."""

import os
from contextlib import suppress
from pathlib import Path

import pytest
from upath import UPath

from resnet_core.errors import UserError
from resnet_core.files import link, write_folder, write_text, write_whole
from resnet_core.manifest import read_manifest
from resnet_core.sources import list_files, locate, read_bytes


def touch(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_regular_files_are_listed_and_sidecars_and_hidden_ones_are_said_to_be_ignored(tmp_path: Path) -> None:
    for name in ("b/2.png", "a/1.jpg", "c", "labels.csv", "a/notes.TXT", ".hidden.png", ".git/x.png", "odd name\n.png"):
        touch(tmp_path / name)
    found = list_files(UPath(tmp_path))
    assert [file.path for file in found.files] == ["a/1.jpg", "b/2.png", "c", "odd name\n.png"]
    assert found.ignored == (".git/x.png", ".hidden.png", "a/notes.TXT", "labels.csv")
    assert all(file.size == 1 for file in found.files)


def test_links_to_files_count_and_loops_do_not_hang(tmp_path: Path) -> None:
    real = touch(tmp_path / "real.png")
    (tmp_path / "link.png").symlink_to(real)
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "missing")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert [file.path for file in list_files(UPath(tmp_path)).files] == ["link.png", "real.png"]


def test_a_name_that_is_no_utf8_is_listed_and_can_be_read(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/bad-\xff.png"
    with open(name, "wb") as file:
        file.write(b"content")
    (found,) = list_files(UPath(tmp_path)).files
    found.uri.encode("utf-8")
    assert read_bytes(found.uri) == b"content"


def test_other_file_systems_are_walked_too() -> None:
    root = UPath("memory://source-test")
    (root / "a").mkdir(parents=True, exist_ok=True)
    (root / "a" / "1.png").write_bytes(b"one")
    (root / "labels.csv").write_bytes(b"")
    found = list_files(root)
    assert [file.path for file in found.files] == ["a/1.png"]
    assert read_bytes(found.files[0].uri) == b"one"
    assert found.files[0].modified


def test_a_manifests_paths_are_relative_absolute_or_missing(tmp_path: Path) -> None:
    inside, outside = touch(tmp_path / "m" / "in.png"), touch(tmp_path / "out.png")
    folder = UPath(tmp_path / "m")
    assert locate(folder, "in.png").uri == str(inside)  # type: ignore[union-attr]
    assert locate(folder, str(outside)).uri == str(outside)  # type: ignore[union-attr]
    assert locate(folder, "none.png") is None


def test_manifest_columns_are_text_and_have_defaults(tmp_path: Path) -> None:
    path = touch(tmp_path / "m.csv", b"path,label,weight,colour\n./a.png,007,,red\nb.png,NA,0.5,\nc.png,,1,\n")
    table = read_manifest(UPath(path))
    assert table["path"].tolist() == ["a.png", "b.png", "c.png"]
    assert table["label"].tolist() == ["007", "NA", None]
    assert table["weight"].tolist() == [1, 0.5, 1]
    assert table["split"].tolist() == [None] * 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("paths,label\na,b\n", "no column 'path'. Did you mean 'paths'"),
        ("path,label,split\na,b,trian\n", "split 'trian' is none of train, validation, test. Did you mean 'train'"),
        ("path,label\na,b\na,c\n", "'a' stands in it 2 times"),
        ("path,label,weight\na,b,-1\n", "weight '-1' is no number"),
        ("path,label\n,b\n", "line 2: `path` is empty"),
    ],
)
def test_a_wrong_manifest_is_the_users_error(tmp_path: Path, text: str, message: str) -> None:
    path = touch(tmp_path / "m.csv", text.encode())
    with pytest.raises(UserError) as caught:
        read_manifest(UPath(path))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


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


@pytest.mark.parametrize("where", ["local", "memory"])
def test_a_folder_replaces_the_one_before(tmp_path: Path, where: str) -> None:
    path = (UPath(tmp_path) if where == "local" else UPath(f"memory://{tmp_path.name}-f")) / "model"
    for name in ("old", "new"):
        with write_folder(path) as draft:
            (draft / name).write_text(name)
    assert [p.name for p in path.iterdir()] == ["new"]
    assert (path / "new").read_text() == "new"


def test_a_link_costs_no_space(tmp_path: Path) -> None:
    old = UPath(touch(tmp_path / "old", b"content"))
    link(old, UPath(tmp_path / "set" / "new"))
    assert (tmp_path / "set" / "new").stat().st_ino == (tmp_path / "old").stat().st_ino
