"""Who or what moved a model's champion, when, from which version to which, and why.

Each event is a tag of the registered model, of a key that nothing else has: events are added, never
changed. Whoever reads MLflow's registry can read them.
"""

import getpass
import json
import re
import secrets
import socket
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal

from tasks.registry.runs import client

PREFIX = "grayline.history."
LONGEST = 2000  # characters of a reason
MOVES = ("promoted", "rolled back")
Action = Literal["promoted", "refused", "rolled back"]


@dataclass(frozen=True)
class Event:
    """`before` and `after` are version numbers. Of a refused version the champion is `before`, and stays it."""

    at: str  # ISO 8601, UTC
    who: str
    action: str
    before: str | None
    after: str
    why: str


def record(tracking_uri: str, name: str, action: Action, before: str | None, after: str, why: str) -> Event:
    """Add an event to the history of the model `name`."""
    now = datetime.now(UTC)
    event = Event(now.isoformat(timespec="microseconds"), who(), action, before, after, shortened(why))
    text = {("from" if key == "before" else "to" if key == "after" else key): v for key, v in asdict(event).items()}
    key = f"{PREFIX}{now:%Y-%m-%dT%H:%M:%S.%f}Z-{secrets.token_hex(2)}"
    client(tracking_uri).set_registered_model_tag(name, key, json.dumps(text, ensure_ascii=False))
    return event


def events(tracking_uri: str, name: str) -> tuple[Event, ...]:
    """All of a model's events, the oldest first; a tag that holds none is left out."""
    tags = client(tracking_uri).get_registered_model(name).tags
    found = (read_event(tags[key]) for key in sorted(tags) if key.startswith(PREFIX))
    return tuple(event for event in found if event)


def read_event(text: str) -> Event | None:
    """What `record` wrote; None for what a hand wrote into the tag."""
    try:
        found = json.loads(text)
        return Event(found["at"], found["who"], found["action"], found["from"], str(found["to"]), found["why"])
    except (ValueError, KeyError, TypeError):
        return None


def champions_before(history: Iterable[Event], champion: str) -> list[str]:
    """The versions that were champions before this one, the latest first.

    A promotion lays its version on a pile, a rollback takes away what lies above the version that it
    returned to: what was taken back is not among them.
    """
    pile: list[str] = []
    for event in history:
        if event.action not in MOVES:
            continue
        if event.action == "rolled back":
            while event.after in pile and pile[-1] != event.after:
                pile.pop()
        if not pile or pile[-1] != event.after:
            pile.append(event.after)
    while champion in pile and pile[-1] != champion:
        pile.pop()
    if pile and pile[-1] == champion:
        pile.pop()
    return [version for version in dict.fromkeys(reversed(pile)) if version != champion]


def who() -> str:
    """`user@host`, and in a flow run its name too."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id that no name belongs to, as in containers
        user = "unknown"
    person = f"{user}@{socket.gethostname()}"
    run = flow_run()
    return f"{person}, flow run {run}" if run else person


def flow_run() -> str | None:
    """FLOW/RUN of the flow that this runs in; None outside of one, without importing Prefect."""
    import sys

    if "prefect" not in sys.modules:
        return None
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow is None:
        return None
    return f"{context.flow.name}/{context.flow_run.name}"


def shortened(why: str) -> str:
    """In one line, at most LONGEST characters."""
    line = re.sub(r"\s+", " ", why).strip()
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"
