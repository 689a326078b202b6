"""Passwords of the local stack: made once, for their owner alone, and shown to the stack's own servers alone."""

import json
import os
import stat
from pathlib import Path

import pytest

from resnet_core.errors import UserError
from tasks.access.passwords import OURS, USER, access_of, let_in, note_addresses

ADDRESSES = {"prefect": ["http://127.0.0.1:4200"], "mlflow": ["http://127.0.0.1:5000"]}
NAMES = ("PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")


@pytest.fixture
def password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    note_addresses(tmp_path, ADDRESSES)
    return access_of(tmp_path, None, (None, None)).prefect.partition(":")[2]


def shown(folder: Path, **environ: str) -> dict[str, str]:
    """The variables that `let_in` sets."""
    after = dict(environ)
    let_in(folder, after)
    return {name: value for name, value in after.items() if name not in environ}


def test_a_password_is_random_made_once_and_its_owners_alone(tmp_path: Path, password: str) -> None:
    file = tmp_path / "password"
    assert file.read_text() == password
    assert len(password) >= 32
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert access_of(tmp_path, None, (None, None)).client() == dict(
        zip(NAMES, (f"{USER}:{password}", USER, password), strict=True)
    )
    (tmp_path / "other").mkdir()
    assert access_of(tmp_path / "other", None, (None, None)).prefect != f"{USER}:{password}"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_password_that_others_may_know_is_refused(tmp_path: Path, password: str, mode: int) -> None:
    (tmp_path / "password").chmod(mode)
    with pytest.raises(UserError, match=r"others may know it\. Run `grayline down`, remove it"):
        access_of(tmp_path, None, (None, None))


def test_given_passwords_are_taken_and_written_nowhere(tmp_path: Path) -> None:
    access = access_of(tmp_path, "me:opensesame", ("ada", "opensesame1815"))
    assert (access.prefect, access.mlflow) == ("me:opensesame", "ada:opensesame1815")
    assert access.prefect_given
    assert access.mlflow_given
    assert "opensesame" not in "".join(file.read_text() for file in tmp_path.iterdir())
    half = access_of(tmp_path, "me:a:b", (None, None))  # a password may have a colon
    assert half.prefect == "me:a:b"
    assert half.mlflow == f"{USER}:{(tmp_path / 'password').read_text()}"
    assert not half.mlflow_given


@pytest.mark.parametrize(
    ("prefect", "mlflow", "message"),
    [
        ("", (None, None), "PREFECT_SERVER_API_AUTH_STRING: write USER:PASSWORD"),
        ("opensesame", (None, None), "PREFECT_SERVER_API_AUTH_STRING: write USER:PASSWORD"),
        ("me:", (None, None), "PREFECT_SERVER_API_AUTH_STRING: write USER:PASSWORD"),
        (":opensesame", (None, None), "PREFECT_SERVER_API_AUTH_STRING: write USER:PASSWORD"),
        (None, ("me", "opensesame"), "MLFLOW_TRACKING_PASSWORD: MLflow takes passwords of 12 characters"),
        (None, ("me", ""), "MLFLOW_TRACKING_PASSWORD: MLflow takes passwords of 12 characters"),
    ],
)
def test_a_password_that_a_server_would_refuse_is_named_and_not_shown(
    tmp_path: Path, prefect: str | None, mlflow: tuple[str | None, str | None], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        access_of(tmp_path, prefect, mlflow)
    assert "opensesame" not in str(error.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_a_command_gets_into_the_stacks_own_servers(tmp_path: Path, password: str, host: str) -> None:
    both = shown(tmp_path, PREFECT_API_URL=f"http://{host}:4200/api", MLFLOW_TRACKING_URI=f"http://{host}:5000/")
    assert both == dict(zip(NAMES, (f"{USER}:{password}", USER, password), strict=True))


@pytest.mark.parametrize("address", ["http://127.0.0.1:4201", "https://127.0.0.1:4200", "http://db:4200", "", "x"])
def test_no_other_server_is_shown_the_password(tmp_path: Path, password: str, address: str) -> None:
    assert shown(tmp_path, PREFECT_API_URL=address, MLFLOW_TRACKING_URI=address) == {}
    (tmp_path / "prefect.toml").write_text(f"{OURS}\n[api]\nauth_string = {json.dumps(f'{USER}:{password}')}\n")
    if address:  # Prefect would take the password of prefect.toml for the server of the variable
        assert shown(tmp_path, PREFECT_API_URL=address) == {"PREFECT_API_AUTH_STRING": ""}


def test_a_password_that_the_user_gives_stays(tmp_path: Path, password: str) -> None:
    theirs = {"PREFECT_API_AUTH_STRING": "me:x", "MLFLOW_TRACKING_TOKEN": "y"}
    addresses = {"PREFECT_API_URL": "http://127.0.0.1:4200/api", "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"}
    assert shown(tmp_path, **theirs, **addresses) == {}


@pytest.mark.skipif(os.getuid() == 0, reason="root may read every file")
def test_who_may_not_read_the_password_goes_on_without(tmp_path: Path, password: str) -> None:
    (tmp_path / "password").chmod(0)
    assert shown(tmp_path, PREFECT_API_URL="http://127.0.0.1:4200/api") == {}
