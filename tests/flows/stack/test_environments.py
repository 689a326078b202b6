"""What the servers, the worker and its runs are given. Servers get no keys, and runs no secrets of the servers."""

from pathlib import Path

import pytest

from flows.stack.environments import for_mlflow, for_prefect, for_runs, server_commands
from tasks.access.passwords import Access
from tasks.settings import Settings

ACCESS = Access("grayline:of-prefect-123", "grayline:of-mlflow-1234")
SECRETS = {
    "GRAYLINE_KEYS": "2026 = key",
    "GRAYLINE_KEY_FILE": "/keys",
    "GRAYLINE_SIGNING_KEY": "/private.pem",
    "AWS_SECRET_ACCESS_KEY": "of-s3",
    "MY_TOKEN": "mine",
}


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, str]]:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PREFECT_SERVER_ENCRYPTION_KEY", "of-blocks")
    settings = Settings()
    return {
        "prefect": for_prefect(settings, ACCESS, public=False),
        "mlflow": for_mlflow(settings, ACCESS, tmp_path, public=False),
        "runs": for_runs(settings, ACCESS),
        "commands": {name: " ".join(words) for name, words in server_commands(settings).items()},
    }


def test_servers_get_no_keys_and_no_credentials_of_the_user(given: dict[str, dict[str, str]]) -> None:
    for server in ("prefect", "mlflow"):
        assert not SECRETS.keys() & given[server].keys()
        assert {"PATH", "HOME"} <= given[server].keys()
    assert "of-mlflow-1234" not in " ".join(given["prefect"].values())
    assert "of-prefect-123" not in " ".join(given["mlflow"].values())
    assert "of-blocks" not in " ".join(given["mlflow"].values())


def test_runs_get_what_their_user_has_and_the_way_in_alone(given: dict[str, dict[str, str]]) -> None:
    runs = given["runs"]
    assert runs.items() >= SECRETS.items()
    assert runs.items() >= ACCESS.client().items()
    assert not {"PREFECT_SERVER_ENCRYPTION_KEY", "PREFECT_SERVER_API_AUTH_STRING"} & runs.keys()


def test_no_command_has_a_password(given: dict[str, dict[str, str]]) -> None:
    assert not [line for line in given["commands"].values() if "of-" in line]


def test_both_servers_are_told_their_own_names_alone(given: dict[str, dict[str, str]]) -> None:
    assert given["prefect"]["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"].startswith("http://127.0.0.1:4200,")
    assert given["mlflow"]["MLFLOW_SERVER_ALLOWED_HOSTS"] == "127.0.0.1:5000,localhost:5000,[::1]:5000"
    assert "*" not in given["mlflow"]["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"]
