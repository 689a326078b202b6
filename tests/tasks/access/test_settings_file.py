"""Settings come from the environment or from grayline.toml, which others may not write."""

import os
from pathlib import Path

import pytest

from resnet_core.errors import UserError
from tasks.settings import Settings, prepare_environment, read_settings, variables


@pytest.fixture
def file(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """grayline.toml in the working folder; no variable of this test outlives it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.delenv("GRAYLINE_STORE")
    path = tmp_path / "grayline.toml"
    path.touch(mode=0o600)
    return path


def test_every_setting_may_stand_in_the_file_and_variables_win(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(
        'store = "elsewhere"\nkeep_days = 60\nprune_nightly = true\nlow_bytes = 1_000\nmax_seconds = 2.5\n'
        'mlflow_tracking_uri = "https://mlflow.example.com"\nprefect_api_auth_string = "me:geheim77"\n'
        '[environment]\nMY_PROFILE = "team"\n'
    )
    monkeypatch.setenv("GRAYLINE_KEEP_DAYS", "7")
    settings = read_settings()
    assert (settings.store, settings.keep_days, settings.prune_nightly) == ("elsewhere", 7, True)
    assert (settings.low_bytes, settings.max_seconds) == (1000, 2.5)
    assert settings.tracking_uri == "https://mlflow.example.com"
    assert settings.prefect_api_auth_string is not None
    assert settings.prefect_api_auth_string.get_secret_value() == "me:geheim77"
    prepare_environment()  # libraries and other processes read it, too
    assert os.environ["MLFLOW_TRACKING_URI"] == "https://mlflow.example.com"
    assert os.environ["PREFECT_API_AUTH_STRING"] == "me:geheim77"
    assert (os.environ["GRAYLINE_KEEP_DAYS"], os.environ["GRAYLINE_PRUNE_NIGHTLY"]) == ("7", "true")
    assert os.environ["MY_PROFILE"] == "team"


def test_the_file_may_be_named_and_lie_elsewhere(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.toml").write_text('store = "named"\n')
    monkeypatch.setenv("GRAYLINE_SETTINGS", str(tmp_path / "other.toml"))
    assert read_settings().store == "named"
    monkeypatch.setenv("GRAYLINE_SETTINGS", str(tmp_path / "none.toml"))
    with pytest.raises(UserError, match="GRAYLINE_SETTINGS: there is no file"):
        read_settings()


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        ("stor = 'x'", 0o600, r"unknown key 'stor'\. Did you mean 'store'"),
        ("store: x", 0o600, "cannot be read as TOML"),
        ("store = x", 0o600, "cannot be read as TOML"),
        ("keep_days = 'many'", 0o600, "grayline.toml: keep_days: .*whole number"),
        ("keep_days = 0", 0o600, "grayline.toml: keep_days: .*1 or more"),
        ("[store]\nx = 1", 0o600, "store must be a text"),
        ("environment = 3", 0o600, r"\[environment\] must hold lines"),
        ("[environment.x]\ny = 1", 0o600, r"\[environment\] must hold lines"),
        ("store = 'x'", 0o666, "others may write it.*chmod go-w"),
        ("store = 'x'", 0o620, "others may write it.*chmod go-w"),
        ("alerts = 'https://1.1.1.1'", 0o644, "it holds secrets.*chmod 600"),
        ("[environment]\nAWS_SECRET_ACCESS_KEY = 'x'", 0o644, "it holds secrets.*chmod 600"),
        ("\udcff", 0o600, "cannot be read as TOML"),
    ],
)
def test_a_wrong_file_is_one_line(text: str, mode: int, words: str, file: Path) -> None:
    file.write_bytes(text.encode(errors="surrogateescape"))
    file.chmod(mode)
    with pytest.raises(UserError, match=words) as error:
        read_settings()
    assert "\n" not in str(error.value)


def test_a_file_without_secrets_may_be_read_by_all(file: Path) -> None:
    file.write_text("keep_days = 60\n")
    file.chmod(0o644)
    assert read_settings().keep_days == 60


def test_every_setting_has_one_variable() -> None:
    assert len(set(variables().values())) == len(Settings.model_fields)
    assert variables()["store"] == "GRAYLINE_STORE"
    assert variables()["mlflow_tracking_uri"] == "MLFLOW_TRACKING_URI"
