"""`import grayline`: the promised names, and docs/python.md, whose code runs as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import grayline

DOCS = Path(__file__).parents[2] / "docs"
NAMES = {
    "JobError", "Model", "Night", "Prediction", "Scores", "Trained", "UserError", "classify_batch", "load", "retrain",
    "train", "__version__",
}  # fmt: skip


def test_the_promised_names_are_there_and_documented() -> None:
    assert set(grayline.__all__) == NAMES
    page = (DOCS / "python.md").read_text(encoding="utf-8")
    for name in NAMES:
        assert getattr(grayline, name) is not None
        assert name in page, name
    with pytest.raises(AttributeError, match="It has: JobError"):
        grayline.predict  # noqa: B018


def test_importing_it_imports_nothing_else() -> None:
    code = "import grayline, sys; print([m for m in ('torch', 'mlflow', 'prefect', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_prefect_and_mlflow_keep_their_files_in_the_store(tmp_path: Path) -> None:
    code = (
        "import grayline; grayline.Night; from prefect.settings import get_current_settings as s;"
        "import os; print(s().home); print(os.environ['DO_NOT_TRACK'])"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "MLFLOW", "DO_NOT"))}
    env |= {"GRAYLINE_STORE": str(tmp_path / "store"), "PYTHONPATH": str(DOCS.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(tmp_path / "store" / "prefect"), "true"]


def test_mypy_reads_the_types_of_an_installed_package(tmp_path: Path) -> None:
    """`pip install -e` wrote a hook that mypy and editors do not follow."""
    (tmp_path / "user.py").write_text("import grayline\n\ngrayline.retrain(3)\n", encoding="utf-8")
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    home = DOCS.parent  # its settings, so that its cache can be used: a user's first check takes a minute
    given = ("--config-file", home / "pyproject.toml", "--cache-dir", home / ".mypy_cache")
    command = [sys.executable, "-m", "mypy", *given, "user.py"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert 'Argument 1 to "retrain" has incompatible type "int"; expected "str | Path"' in done.stdout


def test_a_password_in_a_path_stays_out_of_the_answer() -> None:
    from resnet_core.images.preprocessing import Preprocessing
    from resnet_core.inference.single import read_images

    names, (read,) = read_images(Preprocessing(size=8), ["https://me:opensesame77@127.0.0.1:9/a.png"])
    assert names == ["https://127.0.0.1:9/a.png"]
    assert read.reason is not None
    assert "opensesame77" not in read.reason.text


@pytest.mark.e2e
def test_the_page_runs_as_it_stands(tmp_path: Path) -> None:
    """The blocks of docs/python.md, in order, in one process, on the digits."""
    page = (DOCS / "python.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    code += "\nprint(night._repr_html_().count('data:image/png'), 'plots')"
    sample = [sys.executable, "-m", "flows.cli.app", "sample", "digits", "--to", "data/raw/digits"]
    home = {"GRAYLINE_STORE": str(tmp_path / "store"), "PYTHONPATH": str(DOCS.parent)}
    env = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL")} | home
    subprocess.run(sample, cwd=tmp_path, env=env, check=True, capture_output=True)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["a table of Parquet files: 1797 rows", "2 plots"]
