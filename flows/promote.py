"""Promote or roll back by hand, with a reason that is recorded."""

from prefect import flow

from tasks.release import promote as stage
from tasks.runner import run_name
from tasks.settings import Settings
from tasks.values import ModelVersion


@flow(name="promote", flow_run_name=run_name)
def promote(name: str, version: int | None = None, reason: str = "promoted by hand") -> ModelVersion:
    """Make a version the champion.

    Args:
        name: The registered model.
        version: The version's number; by default the challenger.
        reason: Why; recorded on the version.
    """
    return stage.promote(Settings().tracking_uri, name, None if version is None else str(version), reason)


@flow(name="rollback", flow_run_name=run_name)
def rollback(name: str, version: int | None = None, reason: str = "rolled back by hand") -> ModelVersion:
    """Take the champion back. The gate does not promote that version again.

    Args:
        name: The registered model.
        version: The version to return to; by default the last champion before this one that was not taken back.
        reason: Why; recorded on both versions.
    """
    return stage.rollback(Settings().tracking_uri, name, None if version is None else str(version), reason)
