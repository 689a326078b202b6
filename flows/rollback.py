"""Roll back: the last accepted champion before this one is the champion again."""

from prefect import flow

from tasks.release import promote as stage
from tasks.settings import Settings
from tasks.values import ModelVersion


@flow(name="rollback")
def rollback(name: str, version: int | None = None, reason: str = "rolled back by hand") -> ModelVersion:
    """Take the champion back. The version that was taken back is not promoted by the gate again.

    Args:
        name: The registered model.
        version: The version to return to; by default the last champion before this one that was not taken back.
        reason: Why; recorded on both versions.
    """
    return stage.rollback(Settings().tracking_uri, name, str(version) if version else None, reason)
