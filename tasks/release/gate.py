"""The gate: may a new version become the champion? A list of named checks; all must pass.

Challenger and champion answer for the same held-out images, in this process, from the registry's own files: the
gate judges the version that would score.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict

from prefect import task
from prefect.artifacts import create_table_artifact

from resnet_core.errors import plural, some_of
from resnet_core.evaluation.comparison import Comparison, Pair, compare, compare_slices, in_words
from resnet_core.evaluation.metrics import METRICS
from tasks.dataset import Dataset, Gate
from tasks.registry import runs as tracking
from tasks.registry.images import learned_from
from tasks.registry.versions import CHAMPION, GATE, GATE_CHECKS, GATE_SETTINGS, ROLLED_BACK, by_alias, load_classifier
from tasks.release.int8 import measure_int8
from tasks.release.side_by_side import SideBySide, score_both, speed_ratio
from tasks.values import Check, DataReport, Decision, Evaluation, ModelVersion, Night, have
from tasks.workspace import Workspace

log = logging.getLogger("grayline")

_SLICE_CONFIDENCE = 0.95
_NAMED = 3  # slices that the table names


@task
def judge(night: Night, dataset: Dataset, here: Workspace) -> Decision:
    """Hold the version against the data set file's limits, and against the champion on the same held-out images.

    Writes the outcome on the version in any case.
    """
    version, evaluation, gate = have(night.version), have(night.evaluation), dataset.gate
    tracking_uri = here.tracking_uri
    champion = by_alias(tracking_uri, version.name, CHAMPION)
    if champion and champion.version == version.version:
        return Decision(version, (), False, "data, settings and code are those of the champion")
    checks = [_check_floor(evaluation, gate), _check_history(version, tracking_uri)]
    if gate.data_checks:
        checks.append(_check_data(night.data))
    if gate.calibration is not None:
        checks.append(_check_calibration(evaluation, gate.calibration))
    if champion:
        checks += _check_against(champion, night, dataset, here)
    failed = [check for check in checks if not check.passed]
    reason = "; ".join(f"{check.name}: {check.found}" for check in failed or _telling(checks))
    decision = Decision(version, tuple(checks), not failed, reason)
    record(decision, gate, tracking_uri)
    measure_int8(night, gate, here)
    return decision


def _telling(checks: Sequence[Check]) -> list[Check]:
    """Return the checks that sum up a version that passes."""
    return [check for check in checks if check.name == "floor" or check.name.startswith("champion ")]


def record(decision: Decision, gate: Gate, tracking_uri: str) -> None:
    """Write the outcome on the version: in words, and the table and the settings as JSON. Publish the table."""
    version, outcome = decision.version, "passed" if decision.promoted else "refused"
    tags = {
        GATE: f"{outcome}: {decision.reason}",
        GATE_CHECKS: json.dumps([asdict(check) for check in decision.checks], ensure_ascii=False),
        GATE_SETTINGS: gate.model_dump_json(),
    }
    registry = tracking.client(tracking_uri)
    for name, value in tags.items():
        registry.set_model_version_tag(version.name, version.version, name, value)
    create_table_artifact(
        [{"check": c.name, "wanted": c.wanted, "found": c.found, "passed": c.passed} for c in decision.checks],
        key="gate",
        description=f"{version}: {outcome}",
    )


def _check_floor(evaluation: Evaluation, gate: Gate) -> Check:
    found = evaluation.metrics[gate.metric]
    return Check("floor", f"{gate.metric} at least {gate.minimum:.3f}", str(found), found.value >= gate.minimum)


def _check_history(version: ModelVersion, tracking_uri: str) -> Check:
    """Refuse a version that a person took back: it does not return by itself, however good its figures are."""
    tags = tracking.client(tracking_uri).get_model_version(version.name, version.version).tags
    taken = tags.get(ROLLED_BACK)
    return Check("history", "never rolled back", f"rolled back: {taken}" if taken else "new", not taken)


def _check_data(data: DataReport) -> Check:
    warnings = ", ".join(finding.name for finding in data.warnings)
    found = f"warned of: {warnings}" if warnings else f"{len(data.findings)} passed"
    return Check("data checks", "no warning", found, passed=not warnings)


def _check_calibration(evaluation: Evaluation, most: float) -> Check:
    found = evaluation.metrics["calibration_error"]
    return Check("calibration", f"expected calibration error at most {most:.3f}", str(found), found.value <= most)


def _check_against(champion: ModelVersion, night: Night, dataset: Dataset, here: Workspace) -> list[Check]:
    """Return the checks that compare; only the first of them if no image is left to compare by."""
    gate, versions = dataset.gate, (have(night.version), champion)
    new, old = (load_classifier(here.tracking_uri, each, here.device) for each in versions)
    learned = learned_from(champion, here)
    both = score_both(new, old, learned, night, dataset.evaluate.slices, here.keys)
    checks = [_check_images(both, champion)]
    if not len(both):
        return checks
    checks.append(_check_champion(both, champion, gate))
    if gate.slice_margin is not None and both.slices:
        checks.append(_check_slices(both, gate.slice_margin))
    if gate.speed is not None:
        checks.append(_check_speed(speed_ratio(new, old, have(night.shard_set), here.keys), gate.speed, champion))
    return checks


def _check_images(both: SideBySide, champion: ModelVersion) -> Check:
    """Say which images are compared. A champion has seen none of the test images, unless the labels moved an image."""
    parts = [f"{plural(len(both), 'image')}"]
    if both.learned is None:
        parts.append(f"what version {champion.version} learned from is not kept any more")
    elif both.learned:
        parts.append(f"without {both.learned:,} that version {champion.version} learned from")
    if both.gone:
        parts.append(f"without {both.gone:,} that cannot be read again")
    return Check("same images", "held out from both", ", ".join(parts), passed=len(both) > 0)


def _check_champion(both: SideBySide, champion: ModelVersion, gate: Gate) -> Check:
    """Compare on the same images, as the gate's policy demands."""
    found = compare(METRICS[gate.metric], Pair(both.labels, both.new, both.old, both.groups), gate.level)
    sure = f"{gate.level:.0%} sure"
    if gate.promote == "better":
        wanted, bound, passed = f"{gate.metric} higher, {sure}", in_words(found.p), found.better
    else:
        wanted = f"{gate.metric} at most {gate.margin:.3f} lower, {sure}"
        bound, passed = f"at least {found.lower:+.3f}", found.not_worse(gate.margin)
    return Check(f"champion (version {champion.version})", wanted, counted(found, bound), passed)


