"""Deployments: those of prefect.yaml, the work pool that runs them, and runs by name."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from flows.shipped import shipped
from flows.stack.processes import call
from resnet_core.errors import UserError, nearest

PREFECT_YAML = shipped("prefect.yaml")
POOL = "grayline"


def deployment_names() -> list[str]:
    """Return the names in prefect.yaml."""
    content = yaml.safe_load(PREFECT_YAML.read_text(encoding="utf-8"))
    return [deployment["name"] for deployment in content["deployments"]]


def run_deployment(name: str, parameters: list[str], watch: bool) -> int:
    """Run `prefect deployment run NAME/NAME`; return its exit status. Raises UserError for wrong input."""
    from prefect.settings import get_current_settings

    names = deployment_names()
    name = name.split("/")[0]
    if name not in names:
        raise UserError(f"run: unknown deployment {name!r}.{nearest(name, names)} Known: {', '.join(names)}.")
    for parameter in parameters:
        if "=" not in parameter:
            raise UserError(f"--param: {parameter!r} is not key=value, as in --param source=data/raw/elpv.")
    if not get_current_settings().api.url:
        raise UserError("run: no Prefect server is set. Run `make up` in this folder, or set PREFECT_API_URL.")
    options = [word for parameter in parameters for word in ("--param", parameter)]
    command = [sys.executable, "-m", "prefect", "deployment", "run", f"{name}/{name}", *options]
    return subprocess.call([*command, "--watch"] if watch else command)


def pool_template(working_dir: Path) -> dict[str, Any]:
    """Return the work pool's template: command, environment and folder are fixed, so that no run can set them."""
    return {
        "job_configuration": {
            "command": None,
            "env": {"PREFECT_LOGGING_EXTRA_LOGGERS": "grayline"},
            "labels": {},
            "name": "{{ name }}",
            "stream_output": True,
            "working_dir": str(working_dir),
        },
        "variables": {
            "type": "object",
            "properties": {"name": {"type": "string", "description": "Name of the run's process."}},
            "additionalProperties": False,
        },
    }


def deploy(folder: Path, env: Mapping[str, str]) -> None:
    """Make the work pool and every deployment of prefect.yaml, or bring them up to date."""
    template = folder / "pool.json"
    template.write_text(json.dumps(pool_template(Path.cwd())), encoding="utf-8")
    pool = ["work-pool", "create", POOL, "--type", "process", "--base-job-template", str(template), "--overwrite"]
    call(folder, "work-pool", pool, env)
    call(folder, "deploy", ["deploy", "--all", "--prefect-file", str(PREFECT_YAML)], env)
