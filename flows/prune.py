"""Pruning: the store, MLflow and Prefect's own database forget what is old and not needed."""

import logging
from datetime import UTC, datetime, timedelta

from flows.stack.vacuum import cut_logs, vacuum
from tasks.prune import Pruning, plan_pruning, prune
from tasks.settings import Settings
from tasks.workspace import workspace

log = logging.getLogger("grayline")


def plan(days: int | None = None, keep: int | None = None) -> Pruning:
    """Find what may go. days, keep: by default those of the settings."""
    settings = Settings()
    before = datetime.now(UTC) - timedelta(days=settings.keep_days if days is None else days)
    return plan_pruning(workspace(), before, settings.keep_versions if keep is None else keep)


def keep_house(pruning: Pruning) -> None:
    """Delete it, let Prefect forget old runs, and cut the logs of the local stack."""
    prune(pruning, workspace())
    vacuum()
    cut_logs()


def after_the_night() -> None:
    """Prune if GRAYLINE_PRUNE_NIGHTLY says so. The night is done: whatever fails here is a line in its log."""
    if not Settings().prune_nightly:
        return
    try:
        pruning = plan()
        keep_house(pruning)
    except Exception as error:  # noqa: BLE001
        log.warning("prune       failed: %s. Run `grayline prune` for more", error)
        return
    log.info(
        "prune       %.1f MB, %d versions and %d runs deleted",
        pruning.bytes / 1e6, len(pruning.versions), len(pruning.runs),
    )  # fmt: skip
