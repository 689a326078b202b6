"""Targets: what is wrong with one is said before anything is scored, and nobody is shown its password."""

import csv
import gzip
import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import SecretStr

import tasks.sinks
from resnet_core.errors import UserError
from resnet_core.storage.delimited import as_cell, read_delimited
from tasks.sinks.csv_file import write_csv
from tasks.sinks.rows import COLUMNS
from tasks.sinks.sinks import check_target, write_to
from tests.scored import a_batch
from tests.tasks.sinks.test_sinks import Digits, Place, lake, read_sqlite, write


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("x.cvs", "'x.cvs' is not a place to write to. Did you mean 'csv'[?] Known: FILE.csv"),
        ("detla:/srv/x", "Did you mean 'delta'[?]"),
        ("delta:", "not a place to write to"),
        ("out", "not a place to write to"),
        ("iceberg:scores", "is not iceberg:CATALOG/NAMESPACE.TABLE"),
        ("iceberg:nowhere/a.b", "the catalog nowhere is not set up for PyIceberg .*PYICEBERG_CATALOG__NOWHERE__URI"),
        ("postgres://u@h/d", "postgres is not a database that SQLAlchemy knows. Did you mean 'postgresql'[?]"),
        ("s3://bucket/folder", "A file's name ends in .csv"),
        ("postgresql+asyncpg://u@h/d", "for asynchronous programs"),
        ("oracle://u@h/d", "oracle needs oracledb. Run `pip install oracledb`"),
        ("sqlite:////nowhere/x.db", "unable to open database file"),
        ("sqlite:///x.db?table=scores", "the name of the table comes after a #"),
        ("sqlite:///x.db#one two", "after the # comes the name of a table"),
        ("/proc/x.csv", "/proc/x.csv belongs to the system"),
    ],
)
def test_a_target_that_cannot_be_is_said_at_once(target: str, message: str) -> None:
    if target.startswith("iceberg"):
        pytest.importorskip("pyiceberg", reason="needs grayline[lake]")
    with pytest.raises(UserError, match=f"^--to: .*{message}"):
        check_target(target)


def test_no_text_in_a_csv_file_is_a_formula(tmp_path: Path) -> None:
    """Numbers stay, and a reader of ours gets the same names. A spreadsheet may cut lines at other characters, too."""
    cells = {
        "=cmd|' /C calc'!A0": "'=cmd|' /C calc'!A0",
        "+1": "+1",
        "-2.5": "-2.5",
        "-a": "'-a",
        "@SUM(A1)": "'@SUM(A1)",
        "\t=1": "'\t'=1",
        "'=1": "''=1",
        "plain": "plain",
        "it's; 'tis": "it's; 'tis",
        "\uff1d1": "'\uff1d1",
        'a"b,c\nd': 'a"b,c\nd',
        "\u202ex": "\u202ex",
        "x;=cmd": "x;'=cmd",
        'x; "=cmd': "x; \"'=cmd",
        "x\t@a\t-b": "x\t'@a\t'-b",
        "x|+a;'=b": "x|'+a;''=b",
        "x\r\n=a": "x\r\n'=a",
        "=a;\uff1db": "'=a;'\uff1db",
        "x;y-z=1": "x;y-z=1",
    }
    names = [*cells]
    rows = [{"uri": f"/{k}", "label": name, "top_labels": [name]} for k, name in enumerate(names)]
    with pa.OSFile(str(tmp_path / "x.csv"), "wb") as file:
        write_csv(file, iter([pa.RecordBatch.from_pylist(rows, COLUMNS)]))
    with (tmp_path / "x.csv").open(newline="") as text:
        assert [row["label"] for row in csv.DictReader(text)] == [*cells.values()] == [*map(as_cell, names)]
    with (tmp_path / "x.csv").open("rb") as file:
        columns, lines = read_delimited(file, "x.csv", ["uri"], ["uri"])
        assert [line[columns.index("label")] for _, line in lines] == names
    for separator in ";\t|":
        with (tmp_path / "x.csv").open(newline="") as text:
            for cell in (cell.lstrip('" ') for row in csv.reader(text, delimiter=separator) for cell in row):
                assert not re.match("[=+@-]", cell), (separator, cell)


