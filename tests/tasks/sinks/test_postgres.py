"""The sinks' properties on a real PostgreSQL, and what a server adds: rights, lost connections, slowness."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from upath import UPath

from resnet_core.errors import JobError, UserError
from tasks.sinks.rows import COLUMNS, ROWS, batch_rows
from tasks.sinks.sinks import check_target, find_sink, write_to
from tests import postgres
from tests.scored import a_batch, big_part
from tests.tasks.sinks.test_sinks import (  # noqa: F401 - the properties, for the place below
    Digits,
    Place,
    Rows,
    test_a_batch_that_fails_in_the_middle_leaves_the_old_rows,
    test_a_batch_that_is_written_again_replaces_itself_and_nothing_else,
    test_a_batch_without_rows_takes_the_old_ones_away,
    test_a_table_of_an_older_release_gets_the_new_column,
    test_killed_in_the_middle_it_has_the_old_rows_and_then_the_new_ones,
    test_rows_that_are_too_few_are_not_committed,
    test_two_that_write_the_same_batch_at_once_leave_its_rows_once,
    test_what_is_written_is_what_the_batch_says,
    uris,
    uris_of,
    write,
)

pytest.importorskip("psycopg", reason="psycopg is not installed: pip install -e '.[postgres]'")
pytestmark = pytest.mark.skipif(
    postgres.programs() is None, reason="there is no PostgreSQL: apt-get install postgresql"
)

Run = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres.cluster() as url:
        yield url


@pytest.fixture
def run(server: str) -> Iterator[Run]:
    """Runs a statement as the database's owner, beside what is tested. The table is gone afterwards."""
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)

    def execute(statement: str, *values: Any) -> list[Any]:
        with engine.connect() as connection:
            found = connection.exec_driver_sql(statement, values)
            return [dict(row) for row in found.mappings()] if found.returns_rows else []

    yield execute
    execute("drop table if exists scores")


@pytest.fixture
def place(server: str, run: Run) -> Place:
    return Place(f"{server}#scores", lambda name: run("select * from scores where batch = %s", name))


def test_lists_are_arrays_and_nothing_is_left_of_a_check(
    place: Place, run: Run, tmp_path: Path, digits: Digits
) -> None:
    check_target(place.target)
    assert run("select to_regclass('scores') as found") == [{"found": None}]
    write(a_batch(tmp_path / "one", digits[0], files=8), place)
    check_target(place.target)
    query = (
        "select count(*) as all, max(array_length(top_labels, 1)) as top, min(probabilities[1]) > 0 as real from scores"
    )
    assert run(query) == [{"all": 8, "top": 3, "real": True}]


@given(texts=st.lists(st.text(st.characters(codec="utf-8")), min_size=1, max_size=30))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_comes_back_as_it_was(place: Place, tmp_path: Path, texts: list[str]) -> None:
    rows = [{"uri": f"{n} {text}", "reason": text, "top_labels": texts} for n, text in enumerate(texts)]
    rows.append({"uri": "a\n\\.\nb", "reason": "", "top_labels": []})
    part = tmp_path / "any.parquet"
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(list(COLUMNS)[1:])), part)
    sink, where = find_sink(place.target)
    sink.write(where, "any", batch_rows([UPath(part)], "any", len(rows)))
    # PostgreSQL has no zero bytes.
    wanted = [{k: v if isinstance(v, list) else v.replace("\0", "\\x00") for k, v in row.items()} for row in rows]
    for row in wanted:
        row["top_labels"] = [text.replace("\0", "\\x00") for text in row["top_labels"]]
    found = [{name: row[name] for name in rows[0]} for row in place.read("any")]
    assert sorted(found, key=lambda row: row["uri"]) == sorted(wanted, key=lambda row: row["uri"])