def counted(found: Comparison, bound: str) -> str:
    return f"{found.value:+.3f} ({bound}; {plural(found.gained, 'image')} gained, {found.lost:,} lost)"


def _check_slices(both: SideBySide, margin: float) -> Check:
    found = compare_slices(both.slices, Pair(both.labels, both.new, both.old, both.groups), margin)
    worse = sorted((s for s in found if s.p <= 1 - _SLICE_CONFIDENCE), key=lambda s: s.p)
    named = [f"{s.name}: {s.value:+.3f} on {plural(s.images, 'image')} ({in_words(s.p)})" for s in worse]
    for text in named:
        log.warning("gate        worse on %s", text)
    lowest = min(found, key=lambda s: s.value)
    words = some_of(named, _NAMED, "; ") or f"none of {len(found)}; lowest {lowest.value:+.3f}"
    wanted = f"none over {margin:.3f} lower, {_SLICE_CONFIDENCE:.0%} sure"
    return Check("slices", wanted, words, passed=not worse)


def _check_speed(rates: tuple[float, float, float], least: float, champion: ModelVersion) -> Check:
    ratio, new, old = rates
    found = f"{ratio:.0%} ({new:,.0f} against {old:,.0f} images/s)"
    return Check("speed", f"at least {least:.0%} of version {champion.version}'s images/s", found, ratio >= least)
