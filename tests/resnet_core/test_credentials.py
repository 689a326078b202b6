"""Secrets of URLs: what is public, what opens a place, and what no text, row or other process shows."""

import base64
import http.server
import io
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from upath import UPath

from resnet_core.catalog.build import CATALOG
from resnet_core.catalog.entries import load_previous
from resnet_core.credentials import access_to, forget, masked, opened, public, remember
from resnet_core.errors import UserError
from resnet_core.images.preprocessing import Preprocessing
from resnet_core.policy import more_roots
from resnet_core.reading.pool import read_files
from resnet_core.sources.locate import read_bytes
from resnet_core.sources.manifest import list_manifest
from resnet_core.sources.source import check_source, list_source
from resnet_core.storage.database import database
from resnet_core.storage.files import to_path
from tasks.dataset import Dataset
from tasks.parts import make_parts

PASSWORD = "opensesame77"
_SIGNATURE = "c2lnbmF0dXJl"


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No secret is known, before and after; the policy allows the servers of this file."""
    monkeypatch.setenv("GRAYLINE_ALLOWED_PROTOCOLS", "file, http, https, ftp")
    monkeypatch.setenv("GRAYLINE_PRIVATE_HOSTS", "127.0.0.1")
    forget()
    yield
    forget()


AMZ = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA%2F1&X-Amz-Expires=600&X-Amz-Signature=ab12"
SAS = "sv=2024-11-04&st=2026-01-01&se=2026-02-01&sr=b&sp=r&spr=https&sig=a%2Fb%3D"


@pytest.mark.parametrize(
    ("whole", "shown"),
    [
        ("http://me:pw@h/a/x.zip", "http://h/a/x.zip"),
        ("https://token@h/x", "https://h/x"),
        ("ftp://me:p%40w@h:21/a b/", "ftp://h:21/a b/"),
        ("http://me:a::b@h:80/x", "http://h:80/x"),
        ("http://me:a@b@h/img@2x.png", "http://h/img@2x.png"),
        ("http://u:p@[::1]:80/a", "http://[::1]:80/a"),
        ("filecache::http://me:pw@h/x.tar", "filecache::http://h/x.tar"),
        ("tar://we@ird/1.png::http://me:pw@h/x.tar", "tar://we@ird/1.png::http://h/x.tar"),
        ("delta:https://u:pw@h/x", "delta:https://h/x"),
        (f"https://b.s3.amazonaws.com/k.png?{AMZ}", "https://b.s3.amazonaws.com/k.png"),
        ("https://b.s3.amazonaws.com/k?AWSAccessKeyId=A&Expires=9&Signature=x", "https://b.s3.amazonaws.com/k"),
        (f"https://a.blob.core.windows.net/c/k?n=1&{SAS}", "https://a.blob.core.windows.net/c/k?n=1"),
        ("https://h/dl?id=7&token=abc", "https://h/dl?id=7"),
        ("https://h/dl?api_key=abc&user=me&id=7", "https://h/dl?id=7"),
        ("postgresql://u:p@s/w:d@h/d#t", "postgresql://h/d#t"),
        ("postgresql+psycopg://h/d?user=u&password=p&sslmode=require", "postgresql+psycopg://h/d?sslmode=require"),
        ("mysql://u:p?q@h/d", "mysql://h/d"),
    ],
)
def test_a_url_loses_its_secrets_and_opens_with_them(whole: str, shown: str) -> None:
    assert public(whole) == shown
    assert public(shown) == shown
    assert opened(shown) == whole
    assert masked(f"no answer: '{whole.removeprefix('delta:')}'") == f"no answer: '{shown.removeprefix('delta:')}'"


@pytest.mark.parametrize(
    "place",
    [
        "data/a@b:c.png",
        "tar://a:b@c/1.png::file:///x.tar",
        "abfs://container@account.dfs.core.windows.net/x",
        "github://org:repo@main/x",
        "s3://bucket/a:b@c.csv",
        "s3://bucket/img?.png?versionId=abc",
        "sqlite:////srv/a:b/x@y.db",
        "http://h:8080/a@b.png",
        "http://[::1]:80/a@b",
        "https://h/dl?key=cats/1.png",
        "https://h/page?code=17&expires=9",
        "elpv@champion",
    ],
)
def test_names_with_the_same_signs_stay(place: str) -> None:
    assert public(place) == place == opened(place) == masked(place)
    assert public(f"/data/x::{place}") == f"/data/x::{place}"


def test_files_below_and_beside_open_and_others_do_not() -> None:
    public("http://me:pw@h/data/list.csv")
    public("http://you:pw2@h/data/deep/")
    assert opened("http://h/data/1.png") == "http://me:pw@h/data/1.png"
    assert opened("http://h/data/deep/1.png") == "http://you:pw2@h/data/deep/1.png"
    assert opened("zip://a.png::http://h/data/x.zip") == "zip://a.png::http://me:pw@h/data/x.zip"
    for other in ("http://h2/data/1.png", "https://h/data/1.png", "http://h:8080/data/1.png", "http://h.evil.org/x"):
        assert opened(other) == other


def test_a_new_password_or_signature_is_the_same_place() -> None:
    first, second = "http://me:one1@h/x.zip", "http://me:two2@h/x.zip"
    shown = public(first)
    assert public(second) == shown
    assert opened(shown) == second
    assert public(f"https://h/k?{AMZ}") == public(f"https://h/k?{AMZ.replace('ab12', 'cd34').replace('600', '900')}")


def test_a_message_has_no_known_secret() -> None:
    public("postgresql://night:ge%23heim@h/d?sslpassword=zweitens2")
    text = masked("FATAL: ge#heim, ge%23heim and zweitens2 were refused")
    assert text == "FATAL: ***, *** and *** were refused"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A web server that asks for a password below /guarded, and for a signature below /signed: host and its folder."""
    folder = tmp_path_factory.mktemp("www")
    for k in range(3):
        data = io.BytesIO()
        Image.fromarray(np.random.default_rng(k).integers(0, 255, (16, 16), np.uint8)).save(data, "PNG")
        for part in ("guarded", "signed"):
            (folder / part).mkdir(exist_ok=True)
            (folder / part / f"{k}.png").write_bytes(data.getvalue())
    with zipfile.ZipFile(folder / "guarded" / "x.zip", "w") as archive:
        archive.write(folder / "guarded" / "0.png", "0.png")
    (folder / "guarded" / "list.csv").write_text("path\n0.png\n1.png\n")

    class Guard(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *how: object) -> None:
            super().__init__(*how, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *how: object) -> None:
            pass

        def send_head(self) -> object:  # type: ignore[override]
            wanted = "Basic " + base64.b64encode(f"me:{PASSWORD}".encode()).decode()
            guarded = self.path.startswith("/guarded") and self.headers.get("Authorization") != wanted
            if guarded or (self.path.startswith("/signed") and f"sig={_SIGNATURE}" not in self.path):
                return self.send_error(401)
            return super().send_head()

    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Guard)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{web.server_port}", folder
    web.shutdown()


