"""Archives, tables and IDX files that are made to fill disks, memory or nights. Their whole parts are still read."""

import bz2
import gzip
import io
import lzma
import os
import struct
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from upath import UPath

from resnet_core.errors import UserError
from resnet_core.images.preprocessing import Preprocessing
from resnet_core.reading.pool import read_files
from resnet_core.sources import fetch
from resnet_core.sources.manifest import list_manifest, read_manifest
from resnet_core.sources.source import check_source, list_source
from resnet_core.storage import compressed
from tasks.validation import read_yaml

MIB = 2**20


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for unpacked copies, in which they are counted."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setattr(compressed, "_made", set())
    return folder


def used(folder: Path) -> int:
    """Bytes that files below a folder have on the disk."""
    return sum(os.stat(path).st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def png(level: int = 90) -> bytes:
    out = io.BytesIO()
    pixels = np.full((16, 16), level, np.uint8)
    pixels[3:9] = 200
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


class Zeros(io.RawIOBase):
    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        buffer[:] = bytes(len(buffer))
        return len(buffer)


def tar_of(file: io.BufferedIOBase, members: dict[str, bytes | int]) -> None:
    """Write a tar; a number is a member of so many zeros."""
    with tarfile.open(fileobj=file, mode="w|") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = content if isinstance(content, int) else len(content)
            body = io.BufferedReader(Zeros(), MIB) if isinstance(content, int) else io.BytesIO(content)
            tar.addfile(info, body)


PACKERS: dict[str, Callable[[Path], object]] = {
    "gz": lambda path: gzip.open(path, "wb", 1),  # noqa: SIM115 its callers close it
    "bz2": lambda path: bz2.open(path, "wb", 1),  # noqa: SIM115 its callers close it
    "xz": lambda path: lzma.open(path, "wb", preset=0),  # noqa: SIM115 its callers close it
    "zst": lambda path: pa.CompressedOutputStream(pa.OSFile(str(path), "wb"), "zstd"),
}


def read(source: Path | str) -> dict[str, bytes | OSError]:
    table = pa.Table.from_batches(list_source(str(source)))
    table = table.filter(pa.compute.invert(table["ignored"]))
    fetch.prepare(table)
    return dict(zip(table["path"].to_pylist(), fetch.open_files(table), strict=True))


@pytest.mark.parametrize("kind", PACKERS)
def test_a_member_of_zeros_takes_no_room_and_the_others_are_read(kind: str, tmp_path: Path, temporary: Path) -> None:
    path = tmp_path / f"x.tar.{kind}"
    with PACKERS[kind](path) as file:  # type: ignore[attr-defined]
        tar_of(file, {"a/0.png": png(), "a/huge.png": 600 * MIB, "b/1.png": png(50)})
    began = time.monotonic()
    found = read(path)
    assert found["a/0.png"] == png()
    assert found["b/1.png"] == png(50)
    assert isinstance(found["a/huge.png"], OSError)
    assert used(temporary) < MIB
    assert time.monotonic() - began < 120


def test_many_members_stop_at_the_ratio_and_the_first_are_read(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is small enough for an image."""
    monkeypatch.setattr("resnet_core.policy._FREE", 4 * MIB)
    path = tmp_path / "x.tar.gz"
    with PACKERS["gz"](path) as file:  # type: ignore[attr-defined]
        tar_of(file, {"a/0.png": png()} | {f"a/{k}.png": 8 * MIB for k in range(1, 12)})
    monkeypatch.setenv("GRAYLINE_MAX_RATIO", "20")
    found = read(path)
    assert found["a/0.png"] == png()
    last = found["a/11.png"]
    assert isinstance(last, OSError)
    assert "beyond what may be unpacked" in str(last)
    assert used(temporary) <= max(4 * MIB, 20 * path.stat().st_size) + MIB
    monkeypatch.setenv("GRAYLINE_MAX_RATIO", "2000")
    assert len(read(path)["a/11.png"]) == 8 * MIB  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("GRAYLINE_MAX_UNPACKED_BYTES", "1000000", "unpacks to more than 1,000,000 bytes"),
        ("GRAYLINE_MAX_UNPACK_SECONDS", "0.000001", "takes over 1e-06 s"),
        ("GRAYLINE_MAX_MEMBERS", "2", "holds more than 2 files"),
    ],
)
def test_each_limit_is_a_setting_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, value: str, words: str
) -> None:
    path = tmp_path / "x.tar.gz"
    with PACKERS["gz"](path) as file:  # type: ignore[attr-defined]
        tar_of(file, {"a/0.png": png(), "a/1.png": 3 * MIB, "a/2.png": png()})
    assert len(read(path)) == 3
    monkeypatch.setenv(setting, value)
    with pytest.raises(UserError, match=f"{words}.*{setting}"):
        read(path)


def test_sparse_members_of_a_compressed_tar_are_read(tmp_path: Path, temporary: Path) -> None:
    """A file of 10 GB with one block; then images."""
    plain = tmp_path / "x.tar"
    with tarfile.open(plain, "w", format=tarfile.GNU_FORMAT) as tar:
        info = tarfile.TarInfo("a/0.png")
        info.size = len(png())
        tar.addfile(info, io.BytesIO(png()))
    sparse = tmp_path / "a.png"
    with sparse.open("wb") as file:
        file.seek(10 * 2**30)
        file.write(b"end")
    if os.system(f"tar --sparse -rf {plain} -C {tmp_path} a.png 2>/dev/null") != 0:
        pytest.skip("needs GNU tar")
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(plain.read_bytes()))
    for name in ("x.tar", "x.tar.gz"):
        found = read(tmp_path / name)
        assert found["a/0.png"] == png()
        assert isinstance(found["a.png"], OSError)
    assert used(temporary) < 2 * MIB


def test_headers_of_a_tar_cannot_fill_the_memory_or_the_night(tmp_path: Path) -> None:
    records = b"".join(b"%d k%d=\n" % (len(b"10 k123456=\n"), k) for k in range(100_000, 900_000))
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, len(records)
    path = tmp_path / "x.tar"
    path.write_bytes(header.tobuf() + records + bytes(-len(records) % 512) + bytes(1024))
    began = time.monotonic()
    with pytest.raises(UserError, match="not a whole tar"):
        check_source(str(path))
    assert time.monotonic() - began < 60


def zip_with(path: Path, change: Callable[[bytearray], None], method: int = zipfile.ZIP_DEFLATED) -> Path:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("a/0.png", png())
        archive.writestr("a/big.png", bytes(3 * MIB))
    data = bytearray(out.getvalue())
    change(data)
    path.write_bytes(data)
    return path


def entry(data: bytearray, name: bytes) -> int:
    return data.rindex(name) - 46


def test_a_size_that_lies_unpacks_no_more_than_it_says(tmp_path: Path) -> None:
    for field, size in ((24, 100), (24, 2**32 - 2), (20, 2**31)):

        def lie(data: bytearray, field: int = field, size: int = size) -> None:
            struct.pack_into("<L", data, entry(data, b"a/big.png") + field, size)

        path = zip_with(tmp_path / "x.zip", lie)
        if field == 20:
            with pytest.raises(UserError, match="its members overlap"):
                read(path)
            continue
        found = read(path)
        assert found["a/0.png"] == png()
        assert isinstance(found["a/big.png"], OSError)


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    """As in Fifield's zip bombs: many names for the same packed bytes."""
    kernel = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = kernel.compress(bytes(64 * MIB)) + kernel.flush()
    crc = zlib.crc32(bytes(64 * MIB))
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 0, crc, len(packed), 64 * MIB, 5, 0) + b"0.png"
    names = [f"{k:05}.png".encode() for k in range(1000)]
    entries = b"".join(
        struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 8, 0, 0, crc, len(packed), 64 * MIB, len(n), 0, 0, 0, 0, 0, 0)
        + n
        for n in names
    )
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1000, 1000, len(entries), len(local) + len(packed), 0)
    (tmp_path / "x.zip").write_bytes(local + packed + entries + end)
    with pytest.raises(UserError, match="its members overlap"):
        read(tmp_path / "x.zip")