def test_what_lies_there_and_is_not_ours_is_left_alone(
    tmp_path: Path, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = a_batch(tmp_path / "one", digits[0], files=9)
    (tmp_path / "labels.csv").write_text("path,label\na.png,7\n")
    (tmp_path / "labels.csv.gz").write_bytes(gzip.compress(b"path,label\n"))
    (tmp_path / "broken.csv.gz").write_bytes(b"no gzip")
    with closing(sqlite3.connect(tmp_path / "other.db")) as db:
        db.execute("create table scores (batch, uri)")
        db.commit()
    (tmp_path / "folder.csv").mkdir()
    refused = {
        str(tmp_path / "labels.csv"): "does not hold scores",
        str(tmp_path / "labels.csv.gz"): "does not hold scores",
        str(tmp_path / "broken.csv.gz"): "does not hold scores",
        str(tmp_path / "folder.csv"): "is a folder",
        f"sqlite:///{tmp_path}/other.db": "the table scores has no column image_id",
    }
    for target, message in refused.items():
        with pytest.raises(UserError, match=message):
            check_target(target)
    assert (tmp_path / "labels.csv").read_text() == "path,label\na.png,7\n"
    write(scores, Place(f"sqlite:///{tmp_path}/other.db#scores2", lambda name: []))


def test_lake_tables_of_something_else_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deltalake = pytest.importorskip("deltalake", reason="needs grayline[lake]")
    lake(tmp_path, monkeypatch)
    from pyiceberg.catalog import load_catalog

    catalog = load_catalog("lake")
    catalog.create_namespace("grayline")
    for name, schema, message in (
        ("short", COLUMNS.remove(2), "has no column uri"),
        ("long", COLUMNS.append(pa.field("more", pa.string())), "has a column more that scores do not have"),
        ("other", COLUMNS.set(0, pa.field("batch", pa.int64())), "has int64 in its column batch, scores have string"),
    ):
        deltalake.write_deltalake(tmp_path / name, schema.empty_table())
        catalog.create_table(f"grayline.{name}", schema)
        for target in (f"delta:{tmp_path}/{name}", f"iceberg:lake/grayline.{name}"):
            with pytest.raises(UserError, match=message):
                check_target(target)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError, match="is not a Delta table"):
        check_target(f"delta:{tmp_path}/full")


SINKS = {"tasks.sinks.delta", "tasks.sinks.iceberg", "tasks.sinks.sql"}


