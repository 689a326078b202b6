"""Automations of Prefect's that `make up` sets: a run without heartbeats is marked Crashed."""

from typing import Any

from flows.stack.api import Api

_ENDED = ("Completed", "Failed", "Crashed", "Cancelled")
_SILENT = 300  # seconds; a server that is restarted misses some heartbeats

_HEARTBEATS = {
    "name": "grayline: a run without heartbeats is Crashed",
    "description": "Its process has ended without a word, or its machine is away.",
    "trigger": {
        "type": "event", "posture": "Proactive", "threshold": 1, "within": _SILENT,
        "after": ["prefect.flow-run.heartbeat"],
        "expect": ["prefect.flow-run.heartbeat", *(f"prefect.flow-run.{state}" for state in _ENDED)],
        "match": {"prefect.resource.id": ["prefect.flow-run.*"]}, "for_each": ["prefect.resource.id"],
    },
    "actions": [{
        "type": "change-flow-run-state", "state": "CRASHED",
        "message": f"No heartbeat for {_SILENT} s: its process has ended, or its machine is away.",
    }],
}  # fmt: skip


def watch_over(api: Api) -> None:
    """Make the automations, or bring them up to date; one that a person has paused stays paused."""
    there = {found["name"]: found for found in api.all("/automations/filter", {})}
    for wanted in (_HEARTBEATS,):
        _set(api, wanted, there.get(str(wanted["name"])))


def _set(api: Api, wanted: dict[str, Any], found: dict[str, Any] | None) -> None:
    if found is None:
        api.ask("/automations/", wanted)
    else:
        api.ask(f"/automations/{found['id']}", wanted | {"enabled": found["enabled"]}, "PUT")