HEADER = struct.Struct(">4L")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ((0x803, 2**32 - 1, 0, 0), "0 x 0 pixels"),
        ((0x803, 2**32 - 1, 0, 28), "28 x 0 pixels"),
        ((0x803, 2**32 - 1, 1, 1), "cut short"),
        ((0x803, 50_000_000, 1, 1), "cut short"),
        ((0x803, 1, 2**32 - 1, 2**32 - 1), "cut short"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_an_idx_header_announces_no_more_than_there_is(
    tmp_path: Path, header: tuple[int, ...], words: str, packed: bool
) -> None:
    path = tmp_path / f"train-images-idx3-ubyte{'.gz' * packed}"
    head = HEADER.pack(*header)
    path.write_bytes(gzip.compress(head) if packed else head)
    began = time.monotonic()
    with pytest.raises(UserError, match=words):
        read(path)
    assert time.monotonic() - began < 20


def test_an_idx_file_holds_no_more_images_than_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(HEADER.pack(0x803, 2**32 - 1, 1, 1))
    os.truncate(path, HEADER.size + 2**32)  # sparse: the images that the header announces are there
    with pytest.raises(UserError, match="holds more than 100,000,000"):
        read(path)


@pytest.mark.parametrize("kind", PACKERS)
def test_what_follows_the_images_of_an_idx_file_is_not_unpacked(kind: str, tmp_path: Path, temporary: Path) -> None:
    pixels = np.arange(200, dtype=np.uint8)
    path = tmp_path / "train-images-idx3-ubyte.gz"  # known by its first bytes, whatever its name says
    with PACKERS[kind](path) as file:  # type: ignore[attr-defined]
        file.write(HEADER.pack(0x803, 2, 10, 10) + pixels.tobytes())
        for _ in range(300):
            file.write(bytes(MIB))
    found = list(read(path).values())
    assert [data[-100:] for data in found if isinstance(data, bytes)] == [
        pixels[:100].tobytes(),
        pixels[100:].tobytes(),
    ]
    assert used(temporary) < MIB


def test_an_xz_that_asks_for_gigabytes_of_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.xz"
    big = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1536 * MIB}]
    plain = io.BytesIO()
    tar_of(plain, {"a/0.png": png()})
    # The dictionary's size is a byte of the block's header; made small and changed, for making it costs as much.
    data = bytearray(lzma.compress(plain.getvalue(), lzma.FORMAT_XZ, filters=[big[0] | {"dict_size": 2**16}]))
    properties = data.index(b"\x21\x01", 12) + 2
    data[properties] = 40  # 4 GiB
    end = 12 + (data[12] + 1) * 4
    data[end - 4 : end] = struct.pack("<L", zlib.crc32(data[12 : end - 4]))
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"does not unpack \(Memory usage limit"):
        read(path)


