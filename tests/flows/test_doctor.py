"""Servers are asked before a command reads anything."""

import os
import socket
from pathlib import Path

import pytest
from upath import UPath

from flows.doctor import _check_nights, check_mlflow
from resnet_core.errors import UserError
from resnet_core.storage.turns import turn
from tasks.store import Store
from tests.flows.stack.test_reconcile import Pool, pool

__all__ = ["pool"]


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://127.0.0.1:{}", r"^MLflow does not answer at http://127.0.0.1:{}/health .*MLFLOW_TRACKING_URI\.$"),
        ("http://127.0.0.1:{}/", r"^MLflow does not answer at http://127.0.0.1:{}/health "),
        ("postgresql+psycopg://me:secret@127.0.0.1:{}/mlflow", r"^[^\n]*no database answers at 127.0.0.1:{} "),
        ("./mlruns", r"^MLFLOW_TRACKING_URI: MLflow keeps no models in ./mlruns\. Name a server"),
        ("file:///tmp/mlruns", "^MLFLOW_TRACKING_URI: MLflow keeps no models in file:///tmp/mlruns"),
        ("htp://127.0.0.1:{}", "^MLFLOW_TRACKING_URI: MLflow keeps no models in htp:"),
    ],
)
def test_a_registry_that_does_not_answer(address: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    port = unused_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address.format(port))
    with pytest.raises(UserError, match=message.format(port)) as error:
        check_mlflow()
    assert "secret" not in str(error.value)


def test_a_database_file_needs_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////somewhere/mlflow.db")
    assert check_mlflow() == "sqlite:////somewhere/mlflow.db"


def test_who_is_at_work_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAYLINE_STORE", str(tmp_path))
    assert _check_nights() == "nobody is at work"
    with turn(Store(UPath(tmp_path)).turn("elpv")):
        assert _check_nights().startswith(f"elpv: process {os.getpid()} on ")


def test_a_run_without_a_process_and_a_stuck_slot_are_named(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.doctor.POOL", pool.name)
    pool.set(concurrency_limit=1)
    _check_nights()
    limit = pool.there()["nightly-retrain"]["global_concurrency_limit"]["id"]
    pool.run("PENDING", "RUNNING")
    pool.api.ask(f"/v2/concurrency_limits/{limit}", {"active_slots": 2}, "PATCH")
    with pytest.raises(UserError, match=r"is Running and has no process; a slot of nightly-retrain .*`make up`"):
        _check_nights()
