"""A workspace for stages that are called without a flow."""

from typing import Any

from upath import UPath

from resnet_core.images.limits import DEFAULT_LIMITS
from tasks.settings import Settings
from tasks.store import Store
from tasks.workspace import Workspace


def a_workspace(store: UPath, tracking_uri: str | None = None, **changes: Any) -> Workspace:
    """Return the workspace of a store, on the CPU, without keys. MLflow is by default that of the settings."""
    given = {"device": "cpu", "limits": DEFAULT_LIMITS, "runner": "threads", "resident_bytes": 2**30, **changes}
    return Workspace(Store(store), tracking_uri or Settings().tracking_uri, **given)
