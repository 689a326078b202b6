"""Retention: versions and runs in MLflow that are old, many, and needed by nothing.

Kept: what an alias points to, the newest, earlier champions that a rollback may return to, and versions of batches.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Collection, Sequence
from datetime import datetime

from mlflow.entities.model_registry import ModelVersion as RegisteredVersion
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from tasks.registry.champion import champions_before, events
from tasks.registry.runs import TRAINING, client
from tasks.registry.versions import CHAMPION, all_pages, by_alias, versions_of

log = logging.getLogger("grayline")

_RETURNS = 3  # earlier champions, for rollbacks
_PAGE = 1000


def expired_versions(
    tracking_uri: str, name: str, keep: int, before: datetime, used: Collection[str]
) -> list[RegisteredVersion]:
    """Return the versions made before a time that are not needed, oldest first.

    keep: so many of the newest stay, whatever their age; their order is that of their numbers. used: versions that
    batches in the store were scored by.
    """
    registry = client(tracking_uri)
    versions = versions_of(tracking_uri, name)
    numbers = sorted(versions, key=int)
    needed = {*numbers[max(0, len(numbers) - keep) :], *used, *_of_batches(tracking_uri, name)}
    needed |= {str(version) for version in registry.get_registered_model(name).aliases.values()}
    if champion := by_alias(tracking_uri, name, CHAMPION):
        needed |= set(champions_before(events(tracking_uri, name), champion.version)[:_RETURNS])
    limit = before.timestamp() * 1000
    return [versions[n] for n in numbers if n not in needed and versions[n].creation_timestamp < limit]


def _of_batches(tracking_uri: str, name: str) -> set[str]:
    """Return the versions that the runs of batches name."""
    registry = client(tracking_uri)
    experiment = registry.get_experiment_by_name(f"{name}-scores")
    if experiment is None:
        return set()
    ids = [experiment.experiment_id]
    pages = all_pages(lambda token: registry.search_runs(ids, max_results=_PAGE, page_token=token))
    return {run.data.params.get("model_version", "") for run in pages}


def expired_runs(tracking_uri: str, name: str, keep: int, before: datetime, going: Collection[str]) -> list[str]:
    """Return the ids of old runs of trainings that no version was made of. going: runs that are deleted anyway."""
    registry = client(tracking_uri)
    experiment = registry.get_experiment_by_name(name)
    if experiment is None:
        return []
    made = {version.run_id for version in versions_of(tracking_uri, name).values()} - set(going)
    condition = f"attributes.end_time < {int(before.timestamp() * 1000)} and tags.`{TRAINING}` != ''"
    runs = registry.search_runs([experiment.experiment_id], condition, order_by=["attributes.start_time DESC"])
    alone = [run for run in runs if run.info.run_id not in made and MLFLOW_PARENT_RUN_ID not in run.data.tags]
    return [str(run.info.run_id) for run in alone[keep:] if run.info.run_id not in going]


def delete_from_registry(tracking_uri: str, versions: Sequence[RegisteredVersion], runs: Sequence[str]) -> None:
    """Delete versions with the runs that made them, and runs; in an own database also their files, for good."""
    registry = client(tracking_uri)
    for version in versions:
        registry.delete_model_version(version.name, str(version.version))
    still = {
        other.run_id for name in {version.name for version in versions}
        for other in versions_of(tracking_uri, name).values()
    }  # fmt: skip
    ids = sorted({*runs, *(str(version.run_id) for version in versions if version.run_id)} - still)
    for run in ids:
        registry.delete_run(run)
    if not tracking_uri.startswith("sqlite:"):
        if ids:
            log.info("prune       MLflow keeps the files of deleted runs until its server's `mlflow gc`")
        return
    for start in range(0, len(ids), 100):
        command = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", tracking_uri, "--run-ids"]
        done = subprocess.run(
            [*command, ",".join(ids[start : start + 100])], env={**os.environ, "MLFLOW_TRACKING_URI": tracking_uri},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            log.warning("prune       mlflow gc: %s", (done.stderr.strip().splitlines() or ["failed"])[-1])
