"""A store says which format it has and which versions opened its databases. A newer one is refused in a line."""

import json
import sqlite3
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import pytest
from upath import UPath

from resnet_core.errors import UserError
from tasks.access import migrations
from tasks.settings import Settings, check_store, check_there
from tasks.store import FORMAT, STORE_MARK, Store

HEAD = "select version_num from alembic_version"


def mark(store: Path) -> dict[str, object]:
    return json.loads((store / STORE_MARK).read_text())


def test_a_new_store_says_its_format_and_an_old_one_gets_it(store: Path) -> None:
    check_store(UPath(store))
    assert mark(store) == {"format": FORMAT, "opened_by": {name: version(name) for name in ("mlflow", "prefect")}}
    (store / STORE_MARK).write_text("{}\n")  # as an earlier release has left it
    check_store(UPath(store))
    assert mark(store)["format"] == FORMAT
    (store / STORE_MARK).write_text('{"for')  # a power cut
    check_store(UPath(store))
    assert mark(store)["format"] == FORMAT


@pytest.mark.parametrize("found", [FORMAT + 1, "2027-a", None])
def test_a_newer_store_is_refused_in_a_line_and_not_touched(store: Path, found: object) -> None:
    store.mkdir()
    (store / STORE_MARK).write_text(json.dumps({"format": found}))
    (store / "catalog" / "x").mkdir(parents=True)
    for look in (
        lambda: check_store(UPath(store)),
        lambda: check_there(Settings()),
        lambda: Store(UPath(store)).find_catalog("x"),
    ):
        with pytest.raises(UserError, match=r"has format .* Install a newer release") as error:
            look()
        assert "\n" not in str(error.value)
    assert {path.name for path in store.iterdir()} == {STORE_MARK, "catalog"}


def opened(store: Path, **versions: str) -> None:
    """The store was opened by these versions last, and has two databases."""
    check_store(UPath(store))
    for file in ("mlflow.db", "prefect/prefect.db"):
        with closing(sqlite3.connect(store / file)) as database:
            database.execute("create table kept (x)")
            database.execute("insert into kept values (7)")
            database.commit()
    (store / STORE_MARK).write_text(json.dumps({"format": FORMAT, "opened_by": versions}))


def test_databases_are_copied_before_another_version_opens_them(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(store, mlflow="3.16.0", prefect=version("prefect"))
    asked: list[str] = []
    monkeypatch.setattr(migrations, "_migrate_mlflow", asked.append)
    (store / "backups").mkdir()
    (store / "backups" / "mlflow@3.1.0.db").write_bytes(b"older")
    for _ in range(2):  # the second time, nothing is left to do
        check_store(UPath(store))
    assert asked == [f"sqlite:///{store}/mlflow.db"]
    assert [path.name for path in (store / "backups").iterdir()] == ["mlflow@3.16.0.db"]
    with closing(sqlite3.connect(store / "backups" / "mlflow@3.16.0.db")) as database:
        assert database.execute("select x from kept").fetchall() == [(7,)]
    assert mark(store)["opened_by"] == {name: version(name) for name in ("mlflow", "prefect")}


@pytest.mark.parametrize(("name", "file"), [("mlflow", "mlflow.db"), ("prefect", "prefect.db")])
def test_a_database_of_a_newer_version_is_refused_in_a_line(store: Path, name: str, file: str) -> None:
    opened(store, **{"mlflow": "3.16.0", "prefect": "3.8.0", name: "99.1"})
    with pytest.raises(UserError, match=rf"{name} 99\.1 has opened .*{file}.* Install {name}==99\.1 or newer"):
        check_store(UPath(store))
    assert not (store / "backups" / file).exists()
    assert mark(store)["opened_by"][name] == "99.1"  # type: ignore[index]


def test_mlflow_brings_a_database_of_its_oldest_schema_up_to_date(store: Path) -> None:
    check_store(UPath(store))
    from mlflow.store.db.utils import _get_latest_schema_revision
    from mlflow.store.tracking.dbmodels.initial_models import Base
    from sqlalchemy import create_engine

    Base.metadata.create_all(create_engine(f"sqlite:///{store}/mlflow.db"))
    (store / STORE_MARK).write_text(json.dumps({"format": FORMAT, "opened_by": {"mlflow": "1.0"}}))
    check_store(UPath(store))
    with closing(sqlite3.connect(store / "mlflow.db")) as database:
        assert database.execute(HEAD).fetchall() == [(_get_latest_schema_revision(),)]
    with closing(sqlite3.connect(store / "backups" / "mlflow@1.0.db")) as database:
        tables = {name for (name,) in database.execute("select name from sqlite_master")}
    assert "experiments" in tables
    assert "alembic_version" not in tables
