"""Messages about what is not there: they name the store, and make nothing."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.app import app, main
from flows.cli.options import public_words
from resnet_core.credentials import forget, opened
from resnet_core.errors import UserError
from resnet_core.policy import check_protocol, policy
from resnet_core.shards.encryption import load_keys
from tasks.registry.integrity import sign, verify
from tasks.settings import Settings, prepare_environment


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("GRAYLINE_STORE", str(tmp_path / "nothing"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "nothing"


@pytest.mark.parametrize(
    "command",
    [
        ["history", "parts"],
        ["report", "parts"],
        ["promote", "parts"],
        ["rollback", "parts", "3"],
        ["reproduce", "parts"],
        ["export", "parts", "--format", "torch", "-o", "x.pt2"],
        ["catalog", "log"],
        ["catalog", "diff", "1", "2", "--dataset", "parts"],
        ["gallery", "parts"],
        ["prune"],
        ["classify-batch", "--source", "new", "--model", "parts"],
    ],
    ids=" ".join,
)
def test_a_name_in_a_store_that_is_not_there_makes_none(store: Path, tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "a.png").write_bytes(b"x")
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, UserError), done.output
    assert str(store) in str(done.exception)
    assert "\n" not in str(done.exception)
    assert not store.exists()


def test_a_folder_given_as_a_data_set_file(store: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["ingest", "--dataset", str(tmp_path)])
    assert isinstance(done.exception, UserError)
    assert f"{tmp_path}: is a folder. Make a data set file" in str(done.exception)
    assert not store.exists()


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("prune --older-than x", "--older-than: must be a whole number, not 'x'."),
        ("classify-batch --source a --fail-over 2", "--fail-over: must be 1 or less, not '2'."),
        ("demo --dataset [/red]", "--dataset: '[/red]' is not one of 'elpv', 'digits'."),
        ("[/b]", "No such command '[/b]'. See `grayline --help`."),
        ("history", "Missing argument 'NAME'. See `grayline history --help`."),
        ("prune --nope", "No such option: --nope See `grayline prune --help`."),
        (
            "predict caf\udce9.png",
            "caf\\udce9.png: is not written in UTF-8. Name it so; `convmv -f latin1 -t utf8 --notest` renames.",
        ),
        ("prune --older-than=", "--older-than: is empty. Give a value; a variable of the shell may be unset."),
        ("classify-batch --source a --source=b", "--source: is given 2 times, and takes one value. Give it once."),
        ("compare a b --limit 2 --limit 3", "--limit: is given 2 times, and takes one value. Give it once."),
    ],
)
def test_a_wrong_command_line_is_one_line_in_plain_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, line: str
) -> None:
    monkeypatch.setattr("sys.argv", ["grayline", *command.split()])
    monkeypatch.setattr("flows.cli.app.prepare_environment", lambda: None)
    monkeypatch.setattr("flows.cli.app.show_log_lines", lambda form: None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"grayline: {line}\n"


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No secret is known, before and after; the environment is as it was."""
    before = dict(os.environ)
    forget()
    yield
    forget()
    os.environ.clear()
    os.environ.update(before)


def test_urls_typed_on_the_command_line_lose_their_secrets_and_may_be_opened(forgotten: None) -> None:
    words = [
        "--source",
        "http://me:geheim77@h/x",
        "--to=delta:s3://u:geheim88@b/t",
        "-p",
        "source=ftp://u:p@h/y",
        "a@b",
    ]
    shown = ["--source", "http://h/x", "--to=delta:s3://b/t", "-p", "source=ftp://h/y", "a@b"]
    assert public_words(words) == shown
    assert opened("http://h/x") == "http://me:geheim77@h/x"
    assert "h" in policy().private_hosts  # a person has typed it
    check_protocol("http://h/x")


@pytest.mark.parametrize(
    "value", ["http://me:geheim77@h/x", '["postgresql://u:geheim77@h/d"]', "https://h/x?sig=geheim77"]
)
def test_a_deployments_parameter_may_not_hold_a_secret(forgotten: None, value: str) -> None:
    done = CliRunner().invoke(app, public_words(["run", "classify-batch", "--param", f"source={value}"]))
    assert isinstance(done.exception, UserError)
    assert "secret:NAME" in str(done.exception)
    assert "geheim77" not in str(done.exception)


def test_settings_show_no_secret_and_mlflow_gets_its_own_variables(
    forgotten: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = tmp_path / "access"
    access.write_text("# the plant\nhttp://me:geheim77@h/images/\n")
    access.chmod(0o600)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAYLINE_ACCESS_FILE", str(access))
    monkeypatch.setenv("GRAYLINE_TUNE_STORAGE", "postgresql://u:geheim88@h/d")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:ge%23heim@mlflow.plant:5000/a")
    prepare_environment()
    assert "geheim" not in repr(Settings()) + str(Settings().model_dump())
    assert Settings().tracking_uri == "https://mlflow.plant:5000/a"
    assert (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == ("me", "ge#heim")
    assert opened(Settings().tuning_uri("x")) == "postgresql://u:geheim88@h/d"
    assert opened("http://h/images/1.png") == "http://me:geheim77@h/images/1.png"


@pytest.mark.parametrize(("text", "mode", "message"), [
    ("http://me:geheim77@h/x", 0o644, "Run: chmod 600"), ("geheim77", 0o600, "line 1 of .* is not a URL with a secret"),
])  # fmt: skip
def test_an_access_file_that_cannot_be(
    forgotten: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, mode: int, message: str
) -> None:
    (tmp_path / "access").write_text(text)
    (tmp_path / "access").chmod(mode)
    monkeypatch.setenv("GRAYLINE_ACCESS_FILE", str(tmp_path / "access"))
    with pytest.raises(UserError, match=message) as raised:
        prepare_environment()
    assert "geheim" not in str(raised.value)


@pytest.mark.parametrize("setting", ["GRAYLINE_SIGNING_KEY", "GRAYLINE_VERIFY_KEY", "GRAYLINE_KEY_FILE"])
def test_a_key_in_the_place_of_its_path_is_not_repeated(tmp_path: Path, setting: str) -> None:
    key = "k1 = Z2VoZWltZ2VoZWltZ2VoZWltZ2VoZWltZ2VoZWltZ2U=" if setting.endswith("FILE") else "-----BEGIN X-----\nZ2V"
    uses = {"GRAYLINE_SIGNING_KEY": sign, "GRAYLINE_VERIFY_KEY": verify}
    with pytest.raises(UserError, match=f"{setting}: holds a key itself") as raised:
        uses[setting](tmp_path, Path(key)) if setting in uses else load_keys(None, key)
    assert "Z2V" not in str(raised.value)
