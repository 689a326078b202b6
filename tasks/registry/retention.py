"""Retention: versions and runs in MLflow that are old, many, and needed by nothing.

Kept: what an alias points to, the newest, earlier champions that a rollback may return to, and versions of batches.
"""

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from mlflow.entities.model_registry import ModelVersion as RegisteredVersion
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking._tracking_service.utils import _get_store
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from resnet_core.credentials import opened
from resnet_core.storage.files import is_local
from tasks.access.passwords import is_own_mlflow
from tasks.registry.champion import champions_before, events, last_champion
from tasks.registry.moved import place_within
from tasks.registry.patience import says_missing
from tasks.registry.runs import TRAINING, client
from tasks.registry.versions import CHAMPION, all_pages, by_alias, versions_of
from tasks.settings import Settings
from tasks.store import Store

log = logging.getLogger("grayline")

_RETURNS = 3  # earlier champions, for rollbacks
_PAGE = 1000
_MODEL = "models:/m-"  # the source of a version: a logged model of MLflow's


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
    # Who deletes the alias has not deleted the version: `promote` brings it back.
    if champion := by_alias(tracking_uri, name, CHAMPION) or last_champion(tracking_uri, name):
        earlier = champions_before(events(tracking_uri, name), champion.version)
        needed |= {champion.version, *earlier[:_RETURNS]}
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
    """Delete versions with the runs that made them, and runs; where MLflow is a database also their files, for good.

    MLflow keeps the row of a deleted version; its tags, the larger part, go.
    """
    registry = client(tracking_uri)
    models = {str(v.source).removeprefix("models:/") for v in versions if str(v.source).startswith(_MODEL)}
    for version in versions:
        for tag in version.tags:
            registry.delete_model_version_tag(version.name, str(version.version), tag)
        registry.delete_model_version(version.name, str(version.version))
    still = {
        other.run_id for name in {version.name for version in versions}
        for other in versions_of(tracking_uri, name).values()
    }  # fmt: skip
    ids = sorted({*runs, *(str(version.run_id) for version in versions if version.run_id)} - still)
    for run in ids:
        with _gone_will_do():
            outputs = registry.get_run(run).outputs
            models |= {made.model_id for made in outputs.model_outputs} if outputs else set()
            registry.delete_run(run)
    for model in sorted(models):
        with _gone_will_do():
            registry.delete_logged_model(model)
    _remove_for_good(tracking_uri, ids, sorted(models))


@contextmanager
def _gone_will_do() -> Iterator[None]:
    """Pass over what somebody has removed before."""
    try:
        yield
    except MlflowException as error:  # MLflow's own word, or it is raised
        if not says_missing(error):
            raise


def _remove_for_good(tracking_uri: str, runs: Sequence[str], models: Sequence[str]) -> None:
    """Remove deleted runs and models with their files, as `mlflow gc` does.

    That command takes seconds to start, and removes every deleted experiment, which a person may want to restore.
    """
    root = Settings().root
    own = is_local(root) and is_own_mlflow(Path(Store(root).stack().path), tracking_uri)
    if own and Path(root.path, "mlflow.db").exists():  # the local stack serves the database of this store
        tracking_uri = Store(root).tracking_uri()
    store = _get_store(opened(tracking_uri))  # type: ignore[no-untyped-call]
    if not hasattr(store, "_hard_delete_run"):
        if runs:
            log.info("prune       MLflow keeps the files of deleted runs until its server's `mlflow gc`")
        return

    def delete_files(place: str) -> None:
        here = place_within(place, Path(Store(root).artifacts().path))
        get_artifact_repository(here).delete_artifacts()  # type: ignore[no-untyped-call]
        if here.startswith(("file:", "/")):
            with suppress(OSError):  # not empty, or gone: MLflow leaves the folder `m-...` of each version
                Path(local_file_uri_to_path(here)).parent.rmdir()  # type: ignore[no-untyped-call]

    for run in runs:
        with _gone_will_do():
            delete_files(store.get_run(run).info.artifact_uri)
            store._hard_delete_run(run)
    for model in models:
        with _gone_will_do():
            delete_files(store.get_logged_model(model, allow_deleted=True).artifact_location)
            store._hard_delete_logged_model(model)
