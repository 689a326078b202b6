"""Sinks: each place has the rows of each batch exactly once, whatever happened on the way.

The properties ask for a `place`; tests/tasks/sinks/test_postgres.py runs them on a PostgreSQL of its own.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from resnet_core.inference.scores import SCHEMA
from tasks.batch.values import Scores
from tasks.sinks.rows import COLUMNS, ROWS, batch_rows
from tasks.sinks.sinks import check_target, find_sink, write_to
from tests.scored import a_batch, big_part

Rows = list[dict[str, Any]]
Digits = tuple[np.ndarray, list[str]]
LISTS = ("probabilities", "prediction_set", "top_labels", "top_probabilities", "embedding")
WORKER = """
import sys, time
from upath import UPath
from tasks.sinks.sinks import find_sink
from tasks.sinks.rows import batch_rows

def hanging(rows):
    yield next(rows)
    yield next(rows)
    print("begun", flush=True)
    time.sleep(600)

target, batch, *parts = sys.argv[1:]
sink, place = find_sink(target)
sink.write(place, batch, hanging(batch_rows(map(UPath, parts), batch, 0)))
"""


@dataclass(frozen=True)
class Place:
    """A target, and the rows that it has of a batch, in any order, as Python's own values."""

    target: str
    read: Callable[[str], Rows]
    holds_many: bool = True


