"""Monitor: does the champion still do on new labelled images what its evaluation promised?"""

import json
import logging
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from statistics import NormalDist
from typing import Any

import scipy
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from prefect import task
from pydantic import ValidationError

from resnet_core.drift.unknown import unknown_drift
from resnet_core.errors import JobError, plural
from resnet_core.evaluation.comparison import Comparison, Pair, below, compare, in_words
from resnet_core.evaluation.metrics import METRICS, Interval, intervals
from resnet_core.storage.digest import GONE
from tasks.artifacts import publish_table
from tasks.dataset import Gate
from tasks.registry import runs as tracking
from tasks.registry.images import Learned, learned_from
from tasks.registry.patience import download
from tasks.registry.versions import GATE_SETTINGS, MONITOR, load_classifier
from tasks.release.labelled import Answers, answer, check_labels
from tasks.release.labelled import in_words as left_out_in_words
from tasks.values import Check, ModelVersion
from tasks.workspace import Workspace


@dataclass(frozen=True)
class Verdict:
    """The result for a version on `count` new labelled images: its metric on them, and checks like the gate's.

    `left_out` counts the other images by reason. `take_back`: the predecessor would do better.
    """

    version: ModelVersion
    predecessor: ModelVersion | None
    metric: str
    found: Interval
    count: int
    left_out: dict[str, int]
    checks: tuple[Check, ...]
    take_back: bool

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)


log = logging.getLogger("grayline")

_CONFIDENCE = 0.95
WIDTH = 2 * NormalDist().inv_cdf(0.975)  # standard deviations that a 95% interval is wide


class MonitorError(JobError):
    """The version fails a check; `verdict` has all of them."""

    def __init__(self, verdict: Verdict, then: str) -> None:
        failed = "; ".join(f"{check.name}: {check.found}" for check in verdict.failed)
        super().__init__(f"{verdict.version}: {failed}. {then}")
        self.verdict = verdict


@task
def monitor(labels: str, version: ModelVersion, predecessor: ModelVersion | None, here: Workspace) -> Verdict:
    """Hold a version against its gate's floor, its evaluation and its predecessor, by images that are new to all.

    Writes the outcome on the version and its run.

    labels: CSV or Parquet with path,label[,group]; paths are relative to it.
    """
    check_labels(labels)
    versions = [each for each in (version, predecessor) if each]
    classifiers = [load_classifier(here.tracking_uri, each, here.device) for each in versions]
    learned = [learned_from(each, here) for each in versions]
    for each, known in zip(versions, learned, strict=True):
        if known is None:
            log.warning("monitor     what version %s learned from is not kept any more", each.version)
    either = Learned(frozenset[str]().union(*(known.ids for known in learned if known)))
    found = answer(labels, classifiers, either, here.limits)
    verdict = judge(found, version, predecessor, _gate_of(version, here.tracking_uri), here.tracking_uri)
    record(verdict, labels, here.tracking_uri)
    return verdict


def judge(
    answers: Answers, version: ModelVersion, predecessor: ModelVersion | None, gate: Gate | None, tracking_uri: str
) -> Verdict:
    name = gate.metric if gate else Gate().metric
    labels, own, groups = answers.labels, answers.scores[0], answers.groups
    found = intervals([name], labels, own, groups)[name]
    checks = []
    if gate:
        p = below(METRICS[name], labels, own, gate.minimum, groups)
        checks.append(Check("floor", f"{name} not below {gate.minimum:.3f}", said(found, p), passed=alike(p)))
    if measured := _evaluation_of(version, name, tracking_uri):
        exact = name == "accuracy" and groups is None and not measured["groups"]
        p = (fewer_right if exact else lower)(found, len(labels), measured["interval"], measured["images"])
        wanted = f"not below its evaluation's {measured['interval']}"
        checks.append(Check("evaluation", wanted, said(found, p), passed=alike(p)))
    if answers.far:
        far = unknown_drift(*answers.far, None)
        named = f"; farthest: {', '.join(answers.farthest)}" if answers.farthest and not alike(far.p) else ""
        checks.append(Check("unknown images", "not more than expected", far.detail + named, passed=alike(far.p)))
    remedy = False
    if predecessor:
        others = answers.scores[1]
        gap = compare(METRICS[name], Pair(labels, others, own, groups), _CONFIDENCE)
        wanted = f"not below version {predecessor.version}'s"
        text = f"{0 - gap.value:+.3f} ({in_words(gap.p)}; {plural(gap.lost, 'image')} gained, {gap.gained:,} lost)"
        checks.append(Check(f"predecessor (version {predecessor.version})", wanted, text, passed=not gap.better))
        holds = gate is not None and alike(below(METRICS[name], labels, others, gate.minimum, groups))
        remedy = would_do_better(gap, checks, holds)
    return Verdict(version, predecessor, name, found, len(labels), answers.left_out, tuple(checks), remedy)


