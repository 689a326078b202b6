"""The checks that hold a version against the champion, on the same held-out images."""

import logging
import math
from dataclasses import replace

from resnet_core.errors import plural, some_of
from resnet_core.evaluation import evidence
from resnet_core.evaluation.comparison import Comparison, compare, compare_slices, in_words
from resnet_core.evaluation.metrics import METRICS
from resnet_core.evaluation.slices import SIDE_GROUPS
from tasks.dataset import Dataset, Gate
from tasks.registry.images import Learned
from tasks.registry.versions import load_classifier
from tasks.release.against.side_by_side import SideBySide, score_both, speed_ratio
from tasks.release.evidence import UNLIKE, least_of, strict_of
from tasks.values import Check, ModelVersion, Night, have
from tasks.workspace import Workspace

log = logging.getLogger("grayline")

_SLICE_CONFIDENCE = 0.95
_NAMED = 3  # slices that the table names


def check_against(
    champion: ModelVersion, learned: Learned | None, night: Night, dataset: Dataset, here: Workspace
) -> tuple[list[Check], bool]:
    """Return the checks that compare, only the first of them if no image is left to compare by; and whether they last.

    They do not if another night may find otherwise with the same versions and images: by speed, or by files that
    cannot be read again.
    learned: the images that the champion has learned from; None if that is not known any more.
    """
    gate, versions = dataset.gate, (have(night.version), champion)
    new, old = (load_classifier(here.tracking_uri, each, here.device) for each in versions)
    both = score_both(new, old, learned, night, dataset.evaluate.slices, here.keys)
    checks, lasts = [_check_images(both, champion)], not both.gone and gate.speed is None
    if not len(both):
        return checks, lasts
    checks.append(_check_champion(both, champion, gate, strict_of(have(night.evaluation), gate) is not None))
    if gate.slice_margin is not None and both.slices:
        checks.append(_check_slices(both, gate.slice_margin))
    if both.learned is None:  # what the champion may have seen can only favour it: a check that passes is valid
        sure = f"`grayline promote {champion.name} {versions[0].version}` if you are sure"
        by_hand = f"; version {champion.version} may have learned from these images, which favours it: {sure}"
        checks = [check if check.passed else replace(check, found=check.found + by_hand) for check in checks]
    if gate.speed is not None:
        checks.append(_check_speed(speed_ratio(new, old, have(night.shard_set), here.keys), gate.speed, champion))
    return checks, lasts


def _check_images(both: SideBySide, champion: ModelVersion) -> Check:
    """Say which images are compared. A champion has seen no test image, unless the labels or a new split moved it."""
    parts = [f"{plural(len(both), 'image')}"]
    if both.learned is None:
        parts.append(f"some of which version {champion.version} may have learned from: that is not kept any more")
    elif both.learned:
        parts.append(f"without {both.learned:,} that version {champion.version} learned from")
    if both.gone:
        parts.append(f"without {both.gone:,} that cannot be read again")
    return Check("same images", "held out from both", ", ".join(parts), passed=len(both) > 0)


def _check_champion(both: SideBySide, champion: ModelVersion, gate: Gate, usable: bool) -> Check:
    """Compare on the same images, as the gate's policy demands, and on those that look like no training image.

    usable: whether the evaluation has enough of the latter.
    """
    sure = f"{gate.level:.0%} sure"
    better = gate.promote == "better"
    wanted = f"{gate.metric} higher, {sure}" if better else f"{gate.metric} at most {gate.margin:.3f} lower, {sure}"
    pairs = {"": both.pair}
    if usable and both.unlike is not None and least_of(gate) <= both.unlike.sum() < len(both):
        pairs[f" on {both.unlike.sum():,} images {UNLIKE}"] = both.pair.only(both.unlike)
    outcomes = []
    for images, pair in pairs.items():
        found = compare(METRICS[gate.metric], pair, gate.level)
        bound = in_words(found.p) if better else f"at least {found.lower:+.3f}"
        text = counted(found, bound) + images
        if (told := evidence.told_by(pair)) > gate.margin:
            text += f"; {evidence.in_words(told, len(pair.labels))}"
        outcomes.append((found.better if better else found.not_worse(gate.margin), found.value, text))
    passed, _, text = min(outcomes, key=lambda outcome: outcome[:2])
    return Check(f"champion (version {champion.version})", wanted, text, passed)


def counted(found: Comparison, bound: str) -> str:
    return f"{found.value:+.3f} ({bound}; {plural(found.gained, 'image')} gained, {found.lost:,} lost)"


def _check_slices(both: SideBySide, margin: float) -> Check:
    found = compare_slices(both.slices, both.pair, margin)
    worse = sorted((s for s in found if s.p <= 1 - _SLICE_CONFIDENCE), key=lambda s: s.p)
    named = [f"{s.name}: {s.value:+.3f} on {plural(s.images, 'image')} ({in_words(s.p)})" for s in worse]
    for text in named:
        log.warning("gate        worse on %s", text)
    lowest, told = min(found, key=lambda s: s.value), sum(not math.isnan(s.p) for s in found)
    words = some_of(named, _NAMED, "; ") or f"none of {told}; lowest {lowest.value:+.3f}"
    if told < len(found):
        words += f"; {len(found) - told} cannot be told: fewer than {SIDE_GROUPS} groups"
    wanted = f"none over {margin:.3f} lower, {_SLICE_CONFIDENCE:.0%} sure"
    return Check("slices", wanted, words, passed=not worse)


def _check_speed(rates: tuple[float, float, float], least: float, champion: ModelVersion) -> Check:
    ratio, new, old = rates
    found = f"{ratio:.0%} ({new:,.0f} against {old:,.0f} images/s)"
    return Check("speed", f"at least {least:.0%} of version {champion.version}'s images/s", found, ratio >= least)
