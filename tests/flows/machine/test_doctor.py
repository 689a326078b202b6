"""Servers are asked before a command reads anything."""

import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from upath import UPath

from flows.machine.doctor import _check_nights, check_mlflow, check_prefect
from flows.stack import local
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
    monkeypatch.setattr("flows.machine.doctor.POOL", pool.name)
    pool.set(concurrency_limit=1)
    _check_nights()
    limit = pool.there()["nightly-retrain"]["global_concurrency_limit"]["id"]
    pool.run("PENDING", "RUNNING")
    pool.api.ask(f"/v2/concurrency_limits/{limit}", {"active_slots": 2}, "PATCH")
    with pytest.raises(UserError, match=r"is Running and has no process; a slot of nightly-retrain .*`grayline up`"):
        _check_nights()


class Closed(BaseHTTPRequestHandler):
    """A server that is well, and asks for ada:opensesame1815 for all but its health."""

    def do_GET(self) -> None:
        known = self.headers.get("Authorization") == "Basic YWRhOm9wZW5zZXNhbWUxODE1"
        self.send_response(200 if known or self.path.endswith("/health") else 401)
        self.end_headers()
        well = b"true" if self.path.startswith("/api") else b"OK"
        self.wfile.write(well if self.path.endswith("/health") else b"{}")

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def closed() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Closed)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def test_a_server_that_asks_for_another_password_is_named(closed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", closed)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    for password in (None, "wrong"):
        if password:
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        with pytest.raises(UserError, match=r"MLflow at .* asks for a password.* MLFLOW_TRACKING_PASSWORD"):
            check_mlflow()
        with (
            temporary_settings({PREFECT_API_URL: f"{closed}/api", PREFECT_API_AUTH_STRING: password}),
            pytest.raises(UserError, match=r"Prefect at .* asks for a password.* PREFECT_API_AUTH_STRING \(USER"),
        ):
            check_prefect()
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "opensesame1815")
    assert check_mlflow() == f"{closed}/health answers"
    with temporary_settings({PREFECT_API_URL: f"{closed}/api", PREFECT_API_AUTH_STRING: "ada:opensesame1815"}):
        assert check_prefect() == f"{closed}/api/health answers"


def test_up_beside_servers_with_another_password_ends_in_a_line(closed: str) -> None:
    local._check_password(f"{closed}/api/admin/version", "ada:opensesame1815", "Prefect")
    with pytest.raises(UserError, match=r"Prefect runs with another password\. Set the one"):
        local._check_password(f"{closed}/api/admin/version", "grayline:other", "Prefect")
