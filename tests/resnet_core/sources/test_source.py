"""Sources: every file is found once, under a name that opens it. Files that are no images are said to be none."""

import errno
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from resnet_core.errors import UserError
from resnet_core.sources.fetch import open_files
from resnet_core.sources.listing import BATCH
from resnet_core.sources.locate import read_bytes
from resnet_core.sources.source import check_source, list_source, source_kind
from tests.listings import contents, ignored, listed, paths, rows

ODD_NAMES = [
    "with space.png",
    "line\nbreak.png",
    "a#b.png",
    "x.parquet#row=3",
    "a::b.png",
    "a::file:b.png",
    "100%25.png",
    "q?a=b.png",
    "[1].png",
    "ünï中文🙂.png",
    "é decomposed é.png",
    "back\\slash.png",
    "a:b",
    "n" * 251 + ".png",
]


def touch(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_regular_files_are_listed_and_sidecars_and_hidden_ones_are_said_to_be_ignored(tmp_path: Path) -> None:
    for name in ("b/2.png", "a/1.jpg", "c", "labels.csv", "a/notes.TXT", ".hidden.png", ".git/x.png", "a/x.csv.png"):
        touch(tmp_path / name)
    assert paths(tmp_path) == ["a/1.jpg", "a/x.csv.png", "b/2.png", "c"]
    assert ignored(tmp_path) == [".git/x.png", ".hidden.png", "a/notes.TXT", "labels.csv"]
    assert all(row["size"] == 1 for row in rows(tmp_path))


def test_the_label_is_the_folder_at_the_top(tmp_path: Path) -> None:
    for name in ("cats/1.png", "cats/deep/2.png", "3.png"):
        touch(tmp_path / name)
    assert {row["path"]: row["label"] for row in rows(tmp_path)} == {
        "cats/1.png": "cats",
        "cats/deep/2.png": "cats",
        "3.png": None,
    }


def test_any_name_opens_its_file(tmp_path: Path) -> None:
    for name in ODD_NAMES:
        touch(tmp_path / "s" / name, name.encode())
    assert contents(tmp_path / "s") == {name: name.encode() for name in ODD_NAMES}


def test_a_name_that_is_no_utf8_is_listed_and_can_be_read(tmp_path: Path) -> None:
    touch(tmp_path / os.fsdecode(b"class-\xe9") / os.fsdecode(b"bad-\xff.png"), b"content")
    (row,) = rows(tmp_path)
    assert (row["path"], row["label"]) == ("class-\\udce9/bad-\\udcff.png", "class-\\udce9")
    assert list(contents(tmp_path).values()) == [b"content"]


def test_links_are_followed_once_and_what_is_no_file_does_not_hang(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "source"
    real = touch(source / "real.png")
    touch(tmp_path / "elsewhere" / "outside.png")
    (source / "link.png").symlink_to(real)
    (source / "outside.png").symlink_to(tmp_path / "elsewhere" / "outside.png")
    (source / "nowhere.png").symlink_to(tmp_path / "missing")
    (source / "itself.png").symlink_to(source / "itself.png")
    (source / "loop").symlink_to(source)
    (source / "above").symlink_to(tmp_path)
    os.mkfifo(source / "pipe.png")
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(os.path.relpath(source / "door.png"))
    assert paths(source) == ["itself.png", "nowhere.png", "outside.png", "real.png"]
    assert ignored(source) == ["above/", "link.png", "loop/"]
    assert "itself.png, nowhere.png: a link to nothing" in caplog.text
    assert "above/, loop/: left out, a link to a folder that holds the source" in caplog.text
    assert paths(f"{source}/**/*.png") == ["itself.png", "nowhere.png", "outside.png", "real.png"]
    found = contents(source)
    assert (found["outside.png"], "No such file" in str(found["nowhere.png"])) == (b"x", True)


def test_a_file_that_cannot_be_looked_at_is_a_row_and_no_broken_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A stall of the disk says nothing about a file; only one that was removed is left out."""
    touch(tmp_path / "elsewhere" / "1.png")
    touch(tmp_path / "source" / "plain.png")
    touch(tmp_path / "source" / "removed.png")
    (tmp_path / "source" / "link.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "source" / "broken.png").symlink_to(tmp_path / "nowhere")
    look, scan = os.stat, os.scandir

    class Entry:
        def __init__(self, entry: "os.DirEntry[str]") -> None:
            self.entry, self.name, self.path = entry, entry.name, entry.path

        def __getattr__(self, name: str) -> object:
            return getattr(self.entry, name)

        def stat(self) -> os.stat_result:
            error = {"plain.png": errno.EIO, "removed.png": errno.ENOENT}[self.name]
            raise OSError(error, os.strerror(error), self.path)

    class Entries(list):  # type: ignore[type-arg]
        def __enter__(self) -> "Entries":
            return self

        def __exit__(self, *_: object) -> None:
            pass

    def stalls(path: str, *how: object, **more: object) -> os.stat_result:
        if str(path).endswith("link.png"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return look(path, *how, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", lambda folder: Entries(map(Entry, scan(folder))))
        patch.setattr(os, "stat", stalls)
        assert paths(tmp_path / "source") == ["broken.png", "link.png", "plain.png"]
    assert "broken.png: a link to nothing" in caplog.text
    assert "link.png, " not in caplog.text


def test_linked_folders_count_once_by_the_first_path(tmp_path: Path) -> None:
    """Classes that are links, two of them to one folder. There is a part of it, too, and a circle between two linked
    folders.
    """
    for name in ("data/cat/1.png", "store/bird/2.png", "store/bird/deep/3.png", "store/fish/4.png"):
        touch(tmp_path / name)
    for name, target in (("zebra", "bird"), ("bird", "bird"), ("aves", "bird/deep"), ("fish", "fish")):
        (tmp_path / "data" / name).symlink_to(tmp_path / "store" / target)
    (tmp_path / "store" / "fish" / "again").symlink_to(tmp_path / "store" / "bird")
    (tmp_path / "store" / "bird" / "circle").symlink_to(tmp_path / "store" / "fish")
    expected = {"cat/1.png": "cat", "bird/2.png": "bird", "aves/3.png": "aves", "bird/circle/4.png": "bird"}
    assert {row["path"]: row["label"] for row in rows(tmp_path / "data") if not row["ignored"]} == expected
    assert ignored(tmp_path / "data") == ["bird/circle/again/", "bird/deep/", "fish/", "zebra/"]
    assert len(paths(f"{tmp_path}/data/**")) == 4
    assert paths(f"{tmp_path}/data/*/*.png") == ["aves/3.png", "bird/2.png", "cat/1.png", "fish/4.png"]


def test_a_link_into_a_hidden_folder_is_the_files_only_path(tmp_path: Path) -> None:
    """As git-annex and DVC keep files: `.git/annex/objects/...`."""
    touch(tmp_path / ".git" / "annex" / "blob.png", b"annexed")
    touch(tmp_path / ".git" / "cats" / "2.png")
    (tmp_path / "cats").symlink_to(tmp_path / ".git" / "cats")
    (tmp_path / "dogs").mkdir()
    for name in ("dogs/1.png", "dogs/twice.png", ".hidden.png"):
        (tmp_path / name).symlink_to(tmp_path / ".git" / "annex" / "blob.png")
    assert contents(tmp_path) == {"dogs/1.png": b"annexed", "cats/2.png": b"x"}
    assert paths(f"{tmp_path}/*/*.png") == ["cats/2.png", "dogs/1.png"]


@pytest.mark.parametrize("source", ["data", "data/**", "link", "link/*/**", "other"])
def test_an_own_output_is_left_out_by_whatever_path_it_is_reached(
    tmp_path: Path, source: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("data/cat/1.png", "data/cat/scores/rows.parquet", "data/old/_batch.json", "data/old/plot.png"):
        touch(tmp_path / name)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    (tmp_path / "other").mkdir()
    for name in ("cat", "old"):
        (tmp_path / "other" / name).symlink_to(tmp_path / "data" / name)
    (tmp_path / "data" / "cat" / "linked").symlink_to(tmp_path / "data" / "old")
    place = tmp_path / "link" / "cat" / ".." / "cat" / "scores"
    rows = [row for batch in list_source(f"{tmp_path}/{source}", [str(place)]) for row in batch.to_pylist()]
    assert [row["path"] for row in rows if not row["ignored"]] == ["cat/1.png"]
    assert {row["path"] for row in rows if row["ignored"]} == {"cat/scores/", "old/", "cat/linked/"}
    assert "cat/scores/, old/: left out, a store, batch or feature set of Grayline" in caplog.text


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that any user may enter, and no rights of root."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        kept = os.umask(0o022)
        user = os.geteuid()
        for place in ("open/1.png", "shut/2.png", "names-only/3.png", "open/4.png", "shut.zip"):
            touch(Path(name) / place)
        for place, rights in (("shut", 0), ("names-only", 0o444), ("open/4.png", 0), ("shut.zip", 0)):
            (Path(name) / place).chmod(rights)
        if user == 0:
            os.seteuid(65534)
        try:
            yield Path(name)
        finally:
            os.seteuid(user)
            os.umask(kept)
            for place in ("shut", "names-only"):
                (Path(name) / place).chmod(0o755)


def test_what_may_not_be_read_is_not_lost(public_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = contents(public_folder)
    assert found.pop("open/1.png") == b"x"
    assert found.keys() == {"names-only/3.png", "open/4.png", "shut.zip"}
    assert all("Permission denied" in str(text) for text in found.values())
    with pytest.raises(UserError, match=r"shut\.zip: cannot be read"):
        check_source(str(public_folder / "shut.zip"))
    assert ignored(public_folder) == ["shut/"]
    assert "shut cannot be read (Permission denied)" in caplog.text
    with pytest.raises(UserError, match="cannot be read"):
        check_source(str(public_folder / "shut"))


def test_a_glob_takes_what_a_shell_would(tmp_path: Path) -> None:
    for name in ("a/2026-01/x/1.png", "a/2026-02/2.png", "b/2025-01/3.png", "b/2026-03/4.jpg", "b/2026-03/.h/5.png"):
        touch(tmp_path / "raw" / name)
    pattern = f"{tmp_path}/raw/*/2026-*/**/*.png"
    assert source_kind(pattern) == "glob"
    found = {row["path"]: row["label"] for row in rows(pattern) if not row["ignored"]}
    assert found == {"a/2026-01/x/1.png": "x", "a/2026-02/2.png": "2026-02"}
    assert ignored(pattern) == ["b/2026-03/.h/5.png"]
    assert paths(f"{tmp_path}/raw/b/**") == ["2025-01/3.png", "2026-03/4.jpg"]
    assert paths(f"{tmp_path}/raw/?/202[56]-0[13]/*.*") == ["b/2025-01/3.png", "b/2026-03/4.jpg"]
    assert contents(f"{tmp_path}/raw/*/*/*.jpg") == {"b/2026-03/4.jpg": b"x"}


def test_a_glob_follows_links_that_it_names_and_holds_on_to_the_label(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "cats").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path)
    assert paths(f"{tmp_path}/raw/*/*.png") == ["cats/1.png"]
    assert paths(f"{tmp_path}/raw/**/*.png") == ["cats/1.png"]
    assert paths(f"{tmp_path}/raw/*/**/*.png") == ["cats/1.png"]
    (row,) = rows(f"{tmp_path}/raw/cats/*.png")
    assert row["label"] == "cats"


def test_a_name_with_brackets_that_is_there_is_no_glob(tmp_path: Path) -> None:
    touch(tmp_path / "raw[1]" / "a" / "1.png")
    assert source_kind(f"{tmp_path}/raw[1]") == "folder"
    assert paths(f"{tmp_path}/raw[1]") == ["a/1.png"]


def test_other_file_systems_are_walked_too() -> None:
    import fsspec

    fs = fsspec.filesystem("memory")
    for name in ODD_NAMES:
        fs.pipe_file(f"/source-test/a/{name}", name.encode())
    fs.pipe_file("/source-test/labels.csv", b"")
    fs.pipe_file("/source-test/b/2026/1.png", b"one")
    try:
        assert contents("memory://source-test/") == {
            **{f"a/{name}": name.encode() for name in ODD_NAMES},
            "b/2026/1.png": b"one",
        }
        assert ignored("memory://source-test") == ["labels.csv"]
        assert all(row["modified"] for row in rows("memory://source-test"))
        assert contents("memory://source-test/*/20*/*.png") == {"b/2026/1.png": b"one"}
    finally:
        fs.rm("/source-test", recursive=True)


def test_a_relative_source_has_absolute_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "s" / "1.png")
    monkeypatch.chdir(tmp_path)
    for source in ("s", "./s/", "s/*.png", f"file://{tmp_path}/s"):
        assert [row["uri"] for row in rows(source)] == [str(tmp_path / "s" / "1.png")]


def test_a_file_that_has_changed_since_it_was_listed_is_an_error(tmp_path: Path) -> None:
    for name in ("grown", "shrunk", "gone", "same"):
        touch(tmp_path / name, b"12345")
    files = listed(tmp_path)
    touch(tmp_path / "grown", b"123456")
    touch(tmp_path / "shrunk", b"1234")
    (tmp_path / "gone").unlink()
    found = dict(zip(files["path"].to_pylist(), open_files(files), strict=True))
    assert found.pop("same") == b"12345"
    assert isinstance(found.pop("gone"), FileNotFoundError)
    assert [str(found[name]) for name in ("grown", "shrunk")] == [
        "has changed since it was listed: it had 5 bytes then"
    ] * 2


def test_batches_stay_small(tmp_path: Path) -> None:
    real = touch(tmp_path / "0.png")
    for number in range(1, BATCH + 10):
        os.link(real, tmp_path / f"{number}.png")
    assert [len(batch) for batch in list_source(str(tmp_path))] == [BATCH, 10]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "there is no such folder"),
        ("missing.zip", "there is no such file"),
        ("empty", "holds no images"),
        ("text.doc", "not a folder, .csv, .tsv, .txt or .parquet list"),
        ("empty/*.png", "no file matches it"),
        ("missing/*/*.png", "no file matches it"),
        ("text.zip", "not a whole zip"),
        ("text.tar", "not a whole tar|cut short"),
        ("text.tar.gz", "not a whole tar|cut short"),
        ("text.parquet", "not a whole Parquet file"),
        ("x-images-idx3-ubyte", "not an IDX file of images"),
        ("nowhere://bucket/x", "nowhere"),
    ],
)
def test_a_source_that_cannot_be_meant_is_the_users_error(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    for file in ("text.doc", "text.zip", "text.tar", "text.tar.gz", "text.parquet", "x-images-idx3-ubyte"):
        touch(tmp_path / file, b"no archive")
    source = name if "://" in name else str(tmp_path / name)
    with pytest.raises(UserError, match=message) as caught:
        check_source(source)
    assert source in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_uri_that_leads_nowhere_is_an_os_error(tmp_path: Path) -> None:
    for uri in (
        f"{tmp_path}/none",
        f"{tmp_path}/none.parquet#row=3",
        f"tar://a::file://{tmp_path}/none.tar",
        "memory://none/x",
        "s4://none/x",
    ):
        with pytest.raises(OSError, match=r"\w"):
            read_bytes(uri)