def test_an_xz_of_several_streams_is_read_whole(tmp_path: Path) -> None:
    plain = io.BytesIO()
    tar_of(plain, {"a/0.png": png(), "a/1.png": png(50)})
    data = plain.getvalue()
    path = tmp_path / "x.tar.xz"
    path.write_bytes(lzma.compress(data[:700]) + bytes(8) + lzma.compress(data[700:]) + bytes(4))
    assert read(path) == {"a/0.png": png(), "a/1.png": png(50)}


@pytest.mark.parametrize("compression", ["snappy", "zstd", "gzip"])
def test_pages_of_parquet_that_expand_are_refused_and_other_groups_are_read(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    monkeypatch.setattr("resnet_core.policy._FREE", 8 * MIB)
    path = tmp_path / "x.parquet"
    schema = pa.schema([("image", pa.binary()), ("label", pa.string())])
    with pq.ParquetWriter(path, schema, compression=compression, use_dictionary=False) as out:
        out.write_table(pa.table({"image": [png()] * 2, "label": ["a", "b"]}, schema))
        out.write_table(pa.table({"image": [bytes(MIB)] * 64, "label": ["a"] * 64}, schema))
        out.write_table(pa.table({"image": [png(9)], "label": ["a"]}, schema))
    monkeypatch.setenv("GRAYLINE_MAX_RATIO", "10")
    found = list(read(path).values())
    assert found[:2] == [png()] * 2
    assert found[-1] == png(9)
    assert all(isinstance(data, OSError) for data in found[2:-1])
    assert used(temporary) < MIB


def test_labels_of_parquet_that_expand_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_core.policy._FREE", MIB)
    table = pa.table({"path": [f"{k}.png" for k in range(100)], "label": ["x" * 10**5] * 100})
    pq.write_table(table, tmp_path / "l.parquet", compression="zstd", use_dictionary=False)
    with pytest.raises(UserError, match="GRAYLINE_MAX_RATIO"):
        read_manifest(UPath(tmp_path / "l.parquet"))
    monkeypatch.setenv("GRAYLINE_MAX_MEMBERS", "99")
    with pytest.raises(UserError, match="GRAYLINE_MAX_MEMBERS"):
        read_manifest(UPath(tmp_path / "l.parquet"))


@pytest.mark.parametrize("text", ["path,label\na.png,{}\n", 'path,label\na.png,"{}"\n', "path,label\na.png,a\n{}\n"])
@pytest.mark.parametrize("filling", ["x" * 2000, "x\n" * 1000])
def test_a_cell_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, filling: str
) -> None:
    monkeypatch.setattr("resnet_core.storage.delimited._LONGEST", 1500)
    path = tmp_path / "m.csv"
    path.write_text(text.format(filling))
    if '"' not in text and "\n" in filling:
        pytest.skip("rows of their own")
    with pytest.raises(UserError, match=r"m.csv: .*(line|field)"):
        list(list_manifest(UPath(path)))


