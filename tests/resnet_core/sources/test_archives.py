"""Archives: what `tarfile`, `zipfile` and tar itself find in them is found, where it lies, whatever wrote them."""

import bz2
import gzip
import io
import lzma
import random
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_core.errors import UserError
from resnet_core.sources import _archives
from resnet_core.sources._tar import read_headers
from resnet_core.sources.fetch import open_files
from resnet_core.sources.locate import read_bytes
from resnet_core.sources.source import check_source, list_source, source_kind
from resnet_core.storage import compressed
from tests.listings import contents, ignored, listed, paths, rows

Made = dict[str, bytes]
NAMES = ["cats/1.png", "dogs/2.png", "3.png", "deep/" * 30 + "long.png", "ünï/中文🙂.png", "a/b::c #%\n.png", "n" * 255]
ANY_NAME = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=200).map(
    lambda s: s.rstrip("/") + "x"
)
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def some_bytes(seed: int, count: int) -> bytes:
    return random.Random(seed).randbytes(count)


def entry(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "", time: float = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname, info.mtime = size, kind, link, time
    return info


def write_tar(path: Path, files: Made, form: str = "gnu", mode: str = "w", time: float = 1.7e9) -> Path:
    with tarfile.open(path, mode, format=FORMATS[form]) as tar:
        for number, (name, data) in enumerate(files.items()):
            tar.addfile(entry(name, len(data), time=time + number), io.BytesIO(data))
    return path


def write_zip(path: Path, files: Made, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def example(count: int = 40) -> Made:
    odd = {name: some_bytes(number, 100 * number) for number, name in enumerate(NAMES)}
    return odd | {f"many/{number:03}.png": some_bytes(number, number * 37 % 3000) for number in range(count)}


@pytest.mark.parametrize("form", FORMATS)
def test_a_tars_members_are_found_and_read(tmp_path: Path, form: str) -> None:
    made = {name: data for name, data in example().items() if form != "ustar" or len(name) < 100}
    tar = write_tar(tmp_path / "x.tar", made, form, time=1.7e9 + 0.25 * (form == "pax"))
    assert contents(tar) == made
    labels = {row["path"]: row["label"] for row in rows(tar)}
    assert (labels["cats/1.png"], labels["3.png"]) == ("cats", None)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_zips_members_are_found_and_read(tmp_path: Path, method: int) -> None:
    made = example() | {"flat.png": bytes(100_000), "empty.png": b""}
    assert contents(write_zip(tmp_path / "x.zip", made, method)) == made


@pytest.mark.parametrize("suffix", ["tar.gz", "tgz", "tar.bz2", "tar.xz", "tar.zst"])
def test_a_compressed_tar_is_unpacked_once_and_not_left_behind(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = example()
    plain = write_tar(tmp_path / "plain.tar", made).read_bytes()
    tar = tmp_path / f"x.{suffix}"
    with pa.output_stream(tar, compression="zstd" if suffix == "tar.zst" else None) as out:
        pack = {"tar.gz": gzip.compress, "tgz": gzip.compress, "tar.bz2": bz2.compress, "tar.xz": lzma.compress}
        out.write(pack.get(suffix, bytes)(plain))
    assert source_kind(str(tar)) == "tar"
    script = (
        "import sys; from pathlib import Path; from tests.listings import contents; found = contents(sys.argv[1]);"
        "print(len(found), len([f for f in Path(sys.argv[2]).rglob('*') if f.is_file() and f.suffix != '.lock']))"
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    ran = subprocess.run(
        [sys.executable, "-c", script, tar, scratch],
        env={"TMPDIR": str(scratch)},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        check=True,
        text=True,
    )
    assert ran.stdout.split() == [str(len(made)), "1"]
    assert [file for file in scratch.rglob("*") if file.is_file()] == []
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    assert contents(tar) == made
    shutil.rmtree(scratch)  # another machine has nothing unpacked
    scratch.mkdir()
    assert next(iter(open_files(listed(tar).slice(3, 2)))) == made[listed(tar)["path"][3].as_py()]
    compressed._remove_made()


def test_gnu_tar_writes_what_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    made = example(5) | {"sparse.bin": b"begin" + bytes(300_000) + b"middle" + bytes(700_000) + b"end"}
    for name, data in made.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    with open(folder / "sparse.bin", "r+b") as file:
        for start, text in ((0, b"begin"), (300_005, b"middle"), (1_000_011, b"end")):
            file.truncate(start)
            file.seek(start)
            file.write(text)
    (folder / "link.png").hardlink_to(folder / "cats/1.png")
    (folder / "soft.png").symlink_to("3.png")
    made["link.png"] = made["cats/1.png"]
    for form in ("gnu", "posix", "pax"):
        for sparse in ((), ("--sparse",), ("--sparse", "--sparse-version=0.1")):
            tar = tmp_path / f"{form}{len(sparse)}.tar"
            command = ["tar", f"--format={form}", *sparse, "-C", folder, "-cf", tar, "--", "."]
            subprocess.run(command, check=True)
            assert contents(tar) == made
            assert ignored(tar) == ["soft.png"]
    assert tar.stat().st_size < 200_000


def test_other_zips_and_zip64_are_read(tmp_path: Path) -> None:
    made = example(5)
    streamed = io.BytesIO()

    class Pipe(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: bytes) -> int:  # type: ignore[override]
            return streamed.write(data)

    with zipfile.ZipFile(Pipe(), "w", zipfile.ZIP_DEFLATED) as archive:  # sizes stand behind the bytes
        for name, data in made.items():
            info = zipfile.ZipInfo(name)
            info.extra = b"\xfe\xca" + (2000).to_bytes(2, "little") + bytes(2000)
            with archive.open(info, "w", force_zip64=True) as member:
                member.write(data)
        archive.comment = b"PK\5\6 in a comment" * 100
    path = tmp_path / "x.zip"
    for before in (b"", b"#!/bin/sh\n" * 50):  # self-extracting ones have a program in front
        path.write_bytes(before + streamed.getvalue())
        assert contents(path) == made


def test_a_zip_of_more_than_65535_members_is_listed_whole(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for number in range(66_000):
            archive.writestr(f"{number % 10}/{number}.png", b"")
    assert len(paths(tmp_path / "x.zip")) == 66_000


@settings(max_examples=60, deadline=None)
@given(
    names=st.lists(ANY_NAME, max_size=12),
    form=st.sampled_from(sorted(FORMATS)),
    kinds=st.lists(st.sampled_from([b"0", b"0", b"0", b"1", b"2", b"5", b"6"]), min_size=12, max_size=12),
    times=st.lists(st.one_of(st.integers(0, 2**40), st.floats(0, 2e9)), min_size=12, max_size=12),
)
def test_the_same_members_as_tarfile_finds(names: list[str], form: str, kinds: list[bytes], times: list[float]) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=FORMATS[form]) as tar:
        for number, (name, kind, time) in enumerate(zip(names, kinds, times, strict=False)):
            try:
                data = some_bytes(number, 50 * number) if kind == b"0" else b""
                tar.addfile(entry(name, len(data), kind, names[0] if kind in b"12" else "", time), io.BytesIO(data))
            except ValueError:  # ustar has no room for it
                continue
    made.seek(0)
    with tarfile.open(fileobj=made) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar if m.type == b"0"]
    found = list(read_headers(io.BytesIO(made.getvalue()), "x"))
    assert [(m.name, m.offset, m.size) for m in found if m.type == b"0"] == expected


def test_of_members_of_one_name_the_last_counts_and_the_others_are_not_lost(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", {"a/1.png": b"old", "2.png": b"two"})
    write_tar(tar, {"./a/1.png": b"newer", "3.png": b"three"}, mode="a", time=1.8e9)
    write_tar(tar, {"a/1.png": b"newest"}, mode="a", time=1.9e9)
    expected = {"a/1.png": b"newest", "2.png": b"two", "3.png": b"three"}
    assert contents(tar) == expected
    assert ignored(tar) == ["a/1.png", "a/1.png"]
    assert read_bytes(f"tar://a/1.png::file://{tar}") == b"newest"
    write_zip(tmp_path / "x.zip", {"1.png": b"old"})
    with zipfile.ZipFile(tmp_path / "x.zip", "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("1.png", b"new")
    assert contents(tmp_path / "x.zip") == {"1.png": b"new"}
    assert ignored(tmp_path / "x.zip") == ["1.png"]


def test_hard_links_are_files_and_symbolic_ones_are_ignored(tmp_path: Path) -> None:
    tar = tmp_path / "x.tar"
    with tarfile.open(tar, "w") as archive:
        archive.addfile(entry("real.png", 4), io.BytesIO(b"real"))
        archive.addfile(entry("hard/1.png", kind=tarfile.LNKTYPE, link="./real.png"))
        archive.addfile(entry("hard/2.png", kind=tarfile.LNKTYPE, link="hard/1.png"))
        archive.addfile(entry("hard/lost.png", kind=tarfile.LNKTYPE, link="none.png"))
        archive.addfile(entry("soft.png", kind=tarfile.SYMTYPE, link="real.png"))
        archive.addfile(entry("folder", kind=tarfile.DIRTYPE))
        archive.addfile(entry("pipe.png", kind=tarfile.FIFOTYPE))
    assert contents(tar) == {"real.png": b"real", "hard/1.png": b"real", "hard/2.png": b"real"}
    assert ignored(tar) == ["hard/lost.png", "soft.png"]


def test_names_are_only_names(tmp_path: Path) -> None:
    made = {"/etc/passwd": b"1", "../../up.png": b"2", "./a/./b.png": b"3", ".hidden/x.png": b"4", "a/notes.txt": b"5"}
    made |= {"C:/c/d.png": b"6", "a/../../c//e.png": b"7"}
    for archive in (write_tar(tmp_path / "x.tar", made), write_zip(tmp_path / "x.zip", made)):
        assert contents(archive) == {
            "etc/passwd": b"1", "up.png": b"2", "a/b.png": b"3", "c/d.png": b"6", "a/c/e.png": b"7"
        }  # fmt: skip
        assert ignored(archive) == [".hidden/x.png", "a/notes.txt"]
        assert {row["path"]: row["label"] for row in rows(archive)}["up.png"] is None
        for row in rows(archive):
            assert read_bytes(row["uri"]) in made.values()


def write_raw_zip(path: Path, names: list[bytes], flags: int = 0, host: int = 0, extra: bytes = b"") -> Path:
    """A zip with these very names, whose members hold their own number, and `extra` fields in its directory."""
    members = directory = b""
    for number, name in enumerate(names):
        data = b"" if name.endswith(b"\\") else str(number).encode()
        facts = struct.pack("<3H3L", 0, 0, 33, zlib.crc32(data), len(data), len(data))
        entry = struct.pack("<4s3H", b"PK\1\2", host << 8 | 20, 20, flags) + facts
        directory += entry + struct.pack("<5H2L", len(name), len(extra), 0, 0, 0, 0, len(members)) + name + extra
        members += struct.pack("<4s2H", b"PK\3\4", 20, flags) + facts + struct.pack("<2H", len(name), 0) + name + data
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, len(names), len(names), len(directory), len(members), 0)
    path.write_bytes(members + directory + end)
    return path


def unicode_path(name: bytes, meant: str) -> bytes:
    content = b"\1" + struct.pack("<L", zlib.crc32(name)) + meant.encode()
    return b"UT\5\0" + bytes(5) + struct.pack("<2H", 0x7075, len(content)) + content


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    _archives._say_once.cache_clear()
    return caplog


@pytest.mark.parametrize(
    ("name", "flags", "extra", "label", "line"),
    [
        ("défaut/1.png".encode(), 0x800, b"", "défaut", None),
        ("défaut/1.png".encode(), 0, b"", "défaut", None),  # Finder of macOS
        (
            "défaut/1.png".encode("cp437"),
            0,
            b"",
            "défaut",
            "x.zip: names that are not UTF-8, read as CP437: 1, such as 'd",
        ),
        (b"d?faut/1.png", 0, unicode_path(b"d?faut/1.png", "d\u00e9faut/1.png"), "défaut", None),
        ("défaut/1.png".encode("cp850"), 0, unicode_path(b"other/1.png", "wrong/1.png"), "défaut", "read as CP437: 1,"),
        ("\u00e9\u732b/1.png".encode(), 0, b"UT\5\0" + bytes(5), "\u00e9\u732b", None),
        (b"d\xe9faut/1.png", 0x800, b"", "d\\udce9faut", None),  # the flag lies: no guess
    ],
)
def test_a_zips_names_are_read_by_a_rule(
    tmp_path: Path, name: bytes, flags: int, extra: bytes, label: str, line: str | None, said: pytest.LogCaptureFixture
) -> None:
    (row,) = rows(write_raw_zip(tmp_path / "x.zip", [name], flags, extra=extra))
    assert (row["path"], row["label"]) == (f"{label}/1.png", label)
    assert read_bytes(row["uri"]) == b"0"
    assert [line in text for text in said.messages] == ([True] if line else [])


@pytest.mark.parametrize("host", [0, 3])
def test_backslashes_of_windows_are_folders(tmp_path: Path, host: int, said: pytest.LogCaptureFixture) -> None:
    names = [b"cat\\", b"cat\\a b\\1.png", b".\\dog\\2.png", b"__MACOSX\\._1.png", b"D:\\cat\\3.png", b"\\cow\\4.png"]
    archive = write_raw_zip(tmp_path / "x.zip", names, host=host)
    assert contents(archive) == {"cat/a b/1.png": b"1", "dog/2.png": b"2", "cat/3.png": b"4", "cow/4.png": b"5"}
    assert [row["label"] for row in rows(archive) if not row["ignored"]] == ["cat", "dog", "cat", "cow"]
    assert said.messages == [f"{archive}: names with backslashes, read as folders: 5, such as 'cat\\\\a b\\\\1.png'"]


@pytest.mark.parametrize(
    "pair", [("a/\u00e9.png", "a/e\u0301.png"), ("a/1.png", "a\\1.png"), ("a/1.png", "../a/1.png")]
)
def test_members_whose_names_become_one_are_all_there(
    tmp_path: Path, pair: tuple[str, str], said: pytest.LogCaptureFixture
) -> None:
    for archive in (
        write_raw_zip(tmp_path / "x.zip", [name.encode() for name in (*pair, pair[1])]),
        write_tar(tmp_path / "x.tar", {name: str(number).encode() for number, name in enumerate(pair)}),
    ):
        kept = [row for row in rows(archive) if not row["ignored"]]
        assert [read_bytes(row["uri"]) for row in kept] == ([b"0", b"2"] if archive.suffix == ".zip" else [b"0", b"1"])
        assert {row["label"] for row in kept} == {"a"}
        assert any("names spelled in two ways, whose files all count: 1, such as" in text for text in said.messages)
        said.clear()


@pytest.mark.parametrize(
    ("form", "name", "label"),
    [
        ("pax", "d\u00e9faut/1.png", "d\u00e9faut"),
        ("gnu", "d\udce9faut/1.png", "d\u00e9faut"),  # Latin-1
        ("gnu", "d\udce9faut/" + "x" * 200 + ".png", "d\u00e9faut"),
        ("pax", "d\udce9faut/1.png", "d\u00e9faut"),  # hdrcharset=BINARY
        ("gnu", "cat\\1.png", "cat"),
    ],
)
def test_a_tars_names_are_read_by_a_rule(tmp_path: Path, form: str, name: str, label: str) -> None:
    (row,) = rows(write_tar(tmp_path / "x.tar", {name: b"one"}, form))
    assert row["label"] == label
    assert read_bytes(row["uri"]) == b"one"


def test_uris_are_fsspecs_chains(tmp_path: Path) -> None:
    made = {"cats/1.png": b"one", "sp ace/ü.png": b"two"}
    for archive in (write_tar(tmp_path / "x.tar", made), write_zip(tmp_path / "x.zip", made)):
        for row in rows(archive):
            with fsspec.open(row["uri"]) as file:
                assert file.read() == made[row["path"]]


def test_archives_in_other_file_systems_are_read_in_ranges(tmp_path: Path) -> None:
    fs = fsspec.filesystem("memory")
    made = example()
    try:
        for name, write in (("x::y.tar", write_tar), ("x.zip", write_zip), ("x.tar.gz", None)):
            local = write(tmp_path / name, made) if write else write_tar(tmp_path / name, made, mode="w:gz")
            fs.put_file(str(local), f"/archives/{name}")
            assert contents(f"memory://archives/{name}") == made
    finally:
        fs.rm("/archives", recursive=True)
        compressed._remove_made()


def test_rows_in_any_order_come_in_that_order(tmp_path: Path) -> None:
    made = example()
    for archive in (write_tar(tmp_path / "x.tar", made), write_zip(tmp_path / "x.zip", made)):
        table = listed(archive)
        mixed = table.take(random.Random(0).sample(range(len(table)), len(table)))
        assert dict(zip(mixed["path"].to_pylist(), open_files(mixed), strict=True)) == made


def test_an_unchanged_member_is_known_again_and_a_changed_one_is_not(tmp_path: Path) -> None:
    def known(archive: Path) -> set[tuple[object, ...]]:
        return {(row["uri"], row["size"], row["modified"]) for row in rows(archive)}

    tar = write_tar(tmp_path / "x.tar", {"1.png": b"1", "2.png": b"2"})
    before = known(tar)
    write_tar(tar, {"3.png": b"3"}, mode="a", time=1.8e9)
    assert before < known(tar)
    archive = write_zip(tmp_path / "x.zip", {"1.png": b"1", "2.png": b"2"})
    before = known(archive)
    write_zip(archive, {"1.png": b"1", "2.png": b"3"})
    assert len(before & known(archive)) == 1


def test_a_tar_without_times_is_known_by_its_own(tmp_path: Path) -> None:
    def make(data: bytes) -> set[str]:
        with tarfile.open(tmp_path / "x.tar", "w") as tar:
            for name in ("1.png", "2.png"):
                tar.addfile(entry(name, 1), io.BytesIO(data))
        return {row["modified"] for row in rows(tmp_path / "x.tar")}

    assert not make(b"1") & make(b"2")


def test_empty_archives_hold_no_images(tmp_path: Path) -> None:
    for archive in (write_tar(tmp_path / "x.tar", {}), write_zip(tmp_path / "x.zip", {})):
        assert rows(archive) == []
        with pytest.raises(UserError, match="holds no images"):
            check_source(str(archive))


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.zip"])
def test_a_damaged_archive_is_the_users_error(tmp_path: Path, name: str) -> None:
    whole = (
        write_zip(tmp_path / name, example())
        if name == "x.zip"
        else write_tar(tmp_path / name, example(), mode="w:gz" if "gz" in name else "w")
    ).read_bytes()
    for tenth in range(1, 9):
        (tmp_path / name).write_bytes(whole[: len(whole) * tenth // 10])
        with pytest.raises(UserError, match=name):
            list(list_source(str(tmp_path / name)))


def test_flipped_bytes_never_raise_anything_but_the_two_errors(tmp_path: Path) -> None:
    chance = random.Random(1)
    for write, name in ((write_tar, "x.tar"), (write_zip, "x.zip")):
        whole = write(tmp_path / name, example(3)).read_bytes()
        for _ in range(300):
            broken = bytearray(whole)
            for _ in range(chance.randint(1, 4)):
                place = chance.randrange(max(0, len(whole) - 900), len(whole)) if name == "x.zip" else None
                broken[chance.randrange(len(whole)) if place is None else place] = chance.randrange(256)
            (tmp_path / name).write_bytes(broken)
            try:
                files = listed(tmp_path / name)
            except UserError:
                continue
            assert len(list(open_files(files))) == len(files)


def test_what_cannot_be_unpacked_costs_one_member(tmp_path: Path) -> None:
    good, bomb, other = some_bytes(0, 1000), bytes(10_000_000), some_bytes(1, 1000)
    path = write_zip(tmp_path / "x.zip", {"1-good.png": good, "2-bomb.png": bomb, "3-other.png": other})
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\1\2", data.index(b"PK\1\2") + 1)
    data[directory + 24 : directory + 28] = (1000).to_bytes(4, "little")  # it says to be smaller than it is
    path.write_bytes(data)
    found = contents(path)
    assert found["2-bomb.png"] == "does not unpack to the 1,000 bytes that the archive says"
    assert (found["1-good.png"], found["3-other.png"]) == (good, other)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("1.png", good)
        archive.writestr("2.png", other, zipfile.ZIP_STORED)
        archive.writestr("3.png", other, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(b"3.png") + 100] ^= 1
    second = data.index(b"PK\3\4", 10)
    data[second + 6] |= 1
    path.write_bytes(data)
    found = contents(path)
    assert found == {
        "1.png": "is compressed by method 14: pack the archive with deflate",
        "2.png": "is encrypted: decrypt the archive",
        "3.png": "its checksum is not the one that the archive says",
    }