def test_other_drivers_of_sqlalchemy_and_other_schemas_work(
    server: str, run: Run, tmp_path: Path, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = a_batch(tmp_path / "one", digits[0], files=300)
    run("create schema if not exists night")
    target = Place(f"{server}#night.of_all", lambda name: run("select * from night.of_all where batch = %s", name))
    write(scores, target)
    by_copy = target.read("one")
    monkeypatch.setattr("sqlalchemy.dialects.postgresql.psycopg.PGDialect_psycopg.driver", "another")
    write(scores, target)
    assert sorted(target.read("one"), key=str) == sorted(by_copy, key=str)
    run("drop schema night cascade")


def test_a_lost_connection_leaves_the_old_rows_and_is_said(
    place: Place, run: Run, tmp_path: Path, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = a_batch(tmp_path / "one", digits[0], files=300)
    write(old, place)
    new = a_batch(tmp_path / "new" / "one", digits[0], files=4 * ROWS, part=ROWS)

    def cut(*given: Any) -> Iterator[pa.RecordBatch]:
        rows = batch_rows(*given)
        yield next(rows)
        run("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()")
        yield from rows

    monkeypatch.setattr("tasks.sinks.sinks.batch_rows", cut)
    with pytest.raises(JobError, match="has not taken the rows of one") as raised:
        write_to.fn(new, place.target)
    assert "geheim" not in str(raised.value).replace("#", "")
    assert uris(place.read("one")) == uris_of(old)
    monkeypatch.undo()
    write(new, place)
    assert uris(place.read("one")) == uris_of(new)


def test_a_slow_database_is_waited_for(place: Place, run: Run, tmp_path: Path, digits: Digits) -> None:
    """Rows are read as they are taken: a trigger counts those that have arrived, and dawdles."""
    check_target(place.target)
    write(a_batch(tmp_path / "other", digits[0], files=8), place)
    run("create sequence arrived")
    run(
        "create function dawdle() returns trigger language plpgsql as $$ begin "
        "if nextval('arrived') %% 1000 = 0 then perform pg_sleep(0.03); end if; return new; end $$"
    )
    run("create trigger slow before insert on scores for each row execute function dawdle()")
    parts, read = [big_part(tmp_path / "big.parquet", digits[0])] * 12, 0

    def counted() -> Iterator[pa.RecordBatch]:
        nonlocal read
        for rows in batch_rows(parts, "big", 12 * 4096):
            read += len(rows)
            yield rows

    sink, where = find_sink(place.target)
    thread = threading.Thread(target=lambda: sink.write(where, "big", counted()))
    thread.start()
    ahead = []
    while thread.is_alive():
        time.sleep(0.1)
        ahead.append(read - run("select last_value from arrived")[0]["last_value"])
    thread.join()
    run("drop sequence arrived cascade")
    run("drop function dawdle cascade")
    assert len(place.read("big")) == 12 * 4096
    assert len(ahead) > 5
    assert max(ahead) < len(parts) * 4096 - 2 * ROWS  # what is being written, and what lies in the socket's buffers


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("create table scores (batch text, uri text)", "table scores has no column image_id, status"),
        ("create table scores as select 1 as batch", "table scores has no column image_id"),
        ("create view scores as select 1 as batch", "scores has no column image_id"),
    ],
)
def test_a_table_of_something_else_is_refused(place: Place, run: Run, statement: str, message: str) -> None:
    run(statement)
    with pytest.raises(UserError, match=message):
        check_target(place.target)
    run(f"drop {'view' if 'view' in statement else 'table'} scores")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("alter table scores alter label type integer using 0", "invalid input syntax for type integer"),
        ("alter table scores add column shift integer not null", "violates not-null constraint"),
        ("alter table scores rename column size to bytes", "has no column size"),
    ],
)
def test_a_table_that_takes_no_scores_is_refused(
    place: Place, run: Run, tmp_path: Path, digits: Digits, change: str, message: str
) -> None:
    write(a_batch(tmp_path / "one", digits[0], files=1), place)  # a failed file: no label
    run("delete from scores")
    run(change)
    with pytest.raises(UserError, match=message):
        check_target(place.target)


def test_a_column_of_the_users_own_may_be_there(place: Place, run: Run, tmp_path: Path, digits: Digits) -> None:
    scores = a_batch(tmp_path / "one", digits[0], files=20)
    write(scores, place)
    run("alter table scores add column note text, add column written timestamptz default now()")
    write(scores, place)
    assert uris(place.read("one")) == uris_of(scores)
    assert run("select count(written) as n from scores") == [{"n": 20}]


def test_a_user_without_rights_is_told_before_anything_is_scored(server: str, run: Run) -> None:
    run("create role reader login password 'lesen'")
    place = server.replace(f"{postgres.USER}:", "reader:").replace(sa.make_url(server).render_as_string(False), "")
    target = sa.make_url(place).set(username="reader", password="lesen").render_as_string(hide_password=False)
    with pytest.raises(UserError, match="permission denied for schema public") as raised:
        check_target(f"{target}#scores")
    assert "lesen" not in str(raised.value)
    with pytest.raises(UserError, match="password authentication failed") as raised:
        check_target(f"{target.replace('lesen', 'falsch')}#scores")
    assert "falsch" not in str(raised.value)
    run("drop role reader")
