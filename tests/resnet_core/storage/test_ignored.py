"""Ignored names: what systems put beside images is never one, and no image is taken for such a file."""

import io
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from resnet_core.storage.ignored import DOCUMENTS, IGNORED, IGNORED_PATTERN, OWN_MARKS, is_from_system, is_ignored
from tasks.store import BATCH_BEGUN, FEATURES_BEGUN, STORE_MARK
from tests.listings import ignored, paths

SIDECARS = (
    "cat/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg", "#recycle/1.png", "@Recycle/deep/1.png", "$Recycle.Bin/S-1-5/1.png",
    "System Volume Information/IndexerVolumeGuid", "lost+found/1.png", "__MACOSX/cat/._1.png", ".AppleDouble/1.png",
    "cat/.thumbnails/1.png", "cat/THUMBS.DB", "cat/Desktop.ini", "cat/.DS_Store", "cat/._1.png", "cat/1.png.XMP",
    "cat/1.AAE", "cat/1.thm", "README", "readme.MD", "README.rst", "LICENSE", "LICENSE-MIT", "licence.txt",
    "labels.jsonl", "train.tsv", "dataset.py", "cat/1.json", "cat/Icon\r", "cat/~$1.png", "cat/1.png.part",
)  # fmt: skip
IMAGES = (
    "recycle/1.png", "license_plate/1.png", "license_plate_001.jpg", "licenses.png", "README.png", "thumbs/1.png",
    "a.txt/1.png", "cat/1", "cat/x.csv.png", "snapshot/1.tif", "temporary/1.png", "notice_board/1.jpg", "db",
)  # fmt: skip


@pytest.mark.parametrize("path", SIDECARS)
def test_what_systems_and_people_put_beside_images_is_ignored(path: str) -> None:
    assert is_ignored(path)
    assert is_ignored(f"deep/{path}")


@pytest.mark.parametrize("path", IMAGES)
def test_names_that_only_look_like_it_are_images(path: str) -> None:
    assert not is_ignored(path)


def test_case_does_not_matter_and_every_name_of_the_list_counts() -> None:
    for line in IGNORED:
        names = [f"{folder}/1.png" for folder in line.folders] + [*line.files] + [f"a{end}" for end in line.suffixes]
        assert all(is_ignored(name) and is_ignored(name.upper()) and is_ignored(name.lower()) for name in names)


def test_the_marks_are_the_files_that_the_stages_write() -> None:
    assert {STORE_MARK, BATCH_BEGUN, FEATURES_BEGUN} == OWN_MARKS
    assert not any(is_from_system(name) for name in OWN_MARKS)  # or nobody would find the own files of a store


def test_folders_archives_and_urls_ignore_the_same(tmp_path: Path) -> None:
    import fsspec

    fs, names = fsspec.filesystem("memory"), [*SIDECARS, *IMAGES]
    folder = tmp_path / "folder"
    with tarfile.open(tmp_path / "x.tar", "w") as tar, zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"x")
            fs.pipe_file(f"/ignored-test/{name}", b"x")
            tar.addfile(info := tarfile.TarInfo(name), io.BytesIO(b"x"))
            info.size = 1
            archive.writestr(name, b"x")
    try:
        for source in (folder, tmp_path / "x.tar", tmp_path / "x.zip", "memory://ignored-test", f"{folder}/**"):
            assert ignored(source) == sorted(SIDECARS), source
            assert paths(source) == sorted(IMAGES), source
    finally:
        fs.rm("/ignored-test", recursive=True)


def test_the_pattern_for_columns_says_the_same() -> None:
    whole = [name for line in IGNORED for name in (*line.folders, *line.files)]
    ends = [suffix for line in IGNORED for suffix in line.suffixes]
    names = [
        *whole, *map(str.upper, whole), *(f"{name}x" for name in whole),
        *ends, *(f"x{end}" for end in ends), *(f"x{end}.png" for end in ends),
        *(f"{name}{end}" for name in DOCUMENTS for end in ("", "-MIT", "-a-b.pdf", ".PDF", ".png", "s", "-1")),
        ".hidden", "..", ".", "..x", "~$x.docx", "~x", "a.b.c.csv", "x.csv ", "x.", "noext", "é.png", "icon",
    ]  # fmt: skip
    paths = [
        form.format(name) for name in names for form in ("{}", "a/{}", "a/b/{}", "{}/1.png", "a/{}/b/1.png", "a b/{}")
    ]
    found = pc.match_substring_regex(pa.array(paths), IGNORED_PATTERN).to_pylist()
    assert [path for path, is_it in zip(paths, found, strict=True) if is_it != is_ignored(path)] == []
    assert 300 < sum(found) < len(found)