@pytest.fixture(params=["csv", "csv.gz", "sqlite", "delta", "iceberg"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return make_place(request.param, tmp_path, monkeypatch)


def make_place(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    if kind.startswith("csv"):
        return Place(str(folder / f"scores.{kind}"), lambda name: read_csv(folder / f"scores.{kind}"), False)
    if kind == "sqlite":
        return Place(f"sqlite:///{folder}/scores.db", lambda name: read_sqlite(folder / "scores.db", name))
    if kind == "delta":
        deltalake = pytest.importorskip("deltalake", reason="needs grayline[lake]")
        table = lambda: deltalake.DeltaTable(folder / "delta").to_pyarrow_table()  # noqa: E731
        return Place(f"delta:{folder}/delta", lambda name: [row for row in table().to_pylist() if row["batch"] == name])
    lake(folder, monkeypatch)
    return Place("iceberg:lake/grayline.scores", read_iceberg)


def lake(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An Iceberg catalog of its own, set up as a user does it: by PyIceberg's variables."""
    catalog = pytest.importorskip("pyiceberg.catalog", reason="needs grayline[lake]")
    from pyiceberg.utils.config import Config

    (folder / "warehouse").mkdir()
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__URI", f"sqlite:///{folder}/catalog.db")
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__WAREHOUSE", f"file://{folder}/warehouse")
    monkeypatch.setattr(catalog, "_ENV_CONFIG", Config())  # read once, when it was imported


def read_iceberg(batch: str) -> Rows:
    from pyiceberg.catalog import load_catalog

    table = load_catalog("lake").load_table("grayline.scores")
    return [row for row in table.scan().to_arrow().to_pylist() if row["batch"] == batch]


def read_csv(path: Path) -> Rows:
    found = duckdb.sql(f"from read_csv('{path}', types={{'model_version': 'VARCHAR', 'modified': 'VARCHAR'}})")
    rows = [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]
    return [row | {name: json.loads(row[name] or "null") for name in LISTS if name in row} for row in rows]


def read_sqlite(path: Path, batch: str) -> Rows:
    with closing(sqlite3.connect(path)) as db:
        db.row_factory = sqlite3.Row
        rows = [dict(row) for row in db.execute("select * from scores where batch = ?", [batch])]
    return [row | {name: json.loads(row[name] or "null") for name in LISTS} for row in rows]


def uris(rows: Rows) -> list[str]:
    return sorted(row["uri"] for row in rows)


def uris_of(scores: Scores) -> list[str]:
    return sorted(uri for part in scores.parts for uri in pq.read_table(part.path)["uri"].to_pylist())


def write(scores: Scores, place: Place) -> None:
    check_target(place.target)
    assert write_to.fn(scores, place.target).rows == scores.files


def test_what_is_written_is_what_the_batch_says(place: Place, tmp_path: Path, digits: Digits) -> None:
    scores = a_batch(tmp_path / "it's one", digits[0])
    write(scores, place)
    found = {row["uri"]: row for row in place.read(scores.batch)}
    assert sum(len(pq.read_table(part.path)) for part in scores.parts) == len(found)
    for part in scores.parts:
        for row in pq.read_table(part.path).to_pylist():
            other = found[row["uri"]]
            assert other["batch"] == "it's one"
            for name in SCHEMA.names:
                if name in other:
                    assert plain(other[name]) == plain(row[name]), name
            assert {*SCHEMA.names} - {*other} <= {"embedding"}


def plain(value: Any) -> Any:
    """Numbers to the precision of a float32, times without their zone: SQLite knows none, and true is 1 there."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    if hasattr(value, "isoformat"):
        return value.replace(tzinfo=None).isoformat(sep=" ")
    return float(np.float32(value)) if isinstance(value, float) else value


def test_a_batch_that_is_written_again_replaces_itself_and_nothing_else(
    place: Place, tmp_path: Path, digits: Digits
) -> None:
    old, other = a_batch(tmp_path / "old", digits[0], files=500), a_batch(tmp_path / "old 2", digits[0], files=200)
    write(old, place)
    if place.holds_many:
        write(other, place)
    write(old, place)
    assert uris(place.read("old")) == uris_of(old)
    fewer = replace(old, parts=old.parts[:1], files=128)  # files have gone from the source
    write(fewer, place)
    assert uris(place.read("old")) == uris_of(fewer)
    if place.holds_many:
        assert uris(place.read("old 2")) == uris_of(other)


def test_a_table_of_an_older_release_gets_the_new_column(
    place: Place, tmp_path: Path, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = a_batch(tmp_path / "old", digits[0]), a_batch(tmp_path / "new", digits[0])
    with monkeypatch.context() as patch:
        write_as_before(old, place, patch)
    assert "reason_code" not in place.read("old")[0]
    write(new, place)
    codes = {row["uri"]: row["reason_code"] for row in place.read("new")}
    assert set(codes.values()) == {None, "damaged"}
    if place.holds_many:
        assert uris(place.read("old")) == uris_of(old)
        assert {row["reason_code"] for row in place.read("old")} == {None}
    write(new, place)
    assert uris(place.read("new")) == uris_of(new)


def write_as_before(scores: Scores, place: Place, patch: pytest.MonkeyPatch) -> None:
    """Write as a release does that knows no column `reason_code`."""
    older = COLUMNS.remove(COLUMNS.get_field_index("reason_code"))
    for module in ("csv_file", "sql", "delta", "iceberg"):
        with suppress(ImportError):
            patch.setattr(f"tasks.sinks.{module}.COLUMNS", older)
    patch.setattr("tasks.sinks.csv_file._HEADER", [name for name in older.names if name != "embedding"])
    sink, where = find_sink(place.target)
    pieces = batch_rows(scores.parts, scores.batch, scores.files)
    sink.write(where, scores.batch, (piece.select(older.names) for piece in pieces))


def test_a_batch_that_fails_in_the_middle_leaves_the_old_rows(place: Place, tmp_path: Path, digits: Digits) -> None:
    old = a_batch(tmp_path / "one", digits[0], files=300)
    write(old, place)
    new = a_batch(tmp_path / "new" / "one", digits[0], files=3 * ROWS, part=ROWS)
    last = Path(new.parts[-1].path)
    last.write_bytes(last.read_bytes()[:-1000])
    with pytest.raises(Exception, match=r"Parquet|footer|magic"):
        write_to.fn(new, place.target)
    assert uris(place.read("one")) == uris_of(old)


def test_rows_that_are_too_few_are_not_committed(place: Place, tmp_path: Path, digits: Digits) -> None:
    old = a_batch(tmp_path / "one", digits[0], files=300)
    write(old, place)
    with pytest.raises(Exception, match="the parts have 128 rows and the batch 300 files"):
        write_to.fn(replace(old, parts=old.parts[:1]), place.target)
    assert uris(place.read("one")) == uris_of(old)


def test_killed_in_the_middle_it_has_the_old_rows_and_then_the_new_ones(
    place: Place, tmp_path: Path, digits: Digits
) -> None:
    old = a_batch(tmp_path / "one", digits[0], files=300)
    write(old, place)
    new = a_batch(tmp_path / "new" / "one", digits[0], files=3 * ROWS, part=4096)
    command = [sys.executable, "-c", WORKER, place.target, "one", *(part.path for part in new.parts)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGKILL)
    assert uris(place.read("one")) == uris_of(old)
    write(new, place)
    assert uris(place.read("one")) == uris_of(new)


def test_two_that_write_the_same_batch_at_once_leave_its_rows_once(
    place: Place, tmp_path: Path, digits: Digits
) -> None:
    scores = a_batch(tmp_path / "one", digits[0], files=300)
    write(replace(scores, output=scores.output.with_name("other")), place)  # the table is there
    sink, where = find_sink(place.target)
    both = threading.Barrier(2)
    errors: list[Exception] = []

    def together(rows: Iterator[Any]) -> Iterator[Any]:
        yield next(rows)
        with suppress(threading.BrokenBarrierError):  # where one has to wait for the other
            both.wait(2)
        yield from rows

    def work() -> None:
        try:
            sink.write(where, "one", together(batch_rows(scores.parts, "one", scores.files)))
        except sink.ERRORS as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) < 2
    assert uris(place.read("one")) == uris_of(scores)


def test_a_batch_without_rows_takes_the_old_ones_away(place: Place, tmp_path: Path, digits: Digits) -> None:
    scores = a_batch(tmp_path / "one", digits[0])
    write(scores, place)
    write(replace(scores, parts=(), files=0), place)
    assert place.read("one") == []


def test_pieces_are_of_one_size_whatever_the_parts_are(tmp_path: Path, digits: Digits) -> None:
    scores = a_batch(tmp_path / "one", digits[0], files=3 * ROWS + 5, part=1000)
    pieces = list(batch_rows(scores.parts, "one", scores.files))
    assert [len(piece) for piece in pieces] == [ROWS, ROWS, ROWS, 5]
    assert [uri for piece in pieces for uri in piece["uri"].to_pylist()] == uris_of(scores)


def test_rows_are_read_as_a_slow_database_takes_them(tmp_path: Path, digits: Digits) -> None:
    scores = a_batch(tmp_path / "one", digits[0], files=4 * ROWS, part=ROWS)
    read = taken = 0
    ahead = []

    def slowly(connection: Any, cursor: Any, statement: str, values: Any, context: Any, many: bool) -> None:
        nonlocal taken
        if many:
            taken += len(values)
            ahead.append(read - taken)
            time.sleep(0.01)

    def counted() -> Iterator[Any]:
        nonlocal read
        for rows in batch_rows(scores.parts, "one", scores.files):
            read += len(rows)
            yield rows

    sa.event.listen(sa.Engine, "before_cursor_execute", slowly)
    try:
        sink, where = find_sink(f"sqlite:///{tmp_path}/scores.db")
        sink.write(where, "one", counted())
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", slowly)
    assert taken == scores.files
    assert 0 <= min(ahead) <= max(ahead) < ROWS


MEMORY = """
import resource, sys
from upath import UPath
from tasks.sinks.sinks import find_sink
from tasks.sinks.rows import batch_rows

part, *targets = sys.argv[1:]
for count in (2, 30):
    for target in targets:
        sink, place = find_sink(target)
        sink.write(place, "one", batch_rows([UPath(part)] * count, "one", count * 4096))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_fifteen_times_the_rows_take_no_more_memory(
    tmp_path: Path, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 8,192 rows to 122,880 with 75 MB of embeddings, far more as text or as Python's objects."""
    part = big_part(tmp_path / "part.parquet", digits[0])
    targets = [make_place(kind, tmp_path, monkeypatch).target for kind in ("csv", "sqlite", "iceberg")]
    command = [sys.executable, "-c", MEMORY, part.path, *targets]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=dict(os.environ))
    small, large = (int(kibibytes) / 1024 for kibibytes in done.stdout.split())
    assert large - small < 50