@pytest.mark.parametrize("module", ["deltalake", "pyiceberg", "psycopg"])
def test_a_missing_package_is_named_with_its_extra(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = {
        "deltalake": ("delta:/tmp/x", "lake"),
        "pyiceberg": ("iceberg:a/b.c", "lake"),
        "psycopg": ("postgresql://u@h/d", "postgres"),
    }
    target, extra = targets[module]
    for name in [name for name in sys.modules if name.partition(".")[0] == module or name in SINKS]:
        monkeypatch.delitem(sys.modules, name)
        if name in SINKS:  # the package keeps a reloaded module as its attribute
            monkeypatch.delattr(name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"needs {module}. Run `pip install 'grayline\[{extra}\]'`"):
        check_target(target)


LINES = """
from pathlib import Path
from resnet_core.errors import UserError

ERRORS = (OSError,)

def check(place):
    if Path(place).is_dir():
        raise UserError(f"--to: {place} is a folder.")

def write(place, batch, rows):
    Path(place).write_text("".join(f"{batch} {uri}\\n" for piece in rows for uri in piece["uri"].to_pylist()))
"""


def test_a_sink_is_one_file_found_by_its_name(tmp_path: Path, digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = a_batch(tmp_path / "one", digits[0], files=9)
    sinks = tmp_path / "sinks"
    sinks.mkdir()
    for name in ("lines_file", "lines"):
        (sinks / f"{name}.py").write_text(LINES)
    monkeypatch.setattr("tasks.sinks.__path__", [*tasks.sinks.__path__, str(sinks)])
    for target in (f"{tmp_path}/rows.lines", f"lines:{tmp_path}/rows.txt"):
        check_target(target)
        write_to.fn(scores, target)
        assert len(Path(target.removeprefix("lines:")).read_text().splitlines()) == 9
    with pytest.raises(UserError, match=r"Known: .*FILE.lines, FILE.lines.gz.* lines:PLACE"):
        check_target("x.parquet")
    for name in ("lines_file", "lines"):
        monkeypatch.delitem(sys.modules, f"tasks.sinks.{name}")


@pytest.mark.parametrize("target", ["postgresql:/u:geheim@h/d", "postgresql:u:geheim@h/d", "x:y:geheim@h"])
def test_a_mistyped_target_shows_no_password(target: str) -> None:
    with pytest.raises(UserError, match="is not a place to write to") as raised:
        check_target(target)
    assert "geheim" not in str(raised.value)


def test_prefect_keeps_no_password(
    prefect: None, tmp_path: Path, digits: Digits, caplog: pytest.LogCaptureFixture
) -> None:
    """A target in a Secret block, and one that the command line hands over, in a run that fails."""
    from prefect import flow
    from prefect.blocks.system import Secret
    from prefect.client.orchestration import get_client

    pytest.importorskip("psycopg", reason="needs grayline[postgres]")
    scores = a_batch(tmp_path / "one", digits[0], files=9)
    Secret(value=f"sqlite:///{tmp_path}/scores.db").save("night-scores", overwrite=True)
    patient = write_to.with_options(retries=0)

    @flow
    def deliver(to: list[SecretStr]) -> None:
        for target in to:
            patient(scores, target.get_secret_value())

    bad = "postgresql://night:ge%23heim@127.0.0.1:1/d"
    with pytest.raises(UserError, match="no Secret block 'morning-scores'"):
        check_target("secret:morning-scores")
    check_target("secret:night-scores")
    state = deliver([SecretStr("secret:night-scores"), SecretStr(bad)], return_state=True)
    assert len(read_sqlite(tmp_path / "scores.db", "one")) == 9
    assert "postgresql://127.0.0.1:1/d has not taken the rows of one" in str(state.message)
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(state.state_details.flow_run_id)
        tasks = client.read_task_runs()
    kept = caplog.text + run.model_dump_json() + "".join(task.model_dump_json() for task in tasks)
    assert "write one" in kept
    assert "heim" not in kept


def test_csv_and_delta_lie_in_a_bucket_too(tmp_path: Path, digits: Digits) -> None:
    pytest.importorskip("deltalake", reason="needs grayline[lake]")
    pytest.importorskip("s3fs", reason="needs grayline[s3]")
    server = pytest.importorskip("moto.server", reason="moto is not installed: pip install 'moto[server]'")
    scores = a_batch(tmp_path / "one", digits[0], files=300)
    running = server.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    settings = {
        "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ALLOW_HTTP": "true",
    }  # fmt: skip
    try:
        done = subprocess.run(
            [sys.executable, "-c", BUCKET, *(part.path for part in scores.parts)],
            env={**os.environ, **settings}, stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
    finally:
        running.stop()
    assert json.loads(done.stdout) == [300, 300]


BUCKET = """
import gzip, io, json, sys
import pyarrow.parquet as pq
import s3fs
from deltalake import DeltaTable
from upath import UPath
from tasks.sinks.rows import batch_rows
from tasks.sinks.sinks import check_target, find_sink

fs = s3fs.S3FileSystem()
fs.mkdir("night-scores")
for target in ["s3://night-scores/x/y.csv.gz", "delta:s3://night-scores/delta"] * 2:
    check_target(target)
    sink, place = find_sink(target)
    sink.write(place, "one", batch_rows(map(UPath, sys.argv[1:]), "one", 300))
lines = gzip.decompress(fs.cat_file("night-scores/x/y.csv.gz")).decode().splitlines()
# Not by to_pyarrow_table: its reading threads are still there when Python ends, one time in forty, and abort it.
files = [fs.cat_file(file) for file in DeltaTable("s3://night-scores/delta").file_uris()]
print(json.dumps([len(lines) - 1, sum(pq.read_metadata(io.BytesIO(file)).num_rows for file in files)]))
"""
