"""Other versions of the dependencies: `python -m tests.other_versions highest` or `lowest-direct`.

`make test-latest` takes the newest releases, past those of the lock; `make test-floors` the oldest ones that
pyproject.toml allows. uv resolves and installs them into an environment of its own, `.venv-RESOLUTION`. Then it runs a
quick part of the suite, and lets both environments go on from the store of the other: migrations of Prefect's and
MLflow's databases, as an upgrade meets them.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HOME = Path(__file__).parents[1]
UV = "uv==0.13.9"
EXTRAS = "dicom,lake,postgres,s3,samples,sign,tune"
TOOLS = ("hypothesis", "moto[server]", "mypy", "polars", "pytest", "scikit-image", "setuptools", "timm")
NAMES = ("prefect", "mlflow", "torch", "torchvision", "pyarrow", "duckdb", "pandas", "pydantic", "pillow", "numpy")
# A minute or two: every wing, real nights, the registry, and a store of an earlier release.
QUICK = (
    "tests/flows/test_nightly.py", "tests/flows/test_registry.py", "tests/flows/stack", "tests/old_version",
    "tests/tasks/access", "tests/tasks/watch", "tests/tasks/registry", "tests/tasks/sinks",
    "tests/tasks/ingest/test_catalog.py", "tests/resnet_core/catalog", "tests/resnet_core/shards",
    "tests/resnet_core/storage", "tests/resnet_core/drift", "tests/resnet_core/images/test_damaged.py",
    "tests/resnet_core/test_policy.py", "tests/grayline",
)  # fmt: skip


def say(text: str) -> None:
    sys.stdout.write(f"versions    {text}\n")
    sys.stdout.flush()


def install(resolution: str, folder: Path) -> None:
    """Install the project. The tests' own tools have no floors: the lowest ones are installed without them first."""
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    subprocess.run([folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", UV], check=True)
    uv = [folder / "bin" / "uv", "pip", "install", "--quiet", "--python", folder / "bin" / "python"]
    if resolution == "lowest-direct":
        subprocess.run([*uv, "--resolution", resolution, "-e", f".[{EXTRAS}]"], cwd=HOME, check=True)
        subprocess.run([*uv, *TOOLS], cwd=HOME, check=True)
    else:
        subprocess.run([*uv, "-e", f".[dev,{EXTRAS}]"], cwd=HOME, check=True)


def versions(python: Path) -> dict[str, str]:
    code = f"from importlib.metadata import version\nfor n in {NAMES!r}: print(n, version(n))"
    lines = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.split("\n")
    return dict(line.split() for line in lines if line)  # type: ignore[misc]


def exchange(first: Path, second: Path) -> None:
    """The second environment goes on with a store of the first: a night, a batch, a promotion."""
    with tempfile.TemporaryDirectory() as folder:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("GRAYLINE", "PREFECT", "MLFLOW"))
        }
        env = kept | {"GRAYLINE_STORE": f"{folder}/store", "OMP_NUM_THREADS": "1"}

        def run(python: Path, *words: str) -> None:
            command = [python, "-m", "flows.cli.app", *words]
            code = f"import sys; sys.argv = {['grayline', *words]!r}; from flows.cli.app import main; main()"
            done = subprocess.run(
                [python, "-c", code],
                cwd=folder,
                env=env | {"PYTHONPATH": str(HOME)},
                check=False,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                sys.exit(f"{command}: status {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")

        run(first, "demo", "--dataset", "digits")
        data = str(HOME / "data" / "digits.yaml")
        run(second, "retrain", "--dataset", data)
        run(second, "classify-batch", "--source", "data/raw/digits", "--output", "scores")
        run(second, "history", "digits")
        backups = sorted(path.name for path in Path(folder, "store", "backups").glob("*.db"))
        copied = ", ".join(backups) or "nothing, for the versions are equal"
        say(f"a store of {first} goes on with {second}; copied first: {copied}")


def main() -> None:
    resolution = sys.argv[1] if sys.argv[1:] in (["highest"], ["lowest-direct"]) else sys.exit(__doc__)
    folder = HOME / f".venv-{'latest' if resolution == 'highest' else 'floors'}"
    install(resolution, folder)
    python, locked = folder / "bin" / "python", Path(sys.executable)
    say(", ".join(f"{name} {number}" for name, number in versions(python).items()))
    tests = [python, "-m", "pytest", "-q", "-m", "not e2e and not onnx and not tensorflow and not gpu", *QUICK]
    done = subprocess.run(tests, cwd=HOME, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
    if done.returncode:
        sys.exit(f"versions    {resolution}: the tests failed; {folder} stays")
    old, new = (python, locked) if resolution == "lowest-direct" else (locked, python)
    exchange(old, new)
    shutil.rmtree(folder)
    say(f"{resolution}: all is right")


if __name__ == "__main__":
    main()
