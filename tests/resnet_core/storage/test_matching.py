"""Matching: the spellings of a path in the labels that name a file of the source. Others are refused."""

import unicodedata
from pathlib import Path

import pytest

from resnet_core.errors import UserError
from resnet_core.storage.matching import Places, difference, match

HERE = Places("/data/raw/parts", "/data/raw")
DECOMPOSED = unicodedata.normalize("NFD", "dog/é.png")
FILES = ["cat/1.png", "cat/2.png", DECOMPOSED, "a b/x%20y.png"]


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("cat/1.png", "cat/1.png"),
        ("./cat//1.png", "cat/1.png"),
        ("cat\\1.png", "cat/1.png"),
        ("/data/raw/parts/cat/1.png", "cat/1.png"),
        ("//data/raw//parts/cat/1.png", "cat/1.png"),
        ("file:///data/raw/parts/cat/1.png", "cat/1.png"),
        ("file://localhost/data/raw/parts/dog/%C3%A9.png", DECOMPOSED),
        ("parts/cat/1.png", "cat/1.png"),
        ("data/raw/parts/cat/1.png", "cat/1.png"),
        ("../raw/parts/cat/1.png", "cat/1.png"),
        ("/home/anna/parts/cat/1.png", "cat/1.png"),
        ("C:\\Users\\Anna\\parts\\cat\\2.png", "cat/2.png"),
        (unicodedata.normalize("NFC", DECOMPOSED), DECOMPOSED),
        (unicodedata.normalize("NFC", f"parts\\{DECOMPOSED}"), DECOMPOSED),
        ("a%20b/x%2520y.png", "a b/x%20y.png"),
        ("a b/x%20y.png", "a b/x%20y.png"),
    ],
)
def test_a_spelling_names_its_file(path: str, file: str) -> None:
    assert match([path, "cat/9.png"], FILES, HERE) == {path: file}


def test_a_table_may_mix_them() -> None:
    paths = ["./cat/1.png", "/data/raw/parts/cat/2.png", "parts/dog/é.png"]
    assert match(paths, FILES, HERE) == dict(zip(paths, FILES, strict=False))


def test_an_archive_goes_by_its_name_with_and_without_suffix() -> None:
    for place in ("/x/photos.zip", "/x/photos.tar.gz", "/x/photos.tgz"):
        here = Places(place, "/x")
        assert match(["photos/cat/1.png"], ["cat/1.png"], here) == {"photos/cat/1.png": "cat/1.png"}
        assert match(["cat/1.png"], ["photos/cat/1.png"], here) == {"cat/1.png": "photos/cat/1.png"}


def test_a_url_is_a_source_too() -> None:
    here = Places("s3://bucket/parts", "/work")
    paths = ["s3://bucket/parts/cat/1.png", "parts/cat/2.png"]
    assert match(paths, FILES, here) == {paths[0]: "cat/1.png", paths[1]: "cat/2.png"}


def test_a_source_behind_a_link_has_two_places(tmp_path: Path) -> None:
    (tmp_path / "disk" / "one").mkdir(parents=True)
    (tmp_path / "parts").symlink_to(tmp_path / "disk" / "one")
    here = Places(f"{tmp_path}/parts", str(tmp_path))
    paths = [f"{tmp_path}/disk/one/cat/1.png", f"{tmp_path}/parts/cat/2.png"]
    assert match(paths, FILES, here) == {paths[0]: "cat/1.png", paths[1]: "cat/2.png"}


def test_paths_relative_to_the_source_come_first_where_all_are() -> None:
    inside = ["cat/cat/1.png", "cat/1.png", "2.png"]
    assert match(["cat/1.png"], inside, Places("/x/cat", "/x")) == {"cat/1.png": "cat/1.png"}


def test_what_may_be_two_files_is_refused() -> None:
    with pytest.raises(UserError, match=r"'cat/1.png' may be 'cat/1.png' or 'cat/cat/1.png'"):
        match(["cat/1.png", "cat/2.png"], ["cat/cat/1.png", "cat/1.png", "2.png"], Places("/x/cat", "/x"))
    both = [DECOMPOSED, unicodedata.normalize("NFC", DECOMPOSED)]
    assert match(both, both, HERE) == {name: name for name in both}
    with pytest.raises(UserError, match="Write the path relative to the source"):
        match([f"./{both[1]}"], both, HERE)


def test_two_rows_of_one_file_are_refused() -> None:
    with pytest.raises(UserError, match="name the same file"):
        match(["cat/1.png", "/data/raw/parts/cat/1.png"], FILES, HERE)


@pytest.mark.parametrize(
    ("paths", "files", "rule"),
    [
        (["images/1.png", "images/2.png"], ["1.png", "2.png"], "The labels' paths begin with 'images/': remove it."),
        (["1.png", "2.png"], ["a/1.png", "a/2.png"], "The files' paths begin with 'a/': write it in front"),
        (["1.jpg", "2.jpg"], ["1.png", "2.png"], "The extensions differ"),
        (["1", "2"], ["1.png", "2.png"], "The extensions differ"),
        (["A.PNG"], ["a.png"], "The case differs"),
        (["1.png ", " 2.png"], ["1.png", "2.png"], "There are blanks around the names"),
        (["a/1.png", "b/2.png"], ["c/1.png", "d/2.png"], "The names agree, the folders do not"),
        (["x.png"], ["y.png"], "No name agrees"),
    ],
)
def test_what_does_not_match_is_shown_with_the_likely_rule(paths: list[str], files: list[str], rule: str) -> None:
    said = difference(paths * 3, files * 3)
    assert rule in said
    assert repr(paths[0]) in said.partition(";")[0]
    assert repr(files[0]) in said.partition(";")[2]
    assert "\n" not in said


def test_the_places_of_a_glob_are_those_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "a[1]").mkdir()
    assert Places.of(f"{tmp_path}/d/*/x.png", f"{tmp_path}/l.csv") == Places(f"{tmp_path}/d", str(tmp_path))
    assert Places.of(f"{tmp_path}/a[1]", f"{tmp_path}/l.csv") == Places(f"{tmp_path}/a[1]", str(tmp_path))


def test_names_of_a_labelling_tool_may_be_the_end_of_a_path_or_lack_its_suffix() -> None:
    files = ["cam1/1.png", "cam1/2.png", "cam2/2.png", "3.jpg", "d.e/4.png"]
    names = ["1.png", "cam2/2.png", "srv/share/3.jpg", "4", "absent.png"]
    found = match(names, files, HERE, tails=True)
    assert found == {"1.png": "cam1/1.png", "cam2/2.png": "cam2/2.png", "srv/share/3.jpg": "3.jpg", "4": "d.e/4.png"}
    assert match(names, files, HERE) == {"cam2/2.png": "cam2/2.png"}
    with pytest.raises(UserError, match=r"'2\.png' may be 'cam1/2\.png' or 'cam2/2\.png' of the source"):
        match(["2.png"], files, HERE, tails=True)
