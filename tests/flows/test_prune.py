"""Keeping house: Prefect forgets old runs, logs are cut, and a night prunes if a setting says so."""

import logging
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from flows import prune
from flows.stack import vacuum

_MAKE = """
import asyncio
from prefect.server.database import provide_database_interface

async def make():
    db = provide_database_interface()
    await db.create_db()
    await (await db.engine()).dispose()

asyncio.run(make())
"""


def test_prefect_forgets_old_runs(tmp_path: Path) -> None:
    env = {
        **os.environ,
        "PREFECT_HOME": str(tmp_path),
        "GRAYLINE_STORE": str(tmp_path / "s"),
        "GRAYLINE_KEEP_DAYS": "7",
    }
    env = {name: value for name, value in env.items() if not name.startswith("PREFECT_SERVER_")}
    subprocess.run([sys.executable, "-c", _MAKE], check=True, env=env)
    with closing(sqlite3.connect(tmp_path / "prefect.db")) as db, db:
        db.execute("insert into flow (id, name) values ('00000000-0000-0000-0000-00000000000f', 'night')")
        for days in range(20):
            ended = f"{datetime.now(UTC) - timedelta(days=days):%Y-%m-%d %H:%M:%S.%f}"
            row = (str(UUID(int=days)), str(days), str(UUID(int=15)), "COMPLETED", ended)
            db.execute("insert into flow_run (id, name, flow_id, state_type, end_time) values (?, ?, ?, ?, ?)", row)
    subprocess.run([sys.executable, "-m", "flows.stack.vacuum"], check=True, env=env)
    with closing(sqlite3.connect(tmp_path / "prefect.db")) as db:
        left = sorted(int(name) for (name,) in db.execute("select name from flow_run"))
    assert left in ([0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 6, 7])


def test_a_log_is_cut_to_its_end_and_its_process_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAYLINE_STORE", str(tmp_path))
    (tmp_path / "stack").mkdir()
    log = tmp_path / "stack" / "worker.log"
    with log.open("ab") as file:
        file.write(b"x" * (vacuum._LARGEST_LOG + 1) + b"end\n")
        file.flush()
        assert vacuum.cut_logs() > 0
        file.write(b"more\n")
    assert log.stat().st_size == vacuum._KEPT_OF_LOG + 5
    assert log.read_bytes().endswith(b"end\nmore\n")
    assert vacuum.cut_logs() == 0


def test_a_night_prunes_by_a_setting_and_never_fails_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GRAYLINE_STORE", str(tmp_path / "s"))
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    left = tmp_path / "s" / "work" / "d" / "2024-01-01T000000-00000000" / "entries.parquet"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"left")
    os.utime(left, (1, 1))
    prune.after_the_night()
    assert left.exists()
    monkeypatch.setenv("GRAYLINE_PRUNE_NIGHTLY", "true")
    with caplog.at_level(logging.INFO):
        prune.after_the_night()
    assert not left.exists()
    assert "0 versions and 0 runs deleted" in caplog.text
    (tmp_path / "s" / "scores").write_text("a file in the way")
    monkeypatch.setattr(prune, "prune", lambda *_: 1 / 0)
    prune.after_the_night()
    assert "prune       failed: division by zero. Run `grayline prune`" in caplog.text
