"""Files: what is written is whole or not there."""

from contextlib import suppress
from pathlib import Path

import pytest
from upath import UPath

from resnet_core.storage.files import link, write_folder, write_text, write_whole


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
    old = UPath(tmp_path / "old")
    old.write_bytes(b"content")
    link(old, UPath(tmp_path / "set" / "new"))
    assert (tmp_path / "set" / "new").stat().st_ino == (tmp_path / "old").stat().st_ino
