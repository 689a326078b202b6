"""Monitor: check the champion on new labelled images, and roll back if its predecessor does better."""

from prefect import flow

from resnet_core.errors import UserError
from tasks.registry.champion import last_accepted
from tasks.registry.versions import CHAMPION, by_alias, find_version, resolve
from tasks.release import monitor as stage
from tasks.release.labelled import check_labels
from tasks.release.monitor import Verdict
from tasks.release.promote import rollback as take_back
from tasks.runner import run_name
from tasks.values import ModelVersion
from tasks.workspace import workspace


@flow(name="monitor", flow_run_name=run_name)
def monitor(labels: str, model: str | None = None, rollback: bool = False) -> Verdict:
    """Compare a version with its floor, its evaluation and its predecessor; fail if it does worse.

    Args:
        labels: CSV or Parquet of new images, with the columns path and label; paths are relative to it.
        model: NAME@ALIAS or NAME/VERSION; by default the champion of the only model there is.
        rollback: Make the previous champion the champion again if it does better.
    """
    here = workspace().with_known_keys()
    check_labels(labels)
    version = resolve(here.tracking_uri, model)
    if rollback:
        _check_champion(here.tracking_uri, version)
    before = _predecessor(here.tracking_uri, version)
    verdict = stage.monitor(labels, version, before, here)
    if not verdict.failed:
        return verdict
    if before and verdict.take_back and rollback:
        reason = "monitor: " + "; ".join(f"{check.name}: {check.found}" for check in verdict.failed)
        take_back(here.tracking_uri, version.name, before.version, reason)
    raise stage.MonitorError(verdict, _advice(verdict, rollback))


def _check_champion(tracking_uri: str, version: ModelVersion) -> None:
    champion = by_alias(tracking_uri, version.name, CHAMPION)
    if champion is None or champion.version != version.version:
        raise UserError(
            f"--rollback: version {version.version} of {version.name} is not its champion. Leave --model out."
        )


def _predecessor(tracking_uri: str, version: ModelVersion) -> ModelVersion | None:
    """Return the champion before this one that was not taken back."""
    number = last_accepted(tracking_uri, version)
    return find_version(tracking_uri, version.name, number) if number else None


def _advice(verdict: Verdict, rollback: bool) -> str:
    """Return what was done, or the remedy."""
    if verdict.predecessor is None:
        return "There is no champion before it to go back to."
    number = verdict.predecessor.version
    if not verdict.take_back:
        return f"Version {number} would do no better: look at the new images."
    if rollback:
        return f"Version {number} is the champion again."
    return f"Take it back with `grayline rollback {verdict.version.name}`, or by itself with --rollback."
