"""The examples under deploy/ and compose.yaml: every setting exists, every file is there, units are valid."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.stack.__main__ import main
from tasks.settings import variables

HOME = Path(__file__).parents[1]
DEPLOY = HOME / "deploy"
COMPOSE = yaml.safe_load((HOME / "compose.yaml").read_text())
# Variables of the libraries that the examples set beside settings.
FOREIGN = {"PREFECT_SERVER_ENCRYPTION_KEY", "XDG_STATE_HOME", "POSTGRES_PASSWORD", "PREFECT_NAME", "MLFLOW_NAME"}
FOREIGN |= {"GRAYLINE_SETTINGS", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


@pytest.mark.parametrize("name", ["team.toml", "worker.toml"])
def test_a_settings_file_of_the_examples_has_known_keys(name: str) -> None:
    content = tomllib.loads((DEPLOY / name).read_text())
    others = content.pop("environment")
    assert set(content) <= set(variables())
    assert set(others) <= FOREIGN | set(variables().values())


def manifests() -> list[dict[str, Any]]:
    return [part for path in sorted(DEPLOY.glob("kubernetes/*.yaml")) for part in yaml.safe_load_all(path.read_text())]


def named(part: Any) -> Iterator[str]:
    """The variables that a manifest sets."""
    if isinstance(part, dict):
        for entry in part.get("env", []):
            yield entry["name"]
        for value in part.values():
            yield from named(value)
    elif isinstance(part, list):
        for value in part:
            yield from named(value)


def test_containers_are_given_settings_that_exist() -> None:
    given = {name for service in COMPOSE["services"].values() for name in service.get("environment", {})}
    given |= set(named(manifests()))
    assert len(given) >= 10
    assert given <= FOREIGN | set(variables().values())
    assert {part["kind"] for part in manifests()} == {"CronJob", "Deployment"}


def test_every_file_that_the_examples_mount_or_copy_is_there() -> None:
    mounted = [volume for service in COMPOSE["services"].values() for volume in service.get("volumes", [])]
    for place in (volume.partition(":")[0] for volume in mounted if volume.startswith("./")):
        assert (HOME / place).exists(), place
    dockerfile = (HOME / "Dockerfile").read_text()
    assert "requirements.lock" in dockerfile
    assert "-c /tmp/pins '.[" in dockerfile  # the extras' versions are locked: resolved anew, they take hours
    for name in re.findall(r"requirements[\w-]*\.lock", dockerfile):
        assert (HOME / name).exists(), name
    for page in re.findall(r"\]\(([^):#]+)[^)]*\)", (DEPLOY / "README.md").read_text()):
        assert page.startswith("http") or (DEPLOY / page).exists(), page


def commands() -> list[list[str]]:
    """What systemd, Compose and Kubernetes run of `flows.stack`."""
    units = [
        re.search(r"^ExecStart=(.*)$", path.read_text(), re.M)[1].split() for path in DEPLOY.glob("systemd/*.service")
    ]  # type: ignore[index]
    services = COMPOSE["services"].values()
    composed = [[*service["entrypoint"], *service["command"]] for service in services if "entrypoint" in service]
    pods = [
        part["spec"]["template"]["spec"]["containers"][0]["command"]
        for part in manifests()
        if part["kind"] == "Deployment"
    ]
    return [words[words.index("flows.stack") + 1 :] for words in (*units, *composed, *pods) if "flows.stack" in words]


def test_every_process_is_one_that_the_stack_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[str] = []
    monkeypatch.setattr("flows.stack.__main__.serve", lambda name, files=(): served.append(name))
    monkeypatch.setattr("flows.stack.__main__.prepare_environment", lambda: None)
    for words in commands():
        monkeypatch.setattr("sys.argv", ["flows.stack", *(re.sub(r"\$\{\w+:-(.*)\}", r"\1", word) for word in words)])
        main()
    assert sorted(served) == ["mlflow", "mlflow", "prefect", "prefect", "worker", "worker", "worker"]


def test_kubernetes_takes_the_manifests() -> None:
    check = [sys.executable, "-m", "kubernetes_validate", "--strict", *sorted(DEPLOY.glob("kubernetes/*.yaml"))]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count(" passed for resource ") == len(manifests())


def test_compose_takes_its_file(tmp_path: Path) -> None:
    """By the schema of the Compose specification, and by Docker's or Debian's program where it is installed."""
    check = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        str(HOME / "compose.yaml"),
    ]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    if program := shutil.which("docker-compose"):
        keys = ("POSTGRES_PASSWORD", "PREFECT_PASSWORD", "MLFLOW_PASSWORD", "ENCRYPTION_KEY")
        command = [program, "--file", str(HOME / "compose.yaml"), "config", "--quiet"]
        for given, status in ((os.environ | dict.fromkeys(keys, "a password of tests"), 0), (os.environ, 1)):
            done = subprocess.run(command, env=given, cwd=tmp_path, capture_output=True, text=True)
            assert done.returncode == status, done.stderr
        assert "set it in .env" in done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """Paths of the programs are those of this machine: systemd looks whether they are there."""
    for path in DEPLOY.glob("systemd/*"):
        text = (
            path.read_text()
            .replace("/opt/grayline/bin/python", "/bin/true")
            .replace("/opt/grayline/bin/grayline", "/bin/true")
        )
        (tmp_path / path.name.replace("@", "@parts")).write_text(text)
    units = [str(path) for path in tmp_path.iterdir()]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
