"""The gate: may a new version become the champion? A list of named checks; all must pass.

Challenger and champion answer for the same held-out images, in this process, from the registry's own files: the
gate judges the version that would score.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict

from prefect import task

from tasks.artifacts import publish_table
from tasks.dataset import Dataset, Gate
from tasks.registry import runs as tracking
from tasks.registry.champion import champion_of, last_champion
from tasks.registry.versions import GATE, GATE_CHECKS, GATE_SETTINGS, INT8, ROLLED_BACK
from tasks.release.against.kept import hold_against
from tasks.release.evidence import WARNING, check_floor, check_recall, weak_evidence
from tasks.release.int8 import measure_int8
from tasks.values import Check, DataReport, Decision, Evaluation, ModelVersion, Night, have
from tasks.workspace import Workspace

log = logging.getLogger("grayline")


@task
def judge(night: Night, dataset: Dataset, here: Workspace) -> Decision:
    """Hold the version against the data set file's limits, and against the champion on the same held-out images.

    Writes the outcome on the version in any case.
    """
    version, evaluation, gate = have(night.version), have(night.evaluation), dataset.gate
    tracking_uri = here.tracking_uri
    champion = champion_of(tracking_uri, version.name)
    if champion and champion.version == version.version:
        return Decision(version, (), False, "data, settings and code are those of the champion")
    # A deleted alias lets in nothing that the champion would have kept out.
    before = champion or last_champion(tracking_uri, version.name)
    if before and before.version == version.version:  # it gets its alias back
        before = None
    weak = weak_evidence(evaluation, gate, first=before is None)
    checks = [check_floor(evaluation, gate), *weak, _check_history(version, tracking_uri)]
    checks += [check_recall(evaluation, gate, name) for name in gate.recall]
    if gate.data_checks:
        checks.append(_check_data(night.data))
    if gate.calibration is not None:
        checks.append(_check_calibration(evaluation, gate.calibration))
    against = hold_against(before, night, dataset, here) if before else None
    checks += against.checks if against else ()
    failed = [check for check in checks if not check.passed]
    reason = "; ".join(f"{check.name}: {check.found}" for check in failed or _telling(checks))
    decision = Decision(version, tuple(checks), not failed, reason, against)
    for check in weak if not failed else ():
        if check.found.startswith(WARNING):
            text = check.found.removeprefix(WARNING)
            log.warning("gate        warning: promoted without evidence: %s: %s", check.name, text)
    record(decision, gate, tracking_uri)
    if not (against and against.again and INT8 in _tags(version, tracking_uri)):
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
    publish_table(
        [{"check": c.name, "wanted": c.wanted, "found": c.found, "passed": c.passed} for c in decision.checks],
        key="gate",
        description=f"{version}: {outcome}",
    )


def _check_history(version: ModelVersion, tracking_uri: str) -> Check:
    """Refuse a version that a person took back: it does not return by itself, however good its figures are."""
    taken = _tags(version, tracking_uri).get(ROLLED_BACK)
    return Check("history", "never rolled back", f"rolled back: {taken}" if taken else "new", not taken)


def _tags(version: ModelVersion, tracking_uri: str) -> dict[str, str]:
    return dict(tracking.client(tracking_uri).get_model_version(version.name, version.version).tags)


def _check_data(data: DataReport) -> Check:
    warnings = ", ".join(finding.name for finding in data.warnings)
    found = f"warned of: {warnings}" if warnings else f"{len(data.findings)} passed"
    return Check("data checks", "no warning", found, passed=not warnings)


def _check_calibration(evaluation: Evaluation, most: float) -> Check:
    found = evaluation.metrics["calibration_error"]
    return Check("calibration", f"expected calibration error at most {most:.3f}", str(found), found.value <= most)
