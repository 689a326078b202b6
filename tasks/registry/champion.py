"""The alias `champion` and its history, without Prefect, so that `promote` and `rollback` answer at once.

A version's files are checked, and the reason is written on it, before the alias moves. So every champion has one.
"""

import getpass
import json
import logging
import re
import secrets
import socket
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from resnet_core.errors import UserError
from tasks.registry.integrity import check_version
from tasks.registry.runs import client, living_run, set_tags
from tasks.registry.versions import (
    BEFORE,
    CHALLENGER,
    CHAMPION,
    PROMOTED,
    REASON,
    ROLLED_BACK,
    SINCE,
    by_alias,
    check_model,
    find_version,
    value_of,
    versions_of,
)
from tasks.values import ModelVersion

log = logging.getLogger("grayline")

PREFIX = "grayline.history."
LONGEST = 2000  # characters of a reason
_MOVES = ("promoted", "rolled back")
_SECOND = len("2026-11-30T00:00:00")  # of a time in a tag
_Action = Literal["promoted", "refused", "rolled back"]


@dataclass(frozen=True)
class Event:
    """A change of the champion from version `before` to `after`. If `after` is refused, `before` stays champion."""

    at: str  # ISO 8601, UTC
    who: str
    action: str
    before: str | None
    after: str
    why: str
    number: int = 0  # one more than the last: a clock may be set back; 0: of an earlier release


def record(tracking_uri: str, name: str, action: _Action, before: str | None, after: str, why: str) -> Event:
    """Add an event to the history of the model `name`. The last refusal again, by a night without news, is one."""
    now, why, known = datetime.now(UTC), shortened(why), events(tracking_uri, name)
    number = 1 + max((event.number for event in known), default=0)
    event = Event(now.isoformat(timespec="microseconds"), who(), action, before, after, why, number)
    last = known[-1] if known and action == "refused" else None
    if last and replace(last, at=event.at, who=event.who, number=number) == event:
        return last
    text = {("from" if key == "before" else "to" if key == "after" else key): v for key, v in asdict(event).items()}
    key = f"{PREFIX}{now:%Y-%m-%dT%H:%M:%S.%f}Z-{secrets.token_hex(2)}"
    client(tracking_uri).set_registered_model_tag(name, key, json.dumps(text, ensure_ascii=False))
    return event


def events(tracking_uri: str, name: str) -> tuple[Event, ...]:
    """Return all events of a model, oldest first; tags that are not events are left out."""
    tags = client(tracking_uri).get_registered_model(name).tags
    found = filter(None, (_read_event(tags[key]) for key in sorted(tags) if key.startswith(PREFIX)))
    return tuple(sorted(found, key=lambda event: event.number))  # those of earlier releases come first, by their times


def _read_event(text: str) -> Event | None:
    """Return the event of a tag, None for a tag written by hand."""
    try:
        event = json.loads(text)
        at, who, action, before, why = (event[key] for key in ("at", "who", "action", "from", "why"))
        return Event(at, who, action, before, str(event["to"]), why, int(event.get("number", 0)))
    except (ValueError, KeyError, TypeError):  # of its text; MLflow was asked before
        return None


def champions_before(history: Iterable[Event], champion: str) -> list[str]:
    """Return the versions that were champions before this one, latest first.

    A promotion pushes its version onto a stack. A rollback pops the versions above the one it returns to.
    Versions that were rolled back are therefore not returned.
    """
    stack: list[str] = []
    for event in history:
        if event.action not in _MOVES:
            continue
        if event.action == "rolled back":
            while event.after in stack and stack[-1] != event.after:
                stack.pop()
        if not stack or stack[-1] != event.after:
            stack.append(event.after)
    while champion in stack and stack[-1] != champion:
        stack.pop()
    if stack and stack[-1] == champion:
        stack.pop()
    return [version for version in dict.fromkeys(reversed(stack)) if version != champion]


