"""Names of runs say what is worked on and when, so that a list of runs can be read."""

import re
from pathlib import Path

import pytest

from tasks.runner import run_name


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"dataset": "a/line 7.yaml"}, "parts"),
        ({"dataset": "a/none.yaml"}, "none"),
        ({"source": "/srv/images/new/", "model": "parts@champion"}, "new"),
        ({"source": "https://me:opensesame@127.0.0.1/x.tar"}, "x"),
        ({"model": "parts/3", "output": "x.onnx"}, "parts/3"),
        ({"name": "parts", "version": None}, "parts"),
        ({"source": "/srv/\u202eevil"}, "\\u202eevil"),
        ({}, ""),
    ],
)
def test_a_run_is_named_by_its_data_set_and_date(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: dict[str, str], name: str
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "line 7.yaml").write_text("# parts of line 7\nname: 'parts'\nsource: x\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tasks.runner.flow_run", type("Run", (), {"parameters": given}))
    assert re.fullmatch(rf"{re.escape(name)} ?\d{{4}}-\d\d-\d\d \d\d:\d\d", run_name()), run_name()
