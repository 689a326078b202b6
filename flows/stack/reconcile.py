"""Reconcile: tell Prefect which runs have ended without a word, and drop nights that an outage has piled up.

A power cut, a killed worker or `down` leaves runs *Running* whose processes have ended. `up` does this before the
worker starts, `down` after the worker has ended. Without `up`, the automation on heartbeats does it within minutes.
"""

import json
import socket
from datetime import UTC, datetime
from typing import Any

import psutil

from flows.stack.api import Api
from flows.stack.processes import say

_RUN_ID = "PREFECT__FLOW_RUN_ID"  # in the environment of a run's process
_AT_WORK = ["RUNNING", "PENDING", "CANCELLING"]


def reconcile(api: Api, pool: str) -> None:
    """Mark runs of the pool that have no process as Crashed. Put back those that never began. Keep one missed night."""
    for run in lost_runs(api, pool):
        _end(api, run)
    for deployment, taken in stuck_slots(api, pool):
        limit = deployment["global_concurrency_limit"]
        api.ask(f"/v2/concurrency_limits/{limit['id']}", {"active_slots": taken}, "PATCH")
        say(f"{deployment['name']}: {limit['active_slots'] - taken} stuck of {limit['limit']} slots freed")
    _drop_missed(api, pool)


def lost_runs(api: Api, pool: str) -> list[dict[str, Any]]:
    """Return the runs that Prefect takes for alive and that have no process. Those of other machines are left out."""
    if online(api, pool) - {worker_name()}:
        return []
    alive = _runs_alive()
    runs = api.all("/flow_runs/filter", _of(pool, {"type": {"any_": _AT_WORK}}))
    return [run for run in runs if run["id"] not in alive]


def stuck_slots(api: Api, pool: str) -> list[tuple[dict[str, Any], int]]:
    """Return deployments whose limit counts more runs than there are, and the number that there is."""
    stuck = []
    for deployment in api.all("/deployments/filter", {"work_pools": {"name": {"any_": [pool]}}}):
        limit = deployment["global_concurrency_limit"]
        if not limit or not limit["active_slots"]:
            continue
        own = _of(pool, {"type": {"any_": _AT_WORK}}, deployment_id={"any_": [deployment["id"]]})
        taken = len(api.all("/flow_runs/filter", own))
        if taken < limit["active_slots"]:
            stuck.append((deployment, taken))
    return stuck


def worker_name() -> str:
    """Return the name of this machine's worker."""
    return f"grayline@{socket.gethostname()}"


def online(api: Api, pool: str) -> set[str]:
    """Return the names of the pool's workers that have told the server lately that they live."""
    workers = api.all(f"/work_pools/{pool}/workers/filter", {})
    return {worker["name"] for worker in workers if worker["status"] == "ONLINE"}


def _of(pool: str, state: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"flow_runs": {"state": state, **more}, "work_pools": {"name": {"any_": [pool]}}}


def _runs_alive() -> set[str]:
    """Return the ids of the flow runs that have a process on this machine."""
    found = set()
    for process in psutil.process_iter():
        try:
            found.add(process.environ().get(_RUN_ID, ""))
        except (psutil.Error, OSError):  # another user's, or just ended
            continue
    return found


def _end(api: Api, run: dict[str, Any]) -> None:
    """Mark a run without a process; one whose process was never started is scheduled again."""
    if run["state_type"] == "PENDING" and run["start_time"] is None:
        state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "its worker ended before it began",
                 "state_details": {"scheduled_time": datetime.now(UTC).isoformat()}}  # fmt: skip
        text = "never began, and begins now"
    elif run["state_type"] == "CANCELLING":
        state, text = {"type": "CANCELLED", "name": "Cancelled"}, "was being cancelled, and is Cancelled"
    else:
        message = "Its process has ended without a word: a power cut, `grayline down`, or the system ended it."
        state, text = (
            {"type": "CRASHED", "name": "Crashed", "message": message},
            "has no process, and is Crashed; the next run resumes it",
        )
    api.ask(f"/flow_runs/{run['id']}/set_state", {"state": state, "force": True})
    say(f"run {run['name']} {text}")


def _drop_missed(api: Api, pool: str) -> None:
    """Keep the latest of a schedule's missed runs: it makes up for all."""
    late = {"before_": datetime.now(UTC).isoformat()}
    runs = api.all("/flow_runs/filter", _of(pool, {"type": {"any_": ["SCHEDULED"]}}, expected_start_time=late))
    latest: dict[tuple[str, str], dict[str, Any]] = {}
    for run in sorted(filter(lambda run: run["auto_scheduled"], runs), key=lambda run: str(run["expected_start_time"])):
        key = run["deployment_id"], json.dumps(run["parameters"], sort_keys=True)
        if missed := latest.get(key):
            state = {"type": "CANCELLED", "name": "Missed", "message": "The latest run makes up for it."}
            api.ask(f"/flow_runs/{missed['id']}/set_state", {"state": state, "force": True})
            say(f"run {missed['name']} of {missed['expected_start_time'][:16]} was missed: the latest makes up for it")
        latest[key] = run
