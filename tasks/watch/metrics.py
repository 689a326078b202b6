"""Metrics: text files for Prometheus, in the folder that `GRAYLINE_METRICS` names.

node_exporter's textfile collector reads every file of its folder. A job writes its own file, whole, so that none
replaces the numbers of another.
"""

import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from tasks.batch.values import DriftReport, Scores
from tasks.settings import Settings
from tasks.values import Night

if TYPE_CHECKING:
    from prometheus_client import Gauge

log = logging.getLogger("grayline")

METRICS = {
    "grayline_images_per_second": "Images per second of the last training or batch, by job.",
    "grayline_queue_runs": "Runs that Prefect has not begun though they are due.",
    "grayline_catalog_images": "Images of the catalog, by status.",
    "grayline_gate_promoted": "Whether the last night ended with a champion that is up to date: 1 or 0.",
    "grayline_gate_failed_checks": "Checks of the gate that failed in the last night.",
    "grayline_accuracy": "Accuracy of the last night's version on held-out images.",
    "grayline_champion_confirmed_timestamp_seconds": "When a night last made or confirmed the champion.",
    "grayline_night_timestamp_seconds": "When the last night ended.",
    "grayline_night_seconds": "Seconds that the last night took.",
    "grayline_batch_timestamp_seconds": "When the last batch ended.",
    "grayline_batch_images": "Images of the last batch, by outcome.",
    "grayline_review_share": "Share of the last batch's images that a person should see.",
    "grayline_drifted_measures": "Measures of drift over their thresholds in the last batch.",
    "grayline_alert": "Open alerts by kind: 1.",
}


class _File:
    """The metrics of a job, which has a name such as a data set's."""

    def __init__(self, job: str, name: str) -> None:
        from prometheus_client import CollectorRegistry

        self._registry, self._name = CollectorRegistry(), name
        self._gauges: dict[str, Gauge] = {}
        self._path = f"grayline-{job}-{quote(name, safe='')[-150:]}.prom"

    def set(self, metric: str, value: float | None, **labels: str) -> None:
        """Set a metric; None leaves it out."""
        from prometheus_client import Gauge

        if value is None:
            return
        if metric not in self._gauges:
            self._gauges[metric] = Gauge(metric, METRICS[metric], ["name", *labels], registry=self._registry)
        self._gauges[metric].labels(name=self._name, **labels).set(value)

    def write(self, folder: str) -> None:
        """Write the file; a folder that cannot be written is a line in the log."""
        from prometheus_client import write_to_textfile

        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            write_to_textfile(str(Path(folder) / self._path), self._registry)
            Path(folder, self._path).chmod(0o644)  # numbers and names alone; another user's node_exporter reads them
        except OSError as error:  # numbers for others end no night
            log.warning("metrics     GRAYLINE_METRICS: cannot write to %s (%s)", folder, error.strerror)


def write_night(night: Night, confirmed: float, seconds: float) -> None:
    """Write what a night has come to. confirmed: when the champion was last found to be up to date."""
    folder = Settings().metrics
    if not folder:
        return
    file, catalog = _File("night", night.catalog.dataset), night.catalog
    for status in ("ok", "duplicate", "quarantined", "unlabelled", "waiting"):
        file.set("grayline_catalog_images", getattr(catalog, status), status=status)
    made, shards = night.checkpoint, night.shard_set
    if made and shards and made.seconds:
        file.set("grayline_images_per_second", made.epochs * shards.train / made.seconds, job="train")
    if night.evaluation:
        file.set("grayline_accuracy", night.evaluation.metrics["accuracy"].value)
    if night.decision:
        failed = sum(not check.passed for check in night.decision.checks)
        file.set("grayline_gate_failed_checks", failed)
        file.set("grayline_gate_promoted", float(night.decision.promoted or not night.decision.checks))
        file.set("grayline_champion_confirmed_timestamp_seconds", confirmed)
    file.set("grayline_queue_runs", _waiting())
    file.set("grayline_night_seconds", seconds)
    file.set("grayline_night_timestamp_seconds", time.time())
    file.write(folder)


def write_batch(scores: Scores, drift: DriftReport, seconds: float) -> None:
    """Write what a batch has come to, under the name of its model."""
    folder = Settings().metrics
    if not folder:
        return
    file, new = _File("batch", scores.model.name), scores.scored - scores.reused - scores.again
    for outcome, images in (("scored", scores.scored), ("failed", scores.failed), ("reused", scores.reused)):
        file.set("grayline_batch_images", images, outcome=outcome)
    if new > 0 and seconds:
        file.set("grayline_images_per_second", new / seconds, job="batch")
    if scores.review is not None and scores.scored:
        file.set("grayline_review_share", scores.review / scores.scored)
    if not drift.why:
        file.set("grayline_drifted_measures", len(drift.drifted))
    file.set("grayline_batch_timestamp_seconds", time.time())
    file.write(folder)


def write_alerts(name: str, kinds: Iterable[str]) -> None:
    """Write the open alerts of a name; a kind that is well is not there."""
    if folder := Settings().metrics:
        file = _File("alerts", name)
        for kind in kinds:
            file.set("grayline_alert", 1, kind=kind)
        file.write(folder)


def _waiting() -> int | None:
    """Return how many runs are due and have not begun; None without a server."""
    from prefect.client.orchestration import get_client
    from prefect.settings import get_current_settings

    if not get_current_settings().api.url:
        return None
    due = {"flow_runs": {"state": {"name": {"any_": ["Late", "Pending"]}}, "tags": {"all_": ["grayline"]}}}
    try:
        with get_client(sync_client=True) as client:
            return int(client.request("POST", "/flow_runs/count", json=due).json())
    except Exception as error:  # noqa: BLE001  the night is done
        log.warning("metrics     Prefect's queue cannot be counted: %s", type(error).__name__)
        return None
