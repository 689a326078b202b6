"""Promote and roll back: the alias `champion` moves, and the versions record why."""

from datetime import UTC, datetime

from prefect import task

from resnet_core.errors import UserError, nearest
from tasks import tracking
from tasks.registry import (
    BEFORE,
    CHALLENGER,
    CHAMPION,
    REASON,
    ROLLED_BACK,
    SINCE,
    by_alias,
    find_version,
    value_of,
)
from tasks.values import ModelVersion


@task
def promote(tracking_uri: str, name: str, version: str | None, reason: str) -> ModelVersion:
    """Make the version (None: the challenger) the champion. Raises UserError when there is none."""
    check_model(tracking_uri, name)
    registry = tracking.client(tracking_uri)
    challenger = by_alias(tracking_uri, name, CHALLENGER)
    if version is None and challenger is None:
        raise UserError(f"{name}: has no challenger. Say which version: `grayline promote {name} VERSION`.")
    wanted = challenger if version is None else value_of(find_version(registry, name, version))
    assert wanted is not None
    champion = by_alias(tracking_uri, name, CHAMPION)
    if champion and champion.version != wanted.version:
        registry.set_model_version_tag(name, wanted.version, BEFORE, champion.version)
    if ROLLED_BACK in registry.get_model_version(name, wanted.version).tags:
        registry.delete_model_version_tag(name, wanted.version, ROLLED_BACK)
    move_champion(tracking_uri, wanted, reason)
    if challenger and challenger.version == wanted.version:
        registry.delete_registered_model_alias(name, CHALLENGER)
    return wanted


@task
def rollback(tracking_uri: str, name: str, version: str | None, reason: str) -> ModelVersion:
    """Make the version (None: the champion before this one) the champion again."""
    check_model(tracking_uri, name)
    registry = tracking.client(tracking_uri)
    champion = by_alias(tracking_uri, name, CHAMPION)
    if champion is None:
        raise UserError(f"{name}: has no champion to roll back.")
    target = version or registry.get_model_version(name, champion.version).tags.get(BEFORE)
    if target is None:
        raise UserError(
            f"{name}: version {champion.version} is its first champion. "
            f"Say which version to go to: `grayline rollback {name} VERSION`."
        )
    wanted = value_of(find_version(registry, name, target))
    if wanted.version == champion.version:
        raise UserError(f"{name}: version {wanted.version} is the champion already.")
    registry.set_model_version_tag(name, champion.version, ROLLED_BACK, f"{now()}: {reason}")
    move_champion(tracking_uri, wanted, f"rolled back from version {champion.version}: {reason}")
    return wanted


def move_champion(tracking_uri: str, version: ModelVersion, reason: str) -> None:
    """The reason first, the alias last: a champion without a reason is never seen."""
    registry = tracking.client(tracking_uri)
    registry.set_model_version_tag(version.name, version.version, SINCE, now())
    registry.set_model_version_tag(version.name, version.version, REASON, reason)
    registry.set_registered_model_alias(version.name, CHAMPION, version.version)


def check_model(tracking_uri: str, name: str) -> None:
    names = [model.name for model in tracking.client(tracking_uri).search_registered_models()]
    if name not in names:
        there = ", ".join(names) or "none yet"
        raise UserError(f"no model {name!r}.{nearest(name, names)} Registered: {there}.")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
