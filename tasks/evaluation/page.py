"""The evaluation as a page of tables: Prefect's artifact."""

import math
from collections.abc import Sequence

from resnet_core.errors import plural
from resnet_core.evaluation.assess import Assessment, Coverage, Decisions
from resnet_core.evaluation.bootstrap import LEAST_GROUPS, Interval
from resnet_core.evaluation.input_sizes import AtSize
from resnet_core.evaluation.novelty import Flagged
from resnet_core.evaluation.slices import Slice
from resnet_core.evaluation.slices import in_words as slices_in_words
from resnet_core.model.calibration import in_words
from tasks.artifacts import markdown_table, plain
from tasks.values import Checkpoint, Evaluation


def markdown(found: Assessment, sizes: Sequence[AtSize], checkpoint: Checkpoint) -> str:
    """Return all tables that have rows."""
    metrics, groups = found.metrics, found.evidence.groups
    drawn = f", drawn by their {plural(groups, 'group')}" if groups else ""
    intervals = too_few(groups) or f"The intervals are of 95%, over images{drawn}"
    parts = [
        f"# {checkpoint.dataset}: {plural(metrics.count, 'held-out image')}",
        f"{plural(checkpoint.epochs, 'epoch')} on {checkpoint.device} in {checkpoint.seconds:,.0f} s. {intervals}.",
        counted(found, "accuracy") + ".",
        *(f"**Missed**: {plain(text)}." for text in found.missed),
        markdown_table(
            ("metric", "value", "95% interval"),
            ((name.replace("_", " "), f"{i.value:.4f}", ends(i)) for name, i in metrics.overall.items()),
        ),
        markdown_table(
            ("class", "precision", "recall", "F1", "images"),
            ((name, m.precision, m.recall, m.f1, f"{m.support:,}") for name, m in metrics.per_class.items()),
        ),
        calibration(found),
        coverage(found.coverage) if found.coverage else "",
        novelty(found.flagged) if found.flagged else "",
        decisions(found.decisions) if found.decisions else "",
        slices(found.slices) if found.slices else "",
        by_size(sizes) if sizes else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def too_few(groups: int | None) -> str:
    """Return `1 group: no interval`, or an empty text for groups enough."""
    if groups is None or groups >= LEAST_GROUPS:
        return ""
    return f"{plural(groups, 'group')}: no interval"


def counted(found: Assessment | Evaluation, *metrics: str) -> str:
    """Return metrics of all held-out images, and the first of those that look like no training image, if some do."""
    every, unlike = found.evidence, found.unlike
    few = f" ({few})" if (few := too_few(every.groups)) else ""
    values = ", ".join(f"{name.replace('_', ' ')} {every.metrics[name]}" for name in metrics)
    text = f"{values} on {plural(every.images, 'held-out image')}{few}"
    if unlike:
        return f"{text}; {unlike.metrics[metrics[0]]} on {unlike.images:,} that look like no training image"
    return text + "; each looks like a training image" * bool(found.look_alikes)


def calibration(found: Assessment) -> str:
    fit = found.calibration
    rows = (
        (name.replace("_", " "), before, found.metrics.overall[name]) for name, before in found.uncalibrated.items()
    )
    return (
        f"## Calibration\n\nOn {plural(fit.images, 'image')} ({fit.fitted_on}): "
        f"{in_words(fit.temperature, fit.images)}.\n\n" + markdown_table(("", "before", "after"), rows)
    )


def coverage(found: Coverage) -> str:
    return (
        f"## Prediction sets\n\n{found.wanted:.0%} of the sets are to hold the true class; {found.found} do. "
        f"A set has {found.mean_size:.2f} classes on average; {found.review_share:.1%} of the images have not exactly "
        "one, and are for a person to see."
    )


def novelty(found: Flagged) -> str:
    return (
        f"## Unknown images\n\nAt most {found.wanted:.3g} of images like the held-out ones are to be called unknown; "
        f"{found.found} of them are. They, too, are for a person to see."
    )


def decisions(found: Decisions) -> str:
    said = "All figures of this page are of these decisions, which weigh the classes."
    if found.cost and found.default_cost:
        said += f" Cost an image: {found.cost}; by the most probable class it would be {found.default_cost}."
    if found.thresholds:
        name, least = min(found.thresholds.items(), key=lambda each: each[1])
        said += f" {plain(repr(name))} is decided on from a probability of {least:.3f}."
    rows = (
        (name, "" if each.wanted is None else f"{each.wanted:.3f}", each.recall, each.precision)
        for name, each in found.classes.items()
    )
    return f"## Decisions\n\n{said}\n\n" + markdown_table(("class", "recall wanted", "recall", "precision"), rows)


def slices(found: Sequence[Slice]) -> str:
    worse = [f"{plain(each.name)} ({each.accuracy.value:.3f} against {each.rest:.3f})" for each in found if each.worse]
    told = sum(each.told for each in found)
    said = slices_in_words(worse, told, len(found) - told)
    rows = (
        (each.column, each.value, f"{each.images:,}", each.accuracy, f"{each.rest:.3f}",
         *((f"{each.p:.3g}", "worse" if each.worse else "") if each.told else ("", "cannot be told")))
        for each in found
    )  # fmt: skip
    return f"## Slices\n\n{said} The p-values are corrected for the number of slices.\n\n" + markdown_table(
        ("column", "value", "images", "accuracy", "the rest", "p", ""), rows
    )


def by_size(sizes: Sequence[AtSize]) -> str:
    rows = ((f"{s.side} px", f"{s.accuracy:.3f}", f"{s.macro_f1:.3f}", f"{s.roc_auc:.3f}") for s in sizes)
    return (
        f"## Other input sizes\n\nThe stored pixels of {plural(sizes[0].images, 'image')} made smaller and larger, "
        "each seen once, without mirror images.\n\n" + markdown_table(("side", "accuracy", "macro F1", "ROC AUC"), rows)
    )


def ends(interval: Interval) -> str:
    if math.isnan(interval.low):
        return ""
    return f"{interval.low:.4f} to {interval.high:.4f}"
