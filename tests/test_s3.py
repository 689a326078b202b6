"""S3: sources in a bucket, through a real S3 API on this machine (moto's server). Credentials and endpoint come by the
variables that the ecosystem knows.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.resnet_core.sources.test_idx import write_pair

s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: pip install -e '.[s3]'")
server = pytest.importorskip("moto.server", reason="moto is not installed: pip install 'moto[server]'")

BUCKET = "images"
MADE = {f"{'cats' if n % 3 else 'dogs & more'}/{n:02} #{n}::ü.png": bytes([n]) * (n * 100) for n in range(1, 25)}

READ = """
import json, sys
from tests.listings import contents, ignored
found = {}
for source in sys.argv[1:]:
    files = {path: data.hex() if isinstance(data, bytes) else data for path, data in contents(source).items()}
    found[source] = [files, ignored(source)]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """What a user sets to reach their store."""
    running = server.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    running.stop()


@pytest.fixture(scope="module")
def bucket(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory, digits: Any) -> Any:
    """A bucket with a folder, a tar, a zip, Parquet, IDX and a manifest. Returns its file system."""
    fs = s3fs.S3FileSystem(
        key="testing", secret="testing", endpoint_url=environment["AWS_ENDPOINT_URL"], use_listings_cache=False
    )
    fs.mkdir(BUCKET)
    for path, data in MADE.items():
        fs.pipe_file(f"{BUCKET}/raw/{path}", data)
    fs.pipe_file(f"{BUCKET}/raw/labels.csv", b"path,label\n")
    fs.pipe_file(f"{BUCKET}/raw/cats/", b"")  # the mark that consoles leave for a folder
    folder = tmp_path_factory.mktemp("made")
    with (
        tarfile.open(folder / "x.tar", "w") as tar,
        tarfile.open(folder / "x.tar.gz", "w:gz") as packed,
        zipfile.ZipFile(folder / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for path, data in MADE.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
            packed.addfile(info, io.BytesIO(data))
            archive.writestr(path, data)
    pq.write_table(pa.table({"image": list(MADE.values())}), folder / "x.parquet", row_group_size=5)
    write_pair(folder / "idx", "train-", digits, 10, packed=True)
    fs.put(str(folder) + "/", f"{BUCKET}/made", recursive=True)
    return fs


def read(environment: dict[str, str], *sources: str) -> dict[str, tuple[dict[str, bytes], list[str]]]:
    """Of each source the files and what is ignored, as a process of its own sees them."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    ran = subprocess.run(
        [sys.executable, "-c", READ, *sources],
        env={**clean, **environment},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return {
        source: ({path: bytes.fromhex(data) for path, data in files.items()}, ignored)
        for source, (files, ignored) in json.loads(ran.stdout).items()
    }


def test_a_folder_and_archives_in_a_bucket_are_sources(environment: dict[str, str], bucket: Any) -> None:
    place = f"s3://{BUCKET}"
    sources = ("raw", "made/x.tar", "made/x.tar.gz", "made/x.zip", "made/x.parquet", "made/idx", "raw/c*/*1*.png")
    found = {
        source.removeprefix(place + "/"): each
        for source, each in read(environment, *(f"{place}/{s}" for s in sources)).items()
    }
    assert found["raw"] == (MADE, ["labels.csv"])
    for archive in ("made/x.tar", "made/x.tar.gz", "made/x.zip"):
        assert found[archive] == (MADE, [])
    assert list(found["made/x.parquet"][0].values()) == list(MADE.values())
    assert len(found["made/idx"][0]) == 10
    assert found["raw/c*/*1*.png"][0] == {path: data for path, data in MADE.items() if path[:1] == "c" and "1" in path}


def test_a_whole_bucket_and_more_than_a_page_of_keys(
    environment: dict[str, str], bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resnet_core.sources import folders
    from tests.listings import paths

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    whole = paths(f"s3://{BUCKET}")
    monkeypatch.setattr(folders, "PAGE", 5)
    assert paths(f"s3://{BUCKET}") == whole
    assert {f"raw/{path}" for path in MADE} < set(whole)


def test_a_manifest_knows_a_file_by_the_same_tag_as_its_folder(
    environment: dict[str, str], bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from upath import UPath

    from resnet_core.sources.manifest import list_manifest
    from resnet_core.sources.source import check_source, source_kind
    from tests.listings import rows

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    names = "\n".join(f'"{path}",a' for path in [*MADE, "none.png"])
    bucket.pipe_file(f"{BUCKET}/raw/m.csv", f"path,label\n{names}\n".encode())
    source = f"s3://{BUCKET}/raw/m.csv"
    assert source_kind(source) == "manifest"
    check_source(source)
    named = {row["uri"]: row for batch in list_manifest(UPath(source)) for row in batch.to_pylist()}
    found = {row["uri"]: row for row in rows(f"s3://{BUCKET}/raw") if not row["ignored"]}
    for uri, row in found.items():
        assert (named[uri]["size"], named[uri]["modified"]) == (row["size"], row["modified"])
    assert named[f"s3://{BUCKET}/raw/none.png"]["size"] is None


def test_a_changed_object_has_another_tag_and_the_new_one_is_seen_at_once(
    environment: dict[str, str], bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.listings import rows

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    tags = []
    for data in (b"1", b"2"):
        bucket.pipe_file(f"{BUCKET}/change/a/1.png", data)
        tags += [row["modified"] for row in rows(f"s3://{BUCKET}/change")]
    assert len(set(tags)) == 2
    bucket.pipe_file(f"{BUCKET}/change/a/2.png", b"new")
    assert len(rows(f"s3://{BUCKET}/change")) == 2


def test_a_bucket_that_is_not_there_is_the_users_error(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from resnet_core.errors import UserError
    from resnet_core.sources.source import check_source

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for source in ("s3://nowhere/raw", f"s3://{BUCKET}/none", f"s3://{BUCKET}/none.zip"):
        with pytest.raises(UserError, match="there is no such"):
            check_source(source)


def test_a_scored_batch_and_corrections_in_a_bucket(
    environment: dict[str, str], bucket: Any, digits: Any, digit_folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Rows, images, page and corrections all lie there."""
    from upath import UPath

    from resnet_core.images.limits import Limits
    from tasks.report.gallery_page import find_batch, write_gallery
    from tests.batches import write_batch
    from tests.conftest import write_labels
    from tests.tasks.ingest.test_ingest import dataset_of, ingested, table

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    place = f"s3://{BUCKET}/scored"
    scores, _ = write_batch(tmp_path / "b", digits, 20, bad=2)
    for file in scores.glob("*.parquet"):
        rows = pq.read_table(file)
        uris = pa.array([uri.replace(f"{tmp_path}/b", place) for uri in rows["uri"].to_pylist()])
        pq.write_table(rows.set_column(rows.schema.get_field_index("uri"), "uri", uris), file)
    bucket.put(f"{tmp_path}/b/", f"{BUCKET}/scored/", recursive=True)
    page = UPath(f"{place}/pages/g.html")
    made = write_gallery(find_batch(f"{place}/scores/new", UPath("/nowhere")), page, 15, [], Limits())
    assert (made.shown, made.files, made.unseen) == (15, 22, 0)
    assert page.read_text(encoding="utf-8").count("data:image/webp") == 14
    labels = [{"path": f"{place}/new/{number:04}.png", "label": "7"} for number in range(5)]
    bucket.put_file(str(write_labels(tmp_path / "c.csv", labels)), f"{BUCKET}/corrections/labels-new.csv")
    dataset = dataset_of(digit_folder, corrections=f"s3://{BUCKET}/corrections", manifest_roots=[place])
    found = table(ingested(dataset, UPath(tmp_path / "s"))[0])
    added = found[found["uri"].str.startswith(place)]
    assert added[["label", "status", "split"]].to_numpy().tolist() == [["7", "ok", "train"]] * 5
