"""Deployments: their names, and running one on the Prefect server by its bare name."""

import subprocess
import sys
from pathlib import Path

import yaml

from resnet_core.errors import UserError, nearest

PREFECT_YAML = Path(__file__).resolve().parents[1] / "prefect.yaml"


def deployment_names() -> list[str]:
    content = yaml.safe_load(PREFECT_YAML.read_text(encoding="utf-8"))
    return [deployment["name"] for deployment in content["deployments"]]


def run_deployment(name: str, parameters: list[str], watch: bool) -> int:
    """Hand over to Prefect's own command, which wants FLOW/DEPLOYMENT; returns its exit status."""
    from prefect.settings import get_current_settings

    known = deployment_names()
    name = name.split("/")[0]
    if name not in known:
        raise UserError(f"run: no deployment {name!r}.{nearest(name, known)} There are: {', '.join(known)}.")
    for parameter in parameters:
        if "=" not in parameter:
            raise UserError(f"--param: {parameter!r} is no key=value, as in --param source=data/raw/elpv.")
    if not get_current_settings().api.url:
        raise UserError("run: no Prefect server is known. Run `make up` in this folder, or set PREFECT_API_URL.")
    options = [word for parameter in parameters for word in ("--param", parameter)]
    command = [sys.executable, "-m", "prefect", "deployment", "run", f"{name}/{name}", *options]
    return subprocess.call([*command, "--watch"] if watch else command)
