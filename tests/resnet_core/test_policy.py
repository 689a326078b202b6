"""The policy: what a table, a URL or an output may reach, tried as an attacker would."""

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from resnet_core.errors import UserError
from resnet_core.policy import OutOfReachError, Policy, _is_private, check_protocol, decide_by, more_roots, policy
from resnet_core.sources.fetch import open_files
from resnet_core.sources.locate import may_open, read_bytes
from resnet_core.sources.manifest import list_manifest
from resnet_core.sources.source import check_source, list_source
from resnet_core.storage.files import to_output, to_path
from resnet_core.storage.locations import Reach, facts


@pytest.fixture
def allow() -> Iterator[Callable[..., None]]:
    """Set parts of the policy for a test."""
    before = policy()
    from tasks.settings import _decide

    yield lambda **parts: decide_by(lambda: Policy(**{**vars(before), **parts}))
    decide_by(_decide)


class Web:
    """A server on loopback that answers every path with `answer`, or with a redirect to `to`; `asked` are its paths."""

    def __init__(self) -> None:
        web, self.asked, self.to = self, list[str](), ""

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.asked.append(self.path)
                redirects = web.to and self.path.startswith("/from")
                self.send_response(302 if redirects else 200)
                self.send_header("Location", web.to) if redirects else self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"" if redirects or self.command == "HEAD" else b"ok")

            do_HEAD = do_GET  # noqa: N815 the name that http.server calls

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def web() -> Iterator[Web]:
    served = Web()
    yield served
    served.server.shutdown()
    served.server.server_close()


CHAINS = (
    "reference::{url}/refs.json", "simplecache::{url}/x.png", "filecache::s3://b/x.png", "zip://x.png::{url}/a.zip",
    "blockcache::{url}/x", "dir::{url}/x", "REFERENCE::{url}/refs.json",
)  # fmt: skip
OTHERS = ("{url}/x.png", "HTTP://127.0.0.1/x.png", "ftp://h/x", "sftp://h/x", "github://a:b@/x", "ssh://h/x",
          "data:;base64,AAAA", "jar://x", "hf://datasets/x", "smb://h/x", "webhdfs://h/x", "dask://h/x")  # fmt: skip


@pytest.mark.parametrize("place", [*CHAINS, *OTHERS[:6], *OTHERS[7:]])
def test_a_source_a_label_file_and_an_output_are_of_allowed_protocols(place: str, web: Web) -> None:
    place = place.format(url=web.url)
    for door in (check_source, to_path, facts, lambda name: to_output(name, "--output"), read_bytes):
        with pytest.raises((UserError, OSError), match=r"not allowed|not opened|No such file") as caught:
            door(place)
        assert "\n" not in str(caught.value)
    assert web.asked == []


@pytest.mark.parametrize("kind", ["csv", "parquet", "images"])
@pytest.mark.parametrize(
    "cell",
    [
        *CHAINS, *OTHERS, "{out}/secret.png", "../out/secret.png", "a/../../out/secret.png", "..\\out\\secret.png",
        "file://{out}/secret.png", "FILE://{out}/secret.png", "file://localhost{out}/secret.png", "/proc/self/environ",
        "//server/share/x.png", "\\\\server\\share\\x.png", "link/secret.png", "secret-link.png", " ../out/secret.png",
        "https://127.0.0.1/x.png", "https://example.org/x.png", "s3://other/x.png", "%2e%2e/out/secret.png",
        "~/secret.png", "tar://x.png::file://{out}/x.tar",
    ],
)  # fmt: skip
def test_a_table_names_files_under_its_own_source_alone(tmp_path: Path, web: Web, cell: str, kind: str) -> None:
    source, out = tmp_path / "src", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    (source / "ok.png").write_bytes(b"fine")
    (out / "secret.png").write_bytes(b"secret")
    (source / "link").symlink_to(out)
    (source / "secret-link.png").symlink_to(out / "secret.png")
    paths = ["ok.png", cell.format(url=web.url, out=out)]
    if kind == "csv":
        table = source / "list.csv"
        table.write_text("path,label\n" + "".join(f'"{path}",a\n' for path in paths))
        listed = pa.Table.from_batches(list_manifest(UPath(table)))
    else:
        table = source / "list.parquet"
        image = pa.array([{"bytes": None, "path": path} for path in paths])
        columns = {"image": image} if kind == "images" else {"path": paths}
        pq.write_table(pa.table(columns | {"label": ["a", "b"]}), table)
        batches = list_source(str(table)) if kind == "images" else list_manifest(UPath(table))
        listed = pa.Table.from_batches(batches)
    assert listed["uri"].to_pylist()[0] == str(source / "ok.png")
    size = listed["size"].to_pylist()[1]
    assert size is None or size < 0  # missing: nothing was looked at
    columns = listed.select(["uri", "size", "modified", "container", "kind", "offset", "length"])
    columns = columns.set_column(1, "size", pa.array([4, -1], pa.int64()))
    first, second = open_files(columns)
    assert first == b"fine"
    assert isinstance(second, OSError)
    assert web.asked == []