def who() -> str:
    """Return `user@host`, and the flow run's name in a flow run."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in containers
        user = "unknown"
    person = f"{user}@{socket.gethostname()}"
    run = _flow_run()
    return f"{person}, flow run {run}" if run else person


def _flow_run() -> str | None:
    """Return FLOW/RUN of the current flow run, None outside of a flow. Does not import Prefect."""
    import sys

    if "prefect" not in sys.modules:
        return None
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow is None:
        return None
    return f"{context.flow.name}/{context.flow_run.name}"


def shortened(why: str) -> str:
    """Return the text in one line of at most LONGEST characters."""
    line = re.sub(r"\s+", " ", why).strip()
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def make_champion(
    tracking_uri: str, name: str, version: str | None, reason: str, verify_key: str | None = None
) -> ModelVersion:
    """Make the version (None: the challenger) the champion.

    Raises UserError for a version that does not exist, DamagedVersionError for files that are not those registered.
    """
    check_model(tracking_uri, name)
    registry = client(tracking_uri)
    challenger = by_alias(tracking_uri, name, CHALLENGER)
    promoted = challenger if version is None else find_version(tracking_uri, name, version)
    if promoted is None:
        raise UserError(f"{name}: has no challenger. Name a version: `grayline promote {name} VERSION`.")
    check_version(tracking_uri, promoted, verify_key)
    champion = by_alias(tracking_uri, name, CHAMPION)
    if champion and champion.version != promoted.version:
        registry.set_model_version_tag(name, promoted.version, BEFORE, champion.version)
    _move_champion(tracking_uri, "promoted", champion, promoted, reason)
    if challenger and challenger.version == promoted.version:
        registry.delete_registered_model_alias(name, CHALLENGER)
    return promoted


def champion_of(tracking_uri: str, name: str) -> ModelVersion | None:
    """Return the champion; None before the first, or, with a line, where somebody has deleted the alias.

    A move that was killed after the alias is completed: its event, and the alias of the challenger that it was.
    """
    champion = by_alias(tracking_uri, name, CHAMPION)
    if champion is None:
        if moves := _moves_of(tracking_uri, name):
            log.warning(
                "registry    %s has no champion any more: version %s was the last. "
                "`grayline promote %s %s` brings it back", name, moves[-1].after, name, moves[-1].after,
            )  # fmt: skip
        return None
    moves = _moves_of(tracking_uri, name)
    challenger = by_alias(tracking_uri, name, CHALLENGER)
    chosen = challenger is not None and challenger.version == champion.version
    if not moves or moves[-1].after != champion.version:
        _complete_history(tracking_uri, champion, moves[-1] if moves else None, chosen)
    if chosen:
        client(tracking_uri).delete_registered_model_alias(name, CHALLENGER)
    return champion


def last_champion(tracking_uri: str, name: str) -> ModelVersion | None:
    """Return the version that had the alias before somebody deleted it; None if there was none, or it is deleted."""
    moves = _moves_of(tracking_uri, name)
    versions = versions_of(tracking_uri, name) if moves else {}
    return value_of(versions[moves[-1].after]) if moves and moves[-1].after in versions else None


def _complete_history(tracking_uri: str, champion: ModelVersion, last: Event | None, chosen: bool) -> None:
    """Add the event that a killed move lacks, from the version's tags, which are written before the alias.

    Who moves an alias in MLflow's pages writes no tags: such a move is nobody's to tell. chosen: the version is also
    the challenger, which a finished promotion ends.
    """
    tags = client(tracking_uri).get_model_version(champion.name, champion.version).tags
    reason, since, before = tags.get(REASON, ""), tags.get(SINCE, "")[:_SECOND], last.after if last else None
    newer = bool(since) and last is not None and since > last.at[:_SECOND]
    if not newer and not (chosen and since):
        return
    why = reason.removeprefix(f"rolled back from version {before}: ")
    record(tracking_uri, champion.name, "promoted" if why == reason else "rolled back", before, champion.version, why)
    tag_run(tracking_uri, champion, "true")


def _moves_of(tracking_uri: str, name: str) -> list[Event]:
    return [event for event in events(tracking_uri, name) if event.action in _MOVES]


def take_back(
    tracking_uri: str, name: str, version: str | None, reason: str, verify_key: str | None = None
) -> ModelVersion:
    """Make the version (None: the last accepted champion before this one) the champion again.

    Raises UserError for a version that does not exist, DamagedVersionError for files that are not those registered.
    """
    check_model(tracking_uri, name)
    champion = champion_of(tracking_uri, name)
    if champion is None:
        raise UserError(f"{name}: has no champion to roll back. `grayline promote {name} VERSION` makes one.")
    target = version or last_accepted(tracking_uri, champion)
    if target is None:
        raise UserError(
            f"{name}: version {champion.version} has no earlier champion that is still registered. "
            f"Name the version to go to: `grayline rollback {name} VERSION`."
        )
    earlier = find_version(tracking_uri, name, target)
    if earlier.version == champion.version:
        raise UserError(f"{name}: version {earlier.version} is the champion already.")
    check_version(tracking_uri, earlier, verify_key)
    client(tracking_uri).set_model_version_tag(name, champion.version, ROLLED_BACK, f"{_now()}: {reason}")
    _move_champion(tracking_uri, "rolled back", champion, earlier, reason)
    tag_run(tracking_uri, champion, "rolled back")
    return earlier


def last_accepted(tracking_uri: str, champion: ModelVersion) -> str | None:
    """Return the champion before this one, without versions that were rolled back or deleted.

    A history that does not reach back so far is completed by the versions' tags.
    """
    versions = versions_of(tracking_uri, champion.name)
    candidates = champions_before(events(tracking_uri, champion.name), champion.version)
    if not candidates:
        before = versions[champion.version].tags.get(BEFORE) if champion.version in versions else None
        candidates = [before] if before else []
    return next((v for v in candidates if v in versions and ROLLED_BACK not in versions[v].tags), None)


def _move_champion(
    tracking_uri: str, action: _Action, before: ModelVersion | None, after: ModelVersion, why: str
) -> None:
    """Tag the version, move the alias, add the event. A champion is not marked as rolled back any more.

    A version that is the champion already gets no second event: nothing has moved.

    A history that lacks the last move is completed by the version's tags; a move that never was cannot be told.
    """
    registry = client(tracking_uri)
    if ROLLED_BACK in registry.get_model_version(after.name, after.version).tags:
        registry.delete_model_version_tag(after.name, after.version, ROLLED_BACK)
    reason = f"rolled back from version {before.version}: {why}" if action == "rolled back" and before else why
    registry.set_model_version_tag(after.name, after.version, SINCE, _now())
    registry.set_model_version_tag(after.name, after.version, REASON, reason)
    registry.set_registered_model_alias(after.name, CHAMPION, after.version)
    moves = [event.after for event in _moves_of(tracking_uri, after.name)]
    if before is None or before.version != after.version:
        record(tracking_uri, after.name, action, before.version if before else None, after.version, why)
    elif not moves or moves[-1] != after.version:  # the command died between the alias and its event
        record(tracking_uri, after.name, action, moves[-1] if moves else None, after.version, why)
    tag_run(tracking_uri, after, "true")


def tag_run(tracking_uri: str, model: ModelVersion, promoted: str) -> None:
    """Tag the training's run, to search runs by: `true`, `false` or `rolled back`.

    A run that somebody has deleted takes no tag, and nothing depends on it.
    """
    if run_id := living_run(tracking_uri, model.run_id):
        set_tags(tracking_uri, run_id, {PROMOTED: promoted})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
