"""Moving the alias `champion`, without Prefect: a command that only does this is done at once.

A version is checked before the alias moves to it. The reason goes first and the alias last: a champion
without a reason is never seen.
"""

from datetime import UTC, datetime

from resnet_core.errors import UserError, nearest
from tasks.registry import runs as tracking
from tasks.registry.history import Action, champions_before, events, record
from tasks.registry.integrity import check_version
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
    forgive(tracking_uri, wanted)
    move_champion(tracking_uri, "promoted", champion, wanted, reason)
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
    forgive(tracking_uri, wanted)
    move_champion(
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


def forgive(tracking_uri: str, version: ModelVersion) -> None:
    """A champion is not one that was taken back: whoever chose it knew."""
    registry = tracking.client(tracking_uri)
    if ROLLED_BACK in registry.get_model_version(version.name, version.version).tags:
        registry.delete_model_version_tag(version.name, version.version, ROLLED_BACK)


def move_champion(
    tracking_uri: str,
    action: Action,
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
