"""Deployments: those of prefect.yaml, the work pool that runs them, and runs by name."""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from flows.stack.api import Api
from flows.stack.processes import call, say
from resnet_core.credentials import public
from resnet_core.errors import UserError, plural

_HOME = Path(__file__).resolve().parents[2]


def shipped(name: str) -> Path:
    """Return the path of prefect.yaml or of what lies under data/: in a clone, or within `grayline` in a wheel."""
    installed = _HOME / "grayline" / "_shipped" / name
    return installed if installed.exists() else _HOME / name


PREFECT_YAML = shipped("prefect.yaml")
POOL = "grayline"
NIGHTLY = "nightly-retrain"
_OLD_LIMIT = {"collision_strategy": "CANCEL_NEW"}  # that an earlier release gave the nightly, with one slot


def deployment_names() -> list[str]:
    """Return the names in prefect.yaml."""
    content = yaml.safe_load(PREFECT_YAML.read_text(encoding="utf-8"))
    return [deployment["name"] for deployment in content["deployments"]]


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


def deploy(folder: Path, env: Mapping[str, str], api: Api, datasets: Sequence[Path] = ()) -> None:
    """Make the work pool and every deployment of prefect.yaml, or bring them up to date.

    Schedules, parameters and pauses that a person has set stay. datasets: data set files, each to have a schedule.
    """
    template = folder / "pool.json"
    template.write_text(json.dumps(pool_template(Path.cwd())), encoding="utf-8")
    pool = ["work-pool", "create", POOL, "--type", "process", "--base-job-template", str(template), "--overwrite"]
    call(folder, "work-pool", pool, env)
    pools = {"work_pools": {"name": {"any_": [POOL]}}}
    there = {deployment["name"]: deployment for deployment in api.all("/deployments/filter", pools)}
    for name, before in there.items():
        limit = before["global_concurrency_limit"]
        if limit and (limit["limit"], before["concurrency_options"]) == (1, _OLD_LIMIT):
            api.ask(f"/deployments/{before['id']}", {"concurrency_limit": None}, "PATCH")
            say(f"{name}: the limit of one run goes; a data set has one night at a time by a lock")
    merged = folder / "prefect.yaml"
    merged.write_text(yaml.safe_dump(merge(there, datasets), sort_keys=False, allow_unicode=True), encoding="utf-8")
    call(folder, "deploy", ["deploy", "--all", "--prefect-file", str(merged)], env)


def deploy_there(datasets: Sequence[Path]) -> None:
    """Make everything on the Prefect server of the environment. Raises UserError without one."""
    from prefect.settings import get_current_settings

    server = get_current_settings().api
    if not server.url:
        raise UserError("deploy: no Prefect server is set. Set PREFECT_API_URL, or run `grayline up` for a local one.")
    password = server.auth_string.get_secret_value() if server.auth_string else ""
    with tempfile.TemporaryDirectory(prefix="grayline-") as scratch:
        deploy(Path(scratch), os.environ, Api(server.url, password), datasets)
    say(f"{plural(len(deployment_names()), 'deployment')} on {public(server.url)}, in the pool {POOL}.")
    say(f"On each machine that is to run them, in this folder: prefect worker start --pool {POOL} --type process")


def merge(there: Mapping[str, dict[str, Any]], datasets: Sequence[Path]) -> dict[str, Any]:
    """Return prefect.yaml with what the server has been told by people, and a schedule for each data set.

    there: the server's deployments by name.
    """
    content: dict[str, Any] = yaml.safe_load(PREFECT_YAML.read_text(encoding="utf-8"))
    for deployment in content["deployments"]:
        example = list(deployment.get("schedules", []))
        if before := there.get(deployment["name"]):
            _keep(deployment, before)
        if deployment["name"] == NIGHTLY:
            _schedule(deployment, datasets, example[0])
    return content


def _keep(deployment: dict[str, Any], before: dict[str, Any]) -> None:
    """Give a deployment what the server has of it, and print what differs from prefect.yaml."""
    schedules = [_as_yaml(schedule) for schedule in before["schedules"]]
    differs = []
    if schedules != deployment.get("schedules", []):
        differs.append("schedule " + (", ".join(map(_schedule_text, schedules)) or "none"))
    if before["parameters"] != deployment.get("parameters", {}):
        differs.append("parameters " + json.dumps(before["parameters"], ensure_ascii=False))
    if before["paused"]:
        differs.append("paused")
    if differs:
        say(f"{deployment['name']} keeps what was set: {'; '.join(differs)}")
    deployment |= {"schedules": schedules, "parameters": before["parameters"], "paused": before["paused"]}


def _as_yaml(schedule: dict[str, Any]) -> dict[str, Any]:
    """Return a schedule of the server's as prefect.yaml has it."""
    own = {key: schedule.get(key) for key in ("slug", "parameters", "max_scheduled_runs")}
    when = {key: value for key, value in schedule["schedule"].items() if (key, value) != ("day_or", True)}
    return {key: value for key, value in (when | own).items() if value} | {"active": schedule["active"]}


def _schedule_text(schedule: dict[str, Any]) -> str:
    when = next((f"{key} {schedule[key]}" for key in ("cron", "interval", "rrule") if key in schedule), "")
    dataset = schedule.get("parameters", {}).get("dataset", "")
    return " ".join(filter(None, (when, schedule.get("timezone"), dataset, "" if schedule["active"] else "(off)")))


def check_files(datasets: Sequence[Path]) -> None:
    """Raise UserError for a data set file that cannot be one, before anything is started."""
    if datasets:
        from tasks.dataset import load_dataset  # PyTorch: other commands ask this module for the pool's name alone

        for file in datasets:
            load_dataset(str(file))


def _schedule(nightly: dict[str, Any], datasets: Sequence[Path], example: dict[str, Any]) -> None:
    """Add a schedule like the example for each data set that has none; the example itself is off, and goes."""
    if not datasets:
        return
    from tasks.dataset import load_dataset  # PyTorch: other commands ask this module for the pool's name alone

    nightly["schedules"] = [schedule for schedule in nightly["schedules"] if schedule != example]
    known = {schedule.get("parameters", {}).get("dataset"): schedule for schedule in nightly["schedules"]}
    for file in datasets:
        name = load_dataset(str(file)).name
        added = example | {"active": True, "slug": name, "parameters": {"dataset": str(file)}}
        if str(file) not in known:
            nightly["schedules"].append(added)
        say(f"{name}: its nights are {_schedule_text(known.get(str(file), added))}")
