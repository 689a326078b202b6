"""Promote and roll back, as tasks of a flow; carry out and record the gate's decision."""

from prefect import task

from tasks.registry import champion
from tasks.registry.champion import record
from tasks.registry.versions import CHAMPION, by_alias
from tasks.release.card import add_gate
from tasks.settings import Settings
from tasks.values import Decision, ModelVersion


@task
def promote(tracking_uri: str, name: str, version: str | None, reason: str) -> ModelVersion:
    """Make the version (None: the challenger) the champion.

    Raises UserError if it does not exist, and DamagedVersionError if its files are not those that were registered.
    """
    return champion.make_champion(tracking_uri, name, version, reason, Settings().verify_key)


@task
def rollback(tracking_uri: str, name: str, version: str | None, reason: str) -> ModelVersion:
    """Make the version (None: the last champion before this one that was not taken back) the champion again.

    Raises as `promote` does.
    """
    return champion.take_back(tracking_uri, name, version, reason, Settings().verify_key)


@task
def carry_out(decision: Decision, tracking_uri: str) -> None:
    """Promote, or record the refusal; either way the gate's table goes into the version's card.

    Does nothing if nothing had to be decided.
    """
    if not decision.checks:
        return
    version = decision.version
    add_gate(tracking_uri, decision)
    if decision.promoted:
        reason = f"gate: {decision.reason}"
        champion.make_champion(tracking_uri, version.name, version.version, reason, Settings().verify_key)
        return
    current = by_alias(tracking_uri, version.name, CHAMPION)
    why = f"gate: {decision.reason}"
    record(tracking_uri, version.name, "refused", current.version if current else None, version.version, why)
    champion.tag_run(tracking_uri, version, "false")