def test_brackets_without_end_and_aliases_of_aliases_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    laughs = "a0: &a0 [x]\n" + "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 12))
    began = time.monotonic()
    for text, words in ((laughs, "by aliases"), ("a: &a [*a, *a]", "by aliases"), ("[" * 5000 + "]" * 5000, "nested")):
        with pytest.raises(UserError, match=words):
            read_yaml(text)
    assert time.monotonic() - began < 10
    assert read_yaml("a: &a [1, 2]\nb: *a\n") == {"a": [1, 2], "b": [1, 2]}
    monkeypatch.setenv("GRAYLINE_MAX_DEPTH", "3")
    with pytest.raises(UserError, match="nested"):
        read_yaml("[[[[1]]]]")


def test_class_names_of_parquet_nested_without_end_are_none(tmp_path: Path) -> None:
    table = pa.table({"image": [png()], "label": [0]}).replace_schema_metadata({"huggingface": "[" * 10**5})
    pq.write_table(table, tmp_path / "x.parquet")
    assert list(read(tmp_path / "x.parquet").values()) == [png()]


def test_a_reader_is_given_its_parents_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.tar.gz"
    with PACKERS["gz"](path) as file:  # type: ignore[attr-defined]
        tar_of(file, {"a/0.png": png(), "a/1.png": png(30)})
    listed = pa.Table.from_batches(list_source(str(path)))
    assert read_files(listed, Preprocessing(size=16))["reason_code"].to_pylist() == [None, None]
    rows = listed.to_pylist()
    away = pa.Table.from_pylist(
        [row | {"uri": "memory://x/0.png", "container": None, "kind": None} for row in rows], listed.schema
    )
    monkeypatch.setenv("GRAYLINE_ALLOWED_PROTOCOLS", "file")
    reasons = read_files(away, Preprocessing(size=16))["reason"].to_pylist()
    assert all("the protocol 'memory' is not allowed" in reason for reason in reasons)
