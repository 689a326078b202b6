"""An installed wheel has what a clone has beside its packages: deployments, data set files, samples."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

HOME = Path(__file__).parents[3]


@pytest.mark.e2e
def test_a_wheel_works_outside_of_the_clone(tmp_path: Path) -> None:
    clone = tmp_path / "clone"  # setuptools leaves build/ and an egg-info where it builds
    files = subprocess.run(["git", "ls-files", "-z"], cwd=HOME, check=True, capture_output=True, text=True).stdout
    for name in files.split("\0"):
        if name and not name.startswith(("tests/", "docs/", "benchmarks/")):
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            (clone / name).write_bytes((HOME / name).read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(tmp_path), "."]
    subprocess.run(build, cwd=clone, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("prefect.yaml", "data/elpv.yaml", "data/samples/digits.py"):
        assert f"grayline/_shipped/{name}" in names
    assert {f"{package}/py.typed" for package in ("grayline", "flows", "tasks", "resnet_core")} <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "from flows.cli.app import main; from flows.stack.deployments import deployment_names; import sys, flows;"
        "assert 'site' in flows.__file__; assert 'nightly-retrain' in deployment_names(); main()"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, "sample", "digits", "--to", "digits"],
        cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "site"), "PATH": ""}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "digits" / "images").iterdir())) == 1797
