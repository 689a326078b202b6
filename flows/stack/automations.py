"""Automations of Prefect's that `grayline up` sets: silent runs are marked Crashed, alerts sent on.

Alerts of nights and batches are events of ours (`tasks.watch.alerts`); the store keeps them from being sent twice.
Prefect alone knows of runs that are late, crashed or cancelled: these are told from its own events.
"""

from collections.abc import Sequence
from typing import Any

from flows.stack.api import Api
from flows.stack.deployments import NIGHTLY
from flows.stack.processes import say
from tasks.watch.alerts import RAISED, WELL
from tasks.watch.channels import Channel

_ENDED = ("Completed", "Failed", "Crashed", "Cancelled")
_SILENT = 300  # seconds; a server that is restarted misses some heartbeats
_LONG = 10 * 365 * 24 * 3600  # seconds that a trigger waits for the second of two events
_BEGIN = "grayline.watch"  # sent by `up`: from now on a late run is news
_BLOCK = "grayline-alerts"

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

_OURS = {"match": {"prefect.resource.id": ["grayline.*"]}}
_RUNS = {
    "match": {"prefect.resource.id": ["prefect.flow-run.*", _BEGIN]},
    "match_related": {"prefect.resource.id": ["prefect.tag.grayline"], "prefect.resource.role": ["tag"]},
}
_OF_DEPLOYMENT = {"for_each": ["related:deployment:prefect.resource.id"], "within": _LONG}
_RUN = "{{ deployment.name }}: run {{ flow_run.name }} "
_LINK = " {{ (flow_run|ui_url) or flow_run.id }}"
# Name, trigger, title, and the line with what, the remedy and the link.
_ALERTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "alerts of nights and batches": (
        {"expect": [RAISED, WELL], **_OURS}, "{{ event.payload.subject }}", "{{ event.payload.text }}"
    ),
    "a run was ended from outside": (
        {"expect": ["prefect.flow-run.Crashed", "prefect.flow-run.Cancelled", "prefect.flow-run.TimedOut"], **_RUNS},
        "grayline: {{ deployment.name }}: {{ flow_run.state.name }}",
        _RUN + "is {{ flow_run.state.name }}: {{ flow_run.state.message or 'without a word' }} The next run goes on "
        "where it stopped; `grayline doctor` says what is at work." + _LINK,
    ),
    "runs are late": (
        {"after": ["prefect.flow-run.Running", _BEGIN], "expect": ["prefect.flow-run.Late"], **_RUNS, **_OF_DEPLOYMENT},
        "grayline: {{ deployment.name }}: late",
        _RUN + "is late: no worker begins it. `grayline up` starts one; `grayline doctor` says more." + _LINK,
    ),
    "runs are late no longer": (
        {"after": ["prefect.flow-run.Late"], "expect": ["prefect.flow-run.Running"], **_RUNS, **_OF_DEPLOYMENT},
        "grayline: {{ deployment.name }}: late no longer",
        _RUN + "has begun: it is well again." + _LINK,
    ),
}  # fmt: skip


def watch_over(api: Api, channels: Sequence[Channel] = ()) -> None:
    """Make the automations, or bring them up to date; one that a person has paused stays paused.

    channels: where alerts go. Without any, their automations and blocks are removed.
    """
    blocks = [_save(api, f"{_BLOCK}-{number}", channel) for number, channel in enumerate(channels, 1)]
    kept = {name for name, _ in blocks}
    for block in api.all("/block_documents/filter", {"block_documents": {"is_anonymous": {"eq_": False}}}):
        if str(block["name"]).startswith(f"{_BLOCK}-") and block["name"] not in kept:
            api.ask(f"/block_documents/{block['id']}", method="DELETE")
    wanted = [_HEARTBEATS]
    for name, (trigger, subject, text) in _ALERTS.items():
        actions = [_action(channel, block, subject, text) for channel, (_, block) in zip(channels, blocks, strict=True)]
        reactive = {"type": "event", "posture": "Reactive", "threshold": 1, "within": 0}
        wanted.append({"name": f"grayline: {name}", "trigger": reactive | trigger, "actions": actions})
    there = {found["name"]: found for found in api.all("/automations/filter", {})}
    for automation in wanted:
        _set(api, automation, there.get(str(automation["name"])))
    if channels:
        _begin(api)
        say(f"alerts go to {', '.join(channel.place for channel in channels)}")


def _set(api: Api, wanted: dict[str, Any], found: dict[str, Any] | None) -> None:
    if not wanted["actions"]:
        if found:
            api.ask(f"/automations/{found['id']}", method="DELETE")
    elif found is None:
        api.ask("/automations/", wanted)
    else:
        api.ask(f"/automations/{found['id']}", wanted | {"enabled": found["enabled"]}, "PUT")


def _action(channel: Channel, block: str, subject: str, text: str) -> dict[str, Any]:
    """Return the action that sends an alert: its payload as JSON to a webhook, title and text to Apprise."""
    if not channel.is_webhook:
        return {"type": "send-notification", "block_document_id": block, "subject": subject, "body": text}
    if "event.payload" in text:
        return {"type": "call-webhook", "block_document_id": block, "payload": "{{ event.payload | tojson }}"}
    parts = {"subject": subject, "text": text}
    filled = ", ".join(f'"{key}": {{% filter tojson %}}{value}{{% endfilter %}}' for key, value in parts.items())
    return {"type": "call-webhook", "block_document_id": block, "payload": f"{{{filled}}}"}


def _save(api: Api, name: str, channel: Channel) -> tuple[str, str]:
    """Write the block of a channel, which Prefect keeps encrypted. Returns its name and id."""
    kind, data = channel.block
    found = api.ask(f"/block_types/slug/{kind}")["id"]
    (schema, *_) = api.ask("/block_schemas/filter", {"block_schemas": {"block_type_id": {"any_": [found]}}})
    for block in api.all("/block_documents/filter", {"block_documents": {"name": {"any_": [name]}}}):
        if block["block_type_id"] == found:
            api.ask(f"/block_documents/{block['id']}", {"data": data, "merge_existing_data": False}, "PATCH")
            return name, str(block["id"])
        api.ask(f"/block_documents/{block['id']}", method="DELETE")
    new = {"name": name, "data": data, "block_type_id": found, "block_schema_id": schema["id"]}
    return name, str(api.ask("/block_documents/", new)["id"])


def _begin(api: Api) -> None:
    """Let the next late run be news: a trigger that waits for two events begins with the first."""
    from datetime import UTC, datetime
    from uuid import uuid4

    for deployment in api.all("/deployments/filter", {"deployments": {"name": {"any_": [NIGHTLY]}}}):
        related = [
            {"prefect.resource.id": f"prefect.deployment.{deployment['id']}", "prefect.resource.role": "deployment"},
            {"prefect.resource.id": "prefect.tag.grayline", "prefect.resource.role": "tag"},
        ]
        event = {
            "id": str(uuid4()), "event": _BEGIN, "occurred": datetime.now(UTC).isoformat(), "payload": {},
            "resource": {"prefect.resource.id": _BEGIN}, "related": related,
        }  # fmt: skip
        api.ask("/events", [event])