SQUARE = Preprocessing(size=16)


def test_an_archive_behind_a_password_is_read_by_a_reader_process(server: tuple[str, Path]) -> None:
    files = next(list_source(f"http://me:{PASSWORD}@{server[0]}/guarded/x.zip"))
    assert PASSWORD not in str(files.to_pydict())
    read = read_files(pa.Table.from_batches([files]), SQUARE)
    assert read["reason"].to_pylist() == [None]


def test_a_manifest_of_signed_urls_is_read_and_keeps_none(server: tuple[str, Path], tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    rows = "".join(
        f"http://{server[0]}/signed/{k}.png?sig={_SIGNATURE}&se=9,c,http://u:{PASSWORD}@h/{k}\n" for k in (0, 1)
    )
    table.write_text("path,label,seen_at\n" + rows)
    with more_roots([f"http://{server[0]}/signed/"]):
        (listed,) = list_manifest(UPath(table))
    assert listed["uri"].to_pylist() == [f"http://{server[0]}/signed/{k}.png" for k in (0, 1)]
    assert PASSWORD not in str(listed.to_pydict())
    assert _SIGNATURE not in str(listed.to_pydict())
    (part,) = make_parts([pa.Table.from_batches([listed])], UPath(tmp_path / "l.parquet"), UPath(tmp_path))
    assert _SIGNATURE not in repr(part)
    assert _SIGNATURE.encode() not in (tmp_path / "l.parquet").read_bytes()
    forget()  # as in another process
    assert read_files(part.files(), SQUARE)["reason"].to_pylist() == [None, None]


def test_a_manifest_behind_a_password_names_files_beside_it(server: tuple[str, Path]) -> None:
    place = f"http://me:{PASSWORD}@{server[0]}/guarded/list.csv"
    (listed,) = list_manifest(to_path(place), "")
    assert all(size > 0 for size in listed["size"].to_pylist())
    assert PASSWORD not in str(listed.to_pydict())
    assert PASSWORD not in str(to_path(place)) + repr(to_path(place))
    assert to_path(place).read_text().startswith("path")


def test_errors_of_libraries_are_without_secrets(server: tuple[str, Path]) -> None:
    for place in (f"http://me:{PASSWORD}@{server[0]}/none.png", f"http://{server[0]}/signed/none.png?sig={_SIGNATURE}"):
        with pytest.raises(OSError, match=r"none\.png") as raised:
            read_bytes(public(place))
        assert PASSWORD not in str(raised.value) + repr(raised.value)
        assert _SIGNATURE not in str(raised.value) + repr(raised.value)
    with pytest.raises(UserError) as told:
        list_source(f"http://me:{PASSWORD}@127.0.0.1:9/x/")
    assert PASSWORD not in str(told.value)


def test_a_wrong_password_is_not_a_missing_file(server: tuple[str, Path]) -> None:
    for place in (f"http://me:wrong@{server[0]}/guarded/x.zip", f"http://{server[0]}/signed/0.png"):
        with pytest.raises(UserError, match=r"cannot be read \(401: user, password or signature") as told:
            check_source(place)
        assert "wrong@" not in str(told.value)


def test_access_reaches_another_process_and_no_more_than_needed() -> None:
    public("http://me:pw@h/data/")
    public("https://h/k?sig=abcd")
    public("ftp://other:secret@h/")
    access = access_to(["http://h/data/1.png", "http://h/data/2.png", "https://h/k", "/local.png"])
    assert access == (("http://h/data", "http://me:pw@h/data"), ("https://h/k", "https://h/k?sig=abcd"))
    forget()
    remember(access)
    assert opened("http://h/data/2.png") == "http://me:pw@h/data/2.png"
    assert opened("ftp://h/x") == "ftp://h/x"


def test_settings_of_a_data_set_are_public() -> None:
    data = Dataset(
        name="a",
        source=f"http://me:{PASSWORD}@h/x/",
        labels=f"https://h/l.csv?sig={_SIGNATURE}",
        corrections=f"ftp://me:{PASSWORD}@h/c.csv",
        model={"pretrained": f"http://me:{PASSWORD}@h/w.safetensors"},  # type: ignore[arg-type]
    )
    assert PASSWORD not in data.model_dump_json()
    assert _SIGNATURE not in data.model_dump_json()
    assert opened(data.source) == f"http://me:{PASSWORD}@h/x/"


def test_a_catalog_of_an_earlier_release_loses_its_passwords(tmp_path: Path) -> None:
    rows = [{"uri": f"http://me:{PASSWORD}@h/1.png"}, {"uri": "/a@b?.png"}, {"uri": "https://h/2.png?id=3"}]
    pq.write_table(pa.Table.from_pylist(rows, CATALOG), tmp_path / "catalog.parquet")
    with database() as db:
        load_previous(db, tmp_path / "catalog.parquet")
        uris = {uri for (uri,) in db.sql("select uri from previous").fetchall()}
    assert uris == {"http://h/1.png", "/a@b?.png", "https://h/2.png?id=3"}
