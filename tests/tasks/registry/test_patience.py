"""An error is not an answer: "there is no champion" is what MLflow says itself, and nothing else."""

import json
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from flows.machine.doctor import check_mlflow
from resnet_core.errors import UserError
from tasks.registry import patience
from tasks.registry.patience import RegistryError
from tasks.registry.runs import client
from tasks.registry.versions import by_alias, check_model

MODEL = {"registered_model": {"name": "cats", "aliases": [{"alias": "champion", "version": "3"}]}}
VERSION = {"model_version": {"name": "cats", "version": "3", "run_id": "r"}}
MISSING = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Registered Model with name=cats not found"}
LOGIN = "<html><form action=/login></form></html>"
TROUBLES = {
    "403 of a proxy": (403, LOGIN),
    "403 in JSON": (403, json.dumps({"message": "your session has ended"})),
    "a proxy's own 404": (404, "404 page not found"),
    "a gateway's 404 in JSON": (404, json.dumps({"error_code": 404, "message": "no route"})),
    "500": (500, "oops"),
    "500 in JSON": (500, json.dumps({"error_code": "INTERNAL_ERROR", "message": "database is locked"})),
    "503": (503, ""),
    "401": (401, "who are you"),
    "a login page": (200, LOGIN),
    "half an answer": (200, json.dumps(MODEL)[:-20]),
    "an empty answer": (200, ""),
    "an empty object": (200, "{}"),
    "a closed line": (0, ""),
}


class Server:
    """Answers as told, then as MLflow does."""

    def __init__(self) -> None:
        self.first: list[tuple[int, str]] = []
        self.then = (200, json.dumps(MODEL))
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = server.first.pop(0) if server.first else server.then
                if "model-versions" in self.path:
                    status, body = 200, json.dumps(VERSION)
                if not status:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(patience, "LONGEST", 0.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    made = Server()
    yield made
    made.http.shutdown()


@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_is_not_an_answer(trouble: str, server: Server) -> None:
    server.then = TROUBLES[trouble]
    with pytest.raises(RegistryError) as raised:
        by_alias(server.uri, "cats", "champion")
    assert server.uri in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "<html>" not in str(raised.value)


@pytest.mark.parametrize("trouble", [name for name in TROUBLES if "empty" not in name])
def test_trouble_that_passes_is_nothing(trouble: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "LONGEST", 5.0)
    server.first = [TROUBLES[trouble]]
    found = by_alias(server.uri, "cats", "champion")
    assert found is not None
    assert (found.name, found.version) == ("cats", "3")


def test_what_mlflow_says_is_believed(server: Server) -> None:
    assert by_alias(server.uri, "cats", "challenger") is None
    server.then = (404, json.dumps(MISSING))
    assert by_alias(server.uri, "cats", "champion") is None
    server.then = (400, json.dumps({"error_code": "INVALID_PARAMETER_VALUE", "message": "a defect"}))
    with pytest.raises(MlflowException, match="a defect"):
        by_alias(server.uri, "cats", "champion")


def test_a_locked_database_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client(uri).create_registered_model("cats")
    with closing(sqlite3.connect(tmp_path / "mlflow.db", check_same_thread=False)) as other:
        other.execute("begin exclusive")
        threading.Timer(1.5, other.rollback).start()
        began = time.monotonic()
        assert by_alias(uri, "cats", "champion") is None
        assert time.monotonic() - began > 1
    check_model(uri, "cats")


def test_a_login_page_is_not_a_healthy_server(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    server.then = (200, LOGIN)
    with pytest.raises(UserError, match="MLflow does not answer at"):
        check_mlflow()
    server.then = (200, "OK")
    assert check_mlflow().endswith("answers")
