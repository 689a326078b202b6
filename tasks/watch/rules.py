"""Rules: which alerts a night or a batch raises, and which it ends."""

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect.runtime import deployment
from prefect.runtime import flow_run as this_run

from resnet_core.credentials import public
from resnet_core.errors import DataCheckError, JobError, OverstayedError, UserError
from resnet_core.storage.files import DiskFullError, is_local, says_full
from resnet_core.storage.turns import OccupiedError
from tasks.batch.values import DriftReport, Scores
from tasks.runner import dataset_name, stand_back
from tasks.settings import Settings
from tasks.store import Store
from tasks.values import Night
from tasks.watch import metrics
from tasks.watch.alerts import Alert, confirm_champion, note, open_alerts, settle
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.flows import Flow

_DAY = 86400.0
_ENDED = ("failed", "cancelled", "ended", "quarantine")  # nights that have come to an end are none of these
_MORE = "`grayline doctor` checks the installation; the next run goes on where this one stopped."


def watch_night(night: Night, here: Workspace, seconds: float) -> None:
    """Tell of what a night that has come to its end found, and write its metrics."""
    name, decision = night.catalog.dataset, night.decision
    judged, alerts = [*_ENDED, "data", "disk"], [*_room(here.store)]
    if night.data.warnings:
        found = "; ".join(map(str, night.data.warnings))
        alerts.append(Alert("data", f"the data checks warn: {found}.", f"Look at {night.data.folder}."))
    if decision:
        judged += ["refused", "stale"]
        refused = bool(decision.checks) and not decision.promoted
        if refused:
            number = decision.version.version
            text = f"version {number} was not promoted: {decision.reason}."
            report = f"`grayline report {name}/{number} -o report.html` shows why"
            remedy = f"{report}; `grayline promote {name} {number}` overrules."
            alerts.append(Alert("refused", text, remedy))
        alerts += _stale(here.store, name, confirmed=not refused)
    settle(here.store, name, judged, alerts, this_run.id)
    metrics.write_night(night, confirm_champion(here.store, name, now=False), seconds)
    metrics.write_alerts(name, open_alerts(here.store, name))


def _room(store: Store) -> list[Alert]:
    """Return the alert of a disk that is nearly full."""
    least = Settings().low_bytes
    if not least or not is_local(store.root):
        return []
    free = shutil.disk_usage(Path(store.root.path)).free
    if free >= least:
        return []
    text = f"{free / 1e9:,.1f} GB are free on the disk of {store.root}, less than GRAYLINE_LOW_BYTES."
    return [Alert("disk", text, "`grayline prune` lists what nothing needs.")]


def _stale(store: Store, name: str, *, confirmed: bool) -> list[Alert]:
    days = (time.time() - confirm_champion(store, name, now=confirmed)) / _DAY
    if days <= Settings().stale_days:
        return []
    text = f"for {days:.0f} days no night has made or confirmed the champion."
    return [Alert("stale", text, f"`grayline history {name}` says which versions were refused, and why.")]


def stood_back(error: OccupiedError | OverstayedError, store: Store, name: str) -> Any:
    """Return the state of a night that found another at work, or has used its hours.

    Prefect's event of it tells, the store remembers.
    """
    if deployment.id is not None:
        note(store, name, Alert("cancelled", str(error)))
    return stand_back(error)


def remember_a_killed_night(store: Store, name: str) -> None:
    """Open the alert of a night that was killed, for this one to end. A server of Prefect's has told of it already."""
    from prefect.settings import get_current_settings

    text = "the night before ended without a word: it was killed, or the power failed."
    alert = Alert("ended", text, "This night goes on where it stopped.")
    if get_current_settings().api.url:
        note(store, name, alert)
    else:
        settle(store, name, (), [alert], this_run.id)


def tell_of_a_failure(flow: "Flow[Any, Any]", flow_run: "FlowRun", state: "State[Any]") -> None:
    """Raise the alert of a run that failed: a hook of nights and of batches.

    A person who starts a batch sees its end; only a deployment's is told.
    """
    error, parameters = state.result(raise_on_failure=False), flow_run.parameters
    if isinstance(error, OccupiedError) or (flow.name == "classify-batch" and flow_run.deployment_id is None):
        return
    store = Store(Settings().root)
    place = str(parameters.get("dataset", ""))
    name = dataset_name(place) if place else _batch_name(str(parameters.get("source", "")))
    first = (str(error).strip() or "it says no more").splitlines()[0]
    if not isinstance(error, UserError | JobError):
        first = f"{type(error).__name__}: {first}."
    kind = "failed"
    if isinstance(error, DiskFullError) or says_full(error if isinstance(error, BaseException) else None):
        kind = "disk"
    elif isinstance(error, DataCheckError):
        kind = "quarantine" if first.startswith("quarantine") else "data"
    alerts = [Alert(kind, f"{flow.name} failed: {first}", _MORE if kind == "failed" else "")]
    settle(store, name, (), [*alerts, *_stale(store, name, confirmed=False)], str(flow_run.id))
    metrics.write_alerts(name, open_alerts(store, name))


def _batch_name(source: str) -> str:
    """Return the name by which alerts know a batch: what it scores."""
    return f"batch of {public(source)}"


def watch_batch(scores: Scores, drift: DriftReport, here: Workspace, seconds: float) -> None:
    """Tell of drift, and write the metrics of a batch."""
    alerts = []
    if drift.drifted:
        text = f"{scores.batch}: {drift.in_words()}."
        alerts.append(Alert("drift", text, f"Look at {drift.plot}; label some of its images, and retrain."))
    judged = [] if drift.why else ["drift"]
    settle(here.store, scores.model.name, judged, alerts, this_run.id)
    settle(here.store, _batch_name(scores.source), ["failed", "disk"], [], this_run.id)
    metrics.write_batch(scores, drift, seconds)
    metrics.write_alerts(scores.model.name, open_alerts(here.store, scores.model.name))
