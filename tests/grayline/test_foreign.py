"""Other packages called `tasks`, `flows` or `resnet_core`: a line that names them, not an import error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HOME = Path(__file__).parents[2]


def run(folder: Path, *code: str) -> subprocess.CompletedProcess[str]:
    """Python with `folder` before Grayline on its path, as the current folder is in a notebook."""
    env = {"PYTHONPATH": f"{folder}:{HOME}", "PATH": os.environ["PATH"]}
    return subprocess.run([sys.executable, *code], cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["tasks", "flows", "resnet_core"])
def test_a_package_of_the_same_name_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    done = run(tmp_path, "-m", "grayline", "--version")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert f"another package {name!r} hides Grayline's: found {tmp_path / name}" in done.stderr
    used = run(tmp_path, "-c", "import grayline; grayline.load")
    assert f"another package {name!r} hides Grayline's" in used.stderr.splitlines()[-1]


def test_a_module_and_a_folder_without_an_init_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "flows").mkdir()  # no package: the installed one wins
    assert run(tmp_path, "-m", "grayline", "--version").stdout.startswith("grayline ")
    (tmp_path / "tasks.py").touch()
    assert "another package 'tasks'" in run(tmp_path, "-m", "grayline", "--version").stderr
