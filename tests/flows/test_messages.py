"""Messages about what is not there: they name the store, and make nothing."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.app import app, main
from resnet_core.errors import UserError


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
    ],
)
def test_a_wrong_command_line_is_one_line_in_plain_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, line: str
) -> None:
    monkeypatch.setattr("sys.argv", ["grayline", *command.split()])
    monkeypatch.setattr("flows.cli.app.prepare_environment", lambda: None)
    monkeypatch.setattr("flows.cli.app.show_log_lines", lambda: None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"grayline: {line}\n"