def test_manifest_roots_say_which_other_places_a_table_may_name(tmp_path: Path) -> None:
    for name in ("a", "b", "lists"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(name.encode())
    table = tmp_path / "lists" / "m.csv"
    table.write_text("path,label\n../a/1.png,a\n../b/1.png,b\n1.png,c\n")

    def sizes() -> list[int | None]:
        return pa.Table.from_batches(list_manifest(UPath(table)))["size"].to_pylist()

    assert sizes() == [None, None, 5]
    with more_roots([str(tmp_path / "a")]):
        assert sizes() == [1, None, 5]
    with more_roots(["/"]):
        assert sizes() == [1, 1, 5]
    table.write_text("path,label\n../a/1.png,a\n")
    with pytest.raises(UserError, match=r"m.csv: 1 path leads out of its folder.*manifest_roots"):
        sizes()


def test_the_store_and_the_settings_allow_protocols(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAYLINE_ALLOWED_PROTOCOLS", "file")
    for place in ("s3://b/x", "https://h/x", "memory://x"):
        with pytest.raises(OutOfReachError, match="Name a place of file, or add"):
            check_protocol(place)
    check_protocol("/x")
    check_protocol("file:///x")
    monkeypatch.setenv("GRAYLINE_STORE", "memory://store")
    check_protocol("memory://x")
    monkeypatch.setenv("GRAYLINE_ALLOWED_PROTOCOLS", "gcs, s3")
    monkeypatch.setenv("GRAYLINE_STORE", "/tmp/store")
    check_protocol("gs://b/x")
    check_protocol("S3a://b/x")


URLS = ("https://h/f", "s3://b/f", "memory://f")


@pytest.mark.parametrize("root", URLS)
def test_a_url_is_below_another_only_as_the_server_would_see_it(root: str) -> None:
    reach = Reach(root)
    assert reach.takes(f"{root}/a b/1.png")
    assert reach.takes(f"{root}/a%20b/1..png")
    for rest in (
        "/../g/x",
        "/%2e%2e/g/x",
        "/%252E%252e/g",
        "/%25252525252e%2e/x",
        "/a/..\\..\\g",
        "/..%2fg",
        "g/x",
        "@evil/x",
    ):
        assert not reach.takes(root + rest), rest
    assert not reach.takes("/etc/passwd")
    assert not reach.takes("https://h.evil/f/x")


def test_every_archive_that_a_member_may_lie_in_counts(tmp_path: Path) -> None:
    reach = Reach(str(tmp_path))
    assert may_open(f"tar://a/1.png::file://{tmp_path}/x.tar", reach)
    assert not may_open("tar://a/1.png::https://evil/x.tar", reach)
    assert not may_open(f"tar://a/1.png::https://evil/x.tar::{tmp_path}/none", reach)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
     "::1", "::", "fe80::1%eth0", "fd00::1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "255.255.255.255"],
)  # fmt: skip
def test_private_addresses_in_every_form(address: str) -> None:
    assert _is_private(address)
    assert not _is_private("93.184.216.34")
    assert not _is_private("2606:2800:220:1:248:1893:25c8:1946")


def test_a_private_address_is_reached_only_if_it_is_named(web: Web, allow: Callable[..., None]) -> None:
    allow(protocols=("http", "file"))
    port = web.server.server_port
    for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]"):
        with pytest.raises(OSError, match="private address"):
            facts(f"http://{host}:{port}/x.png")
    for host in ("0x7f.1", "2130706433", "127.1"):  # not every resolver takes these for loopback
        with pytest.raises(OSError, match=f"private address|{host}"):
            facts(f"http://{host}:{port}/x.png")
    assert web.asked == []
    for name, host in (("127.0.0.0/8", "127.0.0.1"), ("LOCALHOST", "localhost"), ("127.0.0.1", "127.0.0.1")):
        allow(protocols=("http", "file"), private_hosts=(name,))
        assert facts(f"http://{host}:{port}/{name[:3]}.png")["size"] == 2
    assert set(web.asked) == {"/127.png", "/LOC.png"}


def test_a_redirect_is_checked_again(web: Web, allow: Callable[..., None]) -> None:
    """The first host is named, those that it points to are not."""
    other = Web()
    allow(protocols=("http", "file"), private_hosts=("localhost",))
    place = f"http://localhost:{web.server.server_port}"
    for to in (f"{other.url}/secret", "https://127.0.0.1/x", "ftp://h/x"):
        web.to = to
        with pytest.raises(OSError, match=r"private address|not allowed|/from/"):
            facts(f"{place}/from/x.png")
    assert other.asked == []
    web.to = f"{place}/there"
    assert facts(f"{place}/from/x.png")["size"] == 2
    other.server.shutdown()
    other.server.server_close()


@pytest.mark.parametrize(
    "place",
    ["/etc/cron.d/x", "/usr/local/bin/x", "/", "/dev/shm/../sda", "/proc/self/mem", "/bin", "/tmp/../etc/x", "~",
     "~/.bashrc", "~/.ssh/x", "~/.config/autostart", "file:///etc/x", "FILE:///etc/x", "https://h/x", "{tmp}/link/x"],
)  # fmt: skip
def test_an_output_is_never_in_the_system(place: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(UserError, match=r"^--output: .*(belongs to the system|nothing can be written)"):
        to_output(place.format(tmp=tmp_path), "--output")


def test_other_outputs_are_taken(tmp_path: Path) -> None:
    for place in (str(tmp_path / "out"), "~/scores", "scores", "s3://bucket/scores", "memory://x"):
        to_output(place, "--output")
