"""Servers are asked before a command reads anything."""

import socket

import pytest

from flows.doctor import check_mlflow
from resnet_core.errors import UserError


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
