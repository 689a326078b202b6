"""Evidence: the gate's checks of the held-out images themselves, for every night, the first one above all."""

from dataclasses import replace

from resnet_core.errors import plural
from resnet_core.evaluation import evidence
from resnet_core.evaluation.bootstrap import LEAST_GROUPS
from resnet_core.evaluation.comparison import in_words
from resnet_core.evaluation.evidence import Evidence
from tasks.dataset import Gate
from tasks.evaluation.page import too_few
from tasks.values import Check, Evaluation

WARNING = "warning: "  # begins the finding of a check that would refuse, but is not asked to
UNLIKE = "that look like no training image"


def least_of(gate: Gate) -> int:
    """Return the held-out images that a verdict needs."""
    return gate.held_out or Gate().held_out or 0


def strict_of(evaluation: Evaluation, gate: Gate) -> Evidence | None:
    """Return the evidence of images that look like no training image, if they are enough to judge by."""
    return evaluation.unlike if evidence.usable(evaluation.unlike, evaluation.evidence, least_of(gate)) else None


def check_floor(evaluation: Evaluation, gate: Gate) -> Check:
    """Hold the metric of the images against the minimum, and that of the images that look like no training image."""
    every, strict = evaluation.metrics[gate.metric], strict_of(evaluation, gate)
    found, lowest = f"{every}{_few(evaluation.evidence)}", every.value
    if strict and strict.metrics[gate.metric].value < lowest:
        lowest = strict.metrics[gate.metric].value
        found = f"{strict.metrics[gate.metric]} on {strict.images:,} images {UNLIKE}; {every} on all"
    return Check("floor", f"{gate.metric} at least {gate.minimum:.3f}", found, lowest >= gate.minimum)


def _few(of: Evidence) -> str:
    text = too_few(of.groups)
    return f" ({text})" if text else ""


def weak_evidence(evaluation: Evaluation, gate: Gate, first: bool) -> list[Check]:
    """Return the checks of the evidence itself. At a minimum of 0, they warn instead of refusing."""
    checks = {}
    if gate.held_out is not None:
        checks["held_out"] = _check_held_out(evaluation, gate, first)
    if gate.baseline:
        checks["baseline"] = _check_baseline(evaluation, gate)
    return [
        check if check.passed or gate.demands(name) else replace(check, found=WARNING + check.found, passed=True)
        for name, check in checks.items()
    ]


def _check_held_out(evaluation: Evaluation, gate: Gate, first: bool) -> Check:
    """Refuse a verdict from a few images, from a few groups, or without an image of some class."""
    of, least, faults = evaluation.evidence, gate.held_out or 0, []
    if of.missing:
        more = "add images of other groups" if of.groups else "hold more out with `split: {test: ...}`"
        faults.append(
            f"no held-out image of {', '.join(of.missing)}: {more}, or give some of its images the split `test` in the "
            "labels"
        )
    if of.images < least:
        faults.append(
            f"{plural(of.images, 'held-out image')}: add images, hold more out with `split: {{test: ...}}`, or accept "
            "fewer with `gate: {held_out: ...}`"
        )
    if too_few(of.groups):
        faults.append(
            f"{plural(of.groups or 0, 'held-out group')}: add groups, or hold more out with `split: {{test: ...}}`"
        )
    groups = f" and {LEAST_GROUPS} groups" * (of.groups is not None)
    found = f"{plural(of.images, 'image')} of {plural(len(of.supports), 'class', 'classes')}"
    found += f" in {plural(of.groups, 'group')}" if of.groups else ""
    told = evidence.told_from(of.images, 1 - of.metrics["accuracy"].value)
    if first and told > Gate().margin:
        found += f"; {evidence.in_words(told, of.images)}"
    if evaluation.look_alikes and strict_of(evaluation, gate) is None:
        found += f"; {evaluation.look_alikes:,} look like a training image, and the others are too few to judge by"
    return Check(
        "held out", f"at least {least:,} images{groups}, some of each class", "; ".join(faults) or found, not faults
    )


def _check_baseline(evaluation: Evaluation, gate: Gate) -> Check:
    """Refuse a version that is not shown to be better than one answer for every image."""
    every, strict = evaluation.evidence, strict_of(evaluation, gate)
    found, images = every.baseline, ""
    if strict and (strict.baseline.passed, -strict.baseline.p) < (found.passed, -found.p):
        found, images = strict.baseline, f" on {strict.images:,} images {UNLIKE}"
    few = ", the least of so few groups" * (found.passed and found.p > 1 - evidence.BASELINE)
    text = f"{found.value:.3f} ({in_words(found.p)}{few}){images}"
    if not found.passed:
        text += ": not shown to be better than one label for every image; train longer, check the labels, or hold out "
        text += "more groups" if every.groups else "more images"
    wanted = f"balanced accuracy above a constant answer's {found.constant:.3f}, {evidence.BASELINE:.1%} sure"
    return Check("baseline", wanted, text, found.passed)


def check_recall(evaluation: Evaluation, gate: Gate, name: str) -> Check:
    """Hold the recall of a class, as a batch decides, against its minimum."""
    least, used, strict = gate.recall[name], evaluation.evidence, strict_of(evaluation, gate)
    if strict and strict.recalls[name].value < used.recalls[name].value:
        used = strict
    recall, images = used.recalls[name], used.supports[name]
    text = f"{recall} of {plural(images, 'image')}" + f" {UNLIKE}" * (used is strict) + _few(used)
    if recall.value >= least and recall.low < least:
        text += "; these images do not show it with 95%"
    return Check(f"recall of {name}", f"at least {least:.3f}", text, recall.value >= least)
