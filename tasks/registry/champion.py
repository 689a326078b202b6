"""Moving the alias `champion`, without Prefect: a command that only does this is done at once.

A version is checked before the alias moves to it. The reason goes first and the alias last: a champion
without a reason is never seen.
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

from resnet_core.errors import UserError, nearest
from tasks.registry import runs as tracking
from tasks.registry.integrity import check_version
from tasks.registry.runs import client
from tasks.registry.versions import (
    BEFORE,
    CHALLENGER,
    CHAMPION,
    PROMOTED,
    REASON,
    ROLLED_BACK,
    SINCE,
    by_alias,
    find_version,
    value_of,
    versions_of,
)
from tasks.values import ModelVersion

PREFIX = "grayline.history."
LONGEST = 2000  # characters of a reason
_MOVES = ("promoted", "rolled back")
_Action = Literal["promoted", "refused", "rolled back"]


@dataclass(frozen=True)
class Event:
    """`before` and `after` are version numbers. Of a refused version the champion is `before`, and stays it."""

    at: str  # ISO 8601, UTC
    who: str
    action: str
    before: str | None
    after: str
    why: str


def record(tracking_uri: str, name: str, action: _Action, before: str | None, after: str, why: str) -> Event:
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
    found = (_read_event(tags[key]) for key in sorted(tags) if key.startswith(PREFIX))
    return tuple(event for event in found if event)


def _read_event(text: str) -> Event | None:
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
        if event.action not in _MOVES:
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


def make_champion(
    tracking_uri: str, name: str, version: str | None, reason: str, verify_key: str | None = None
) -> ModelVersion:
    """Make the version (None: the challenger) the champion. Raises UserError when there is none, and
    DamagedVersionError when its files are not those that were registered."""
    check_model(tracking_uri, name)
    registry = tracking.client(tracking_uri)
    challenger = by_alias(tracking_uri, name, CHALLENGER)
    if version is None and challenger is None:
        raise UserError(f"{name}: has no challenger. Say which version: `grayline promote {name} VERSION`.")
    wanted = challenger if version is None else value_of(find_version(registry, name, version))
    assert wanted is not None
    check_version(tracking_uri, wanted, verify_key)
    champion = by_alias(tracking_uri, name, CHAMPION)
    if champion and champion.version != wanted.version:
        registry.set_model_version_tag(name, wanted.version, BEFORE, champion.version)
    _forgive(tracking_uri, wanted)
    _move_champion(tracking_uri, "promoted", champion, wanted, reason)
    if challenger and challenger.version == wanted.version:
        registry.delete_registered_model_alias(name, CHALLENGER)
    return wanted


def take_back(
    tracking_uri: str, name: str, version: str | None, reason: str, verify_key: str | None = None
) -> ModelVersion:
    """Make the version (None: the last champion before this one that was not taken back) the champion
    again. Raises UserError when there is none, and DamagedVersionError when its files are not those that
    were registered."""
    check_model(tracking_uri, name)
    champion = by_alias(tracking_uri, name, CHAMPION)
    if champion is None:
        raise UserError(f"{name}: has no champion to roll back.")
    registry = tracking.client(tracking_uri)
    target = version or last_accepted(tracking_uri, champion)
    if target is None:
        raise UserError(
            f"{name}: version {champion.version} is its first champion. "
            f"Say which version to go to: `grayline rollback {name} VERSION`."
        )
    wanted = value_of(find_version(registry, name, target))
    if wanted.version == champion.version:
        raise UserError(f"{name}: version {wanted.version} is the champion already.")
    check_version(tracking_uri, wanted, verify_key)
    registry.set_model_version_tag(name, champion.version, ROLLED_BACK, f"{now()}: {reason}")
    tag_run(tracking_uri, champion, "rolled back")
    _forgive(tracking_uri, wanted)
    _move_champion(
        tracking_uri, "rolled back", champion, wanted, reason, f"rolled back from version {champion.version}: {reason}"
    )
    return wanted


def last_accepted(tracking_uri: str, champion: ModelVersion) -> str | None:
    """The champion before this one, over those that were taken back or deleted; by the history, and where
    it does not reach back so far, by the versions' own tags."""
    versions = versions_of(tracking_uri, champion.name)
    candidates = champions_before(events(tracking_uri, champion.name), champion.version)
    if not candidates:
        own = versions[champion.version].tags.get(BEFORE) if champion.version in versions else None
        candidates = [own] if own else []
    return next((v for v in candidates if v in versions and ROLLED_BACK not in versions[v].tags), None)


def _forgive(tracking_uri: str, version: ModelVersion) -> None:
    """A champion is not one that was taken back: whoever chose it knew."""
    registry = tracking.client(tracking_uri)
    if ROLLED_BACK in registry.get_model_version(version.name, version.version).tags:
        registry.delete_model_version_tag(version.name, version.version, ROLLED_BACK)


def _move_champion(
    tracking_uri: str,
    action: _Action,
    before: ModelVersion | None,
    after: ModelVersion,
    why: str,
    reason: str | None = None,
) -> None:
    """why: as the history has it; reason: as the version's tag has it, by default the same."""
    registry = tracking.client(tracking_uri)
    registry.set_model_version_tag(after.name, after.version, SINCE, now())
    registry.set_model_version_tag(after.name, after.version, REASON, reason or why)
    record(tracking_uri, after.name, action, before.version if before else None, after.version, why)
    tag_run(tracking_uri, after, "true")
    registry.set_registered_model_alias(after.name, CHAMPION, after.version)


def tag_run(tracking_uri: str, model: ModelVersion, promoted: str) -> None:
    """On the training's run too, to search runs by: `true`, `false` or `rolled back`."""
    if model.run_id:
        tracking.set_tags(tracking_uri, model.run_id, {PROMOTED: promoted})


def check_model(tracking_uri: str, name: str) -> None:
    """Raises UserError when there is no such model."""
    names = [model.name for model in tracking.client(tracking_uri).search_registered_models()]
    if name not in names:
        there = ", ".join(names) or "none yet"
        raise UserError(f"no model {name!r}.{nearest(name, names)} Registered: {there}.")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
