"""Alerts: tell once of what is not well, and once when it is well again.

Automations of Prefect's send them (`flows.stack.automations`), but cannot remember: their counts begin anew whenever
`grayline up` sets them, and a first event has none. The store remembers: `watch/<name>/<kind>.json` is an open alert.
"""

import json
import logging
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote
from uuid import uuid4

from upath import UPath

from resnet_core.credentials import masked
from resnet_core.storage.files import DamagedFileError, read_json, write_text
from resnet_core.storage.names import visible
from tasks.settings import Settings
from tasks.store import Store, own_files
from tasks.watch.channels import channels, deliver

log = logging.getLogger("grayline")

KINDS = {
    "cancelled": "a run was cancelled",
    "data": "the data checks warn",
    "disk": "the disk is nearly full",
    "drift": "a batch has drifted from the training data",
    "ended": "a run was ended from outside",
    "failed": "a run failed",
    "quarantine": "the quarantine is over its limit",
    "refused": "the gate refuses the new version",
    "stale": "the champion is stale",
}
RAISED, WELL = "grayline.alert", "grayline.well"  # Prefect's names of the two events
_LONGEST = 700  # characters of a text: a line that a phone shows


@dataclass(frozen=True)
class Alert:
    """A fault as text of one line, and what to do about it."""

    kind: str
    text: str
    remedy: str = ""


def settle(store: Store, name: str, judged: Collection[str], alerts: Iterable[Alert], run_id: str | None) -> None:
    """Tell of new alerts, and of those that are well again; open ones are not repeated.

    name: of the data set, or of what else it is about. judged: the kinds that this run can tell about. A channel that
    fails is a line in the log; the next run tries again.
    """
    raised = {alert.kind: alert for alert in alerts}
    for kind in sorted({*judged, *raised}):
        file = _file(store, name, kind)
        try:
            if kind in raised:
                if not file.exists() and _send(name, raised[kind], RAISED, run_id):
                    note(store, name, raised[kind])
            elif file.exists() and _send(name, Alert(kind, f"{KINDS[kind]}: it is well again."), WELL, run_id):
                file.unlink(missing_ok=True)
        except Exception as error:  # noqa: BLE001  the night's work is done, whatever becomes of its alert
            why = masked(str(error)).strip().splitlines() or [type(error).__name__]
            log.warning("alert       not told: %s: %s (%s); the next run tries again", name, KINDS[kind], why[0][:200])


def note(store: Store, name: str, alert: Alert) -> None:
    """Remember an open alert, such as one that Prefect's own events tell of."""
    file = _file(store, name, alert.kind)
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps({"since": time.time(), "text": alert.text}, ensure_ascii=False))


def open_alerts(store: Store, name: str) -> dict[str, float]:
    """Return the open alerts of a name: when they were raised, in seconds since 1970."""
    return {
        kind: when for file in own_files(_folder(store, name)) if (kind := file.stem) in KINDS and (when := _when(file))
    }


def confirm_champion(store: Store, name: str, *, now: bool) -> float:
    """Return when a night last found that the champion is what it would make. now: this one does."""
    file = _file(store, name, "champion")
    if not now and (known := _when(file)):
        return known
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps({"since": (when := time.time())}))
    return when


def _when(file: UPath) -> float:
    try:
        return float(read_json(file)["since"])
    except (FileNotFoundError, DamagedFileError, KeyError, TypeError, ValueError):
        # it has not begun, or its note is torn
        return 0.0


def _folder(store: Store, name: str) -> UPath:
    return store.watch(quote(name, safe="")[-200:])


def _file(store: Store, name: str, kind: str) -> UPath:
    return _folder(store, name) / f"{kind}.json"


def _send(name: str, alert: Alert, event: str, run_id: str | None) -> bool:
    """Tell Prefect's server, or each channel where there is none. Returns whether somebody could hear it."""
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    link = (
        f"{settings.ui_url.rstrip('/')}/runs/flow-run/{run_id}"
        if settings.api.url and settings.ui_url and run_id
        else ""
    )
    content = message(name, alert, event, link)
    if settings.api.url:
        _emit(name, alert, event, content, run_id)
        told = True
    else:
        told = False
        for channel in channels(Settings()):
            try:
                deliver(channel, content)
                told = True
            except Exception as error:  # noqa: BLE001  of httpx, Apprise and the policy
                log.warning("alert       %s takes none: %s", channel.place, type(error).__name__)
    if told:
        log.warning("alert       %s", content["text"])
    return told


def message(name: str, alert: Alert, event: str, link: str) -> dict[str, str]:
    """Return what channels send: `text` is a line with what, the remedy and the link of the run."""
    line = " ".join(visible(masked(f"{name}: {alert.text}")).split())
    text = " ".join(filter(None, (line if len(line) <= _LONGEST else line[:_LONGEST] + "...", alert.remedy, link)))
    title = f"grayline: {name}: {KINDS[alert.kind]}" + (" no longer" if event == WELL else "")
    state = "well" if event == WELL else "raised"
    return {"subject": visible(title), "text": text, "name": name, "alert": alert.kind, "state": state, "run": link}


def _emit(name: str, alert: Alert, event: str, content: dict[str, str], run_id: str | None) -> None:
    """Send the event and wait until the server has it: Prefect's own way drops it where the server is away."""
    from prefect.client.orchestration import get_client

    related = (
        [{"prefect.resource.id": f"prefect.flow-run.{run_id}", "prefect.resource.role": "flow-run"}] if run_id else []
    )
    resource = {"prefect.resource.id": f"grayline.{alert.kind}.{name}", "prefect.resource.name": name}
    body = {
        "id": str(uuid4()), "occurred": datetime.now(UTC).isoformat(), "event": event, "resource": resource,
        "related": related, "payload": content,
    }  # fmt: skip
    with get_client(sync_client=True) as client:
        client.request("POST", "/events", json=[body]).raise_for_status()