def would_do_better(gap: Comparison, checks: list[Check], holds: bool) -> bool:
    """Return whether to take the version back: its predecessor is better, or the version alone is below the floor.

    Both must be shown, not only likely. holds: the predecessor is not below the floor.
    """
    return gap.better or (holds and any(check.name == "floor" and not check.passed for check in checks))


def alike(p: float) -> bool:
    """Return whether chance alone may have made the difference."""
    return not p <= 1 - _CONFIDENCE


def said(found: Interval, p: float) -> str:
    return f"{found.value:.3f} ({in_words(p)})"


def fewer_right(found: Interval, images: int, measured: Interval, held_out: int) -> float:
    """Return the p of "no lower" for two accuracies, by Fisher's exact test."""
    counts = [(round(found.value * images), images), (round(measured.value * held_out), held_out)]
    table = [[right, count - right] for right, count in counts]
    return float(scipy.stats.fisher_exact(table, alternative="less").pvalue)


def lower(found: Interval, images: int, measured: Interval, held_out: int) -> float:
    """Return the same p for any metric, from the widths of the two intervals; 1 if they tell nothing."""
    error = ((found.high - found.low) ** 2 + (measured.high - measured.low) ** 2) ** 0.5 / WIDTH
    return float(scipy.stats.norm.cdf((found.value - measured.value) / error)) if error > 0 else 1.0


def _gate_of(version: ModelVersion, tracking_uri: str) -> Gate | None:
    """Return the limits by which the gate judged the version; None if no gate did."""
    text = tracking.client(tracking_uri).get_model_version(version.name, version.version).tags.get(GATE_SETTINGS)
    try:
        return Gate.model_validate_json(text) if text else None
    except ValidationError:  # of another release
        return None


def _evaluation_of(version: ModelVersion, metric: str, tracking_uri: str) -> dict[str, Any] | None:
    """Return `interval`, `images` and `groups` of the metric on the held-out images; None if it was not measured."""
    try:
        place = f"runs:/{version.run_id}/evaluation/metrics.json"
        with tempfile.TemporaryDirectory() as scratch:
            found = json.loads(download(tracking_uri, place, scratch).read_text(encoding="utf-8"))
        ends = [found["metrics"][metric][name] for name in ("value", "low", "high")]
    except (MlflowException, *GONE, KeyError):  # MLflow says that there is none, or it is of another release
        return None
    if None in ends:  # the held-out images could not tell
        return None
    return {"interval": Interval(*ends), "images": found["images"], "groups": found.get("groups")}


def record(verdict: Verdict, labels: str, tracking_uri: str) -> None:
    """Log metrics and table on the version's run, a step for each call, and the outcome on the version."""
    registry, version = tracking.client(tracking_uri), verdict.version
    outcome = "failed" if verdict.failed else "passed"
    values = {
        f"monitor_{verdict.metric}": verdict.found.value,
        f"monitor_{verdict.metric}_low": verdict.found.low,
        f"monitor_{verdict.metric}_high": verdict.found.high,
        "monitor_images": float(verdict.count),
    }
    at = datetime.now(UTC)
    if run_id := tracking.living_run(tracking_uri, version.run_id):
        step = len(registry.get_metric_history(run_id, "monitor_images")) + 1
        made = partial(Metric, timestamp=int(time.time() * 1000), step=step)
        registry.log_batch(run_id, metrics=[made(key=name, value=v) for name, v in values.items() if v == v])
        table = {"at": at.isoformat(timespec="seconds"), "labels": labels, **asdict(verdict)}
        registry.log_dict(run_id, table, f"monitor/{at:%Y%m%dT%H%M%SZ}.json")
    text = (
        f"{outcome} {at:%Y-%m-%d %H:%M} UTC: {verdict.metric} {verdict.found} on {plural(verdict.count, 'new image')}"
    )
    registry.set_model_version_tag(version.name, version.version, MONITOR, text)
    publish_table(
        [{"check": c.name, "wanted": c.wanted, "found": c.found, "passed": c.passed} for c in verdict.checks],
        key="monitor",
        description=f"{version}: {text}",
    )
    others = f"; {left_out_in_words(verdict.left_out)}" if verdict.left_out else ""
    log.info("monitor     %s version %s %s%s", version.name, version.version, text, others)
