"""The evaluation as a page of tables: Prefect's artifact."""

from collections.abc import Sequence

from resnet_core.errors import plural
from resnet_core.evaluation.assess import Assessment, Coverage, Decisions
from resnet_core.evaluation.bootstrap import Interval
from resnet_core.evaluation.input_sizes import AtSize
from resnet_core.evaluation.slices import Slice
from tasks.artifacts import markdown_table, plain
from tasks.values import Checkpoint


def markdown(found: Assessment, sizes: Sequence[AtSize], checkpoint: Checkpoint, groups: int | None) -> str:
    """Return all tables that have rows."""
    metrics, drawn = found.metrics, f", drawn by their {plural(groups, 'group')}" if groups else ""
    parts = [
        f"# {checkpoint.dataset}: {plural(metrics.count, 'held-out image')}",
        f"{plural(checkpoint.epochs, 'epoch')} on {checkpoint.device} in {checkpoint.seconds:,.0f} s. "
        f"The intervals are of 95%, over images{drawn}.",
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
        decisions(found.decisions) if found.decisions else "",
        slices(found.slices) if found.slices else "",
        by_size(sizes) if sizes else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def calibration(found: Assessment) -> str:
    fit = found.calibration
    rows = (
        (name.replace("_", " "), before, found.metrics.overall[name]) for name, before in found.uncalibrated.items()
    )
    return (
        f"## Calibration\n\nTemperature {fit.temperature:.3f}, found on {plural(fit.images, 'image')} "
        f"({fit.fitted_on}).\n\n" + markdown_table(("", "before", "after"), rows)
    )


def coverage(found: Coverage) -> str:
    return (
        f"## Prediction sets\n\n{found.wanted:.0%} of the sets are to hold the true class; {found.found} do. "
        f"A set has {found.mean_size:.2f} classes on average; {found.review_share:.1%} of the images have not exactly "
        "one, and are for a person to see."
    )


def decisions(found: Decisions) -> str:
    said = f"Accuracy of the decisions: {found.accuracy}."
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
    said = f"Significantly worse than the rest: {', '.join(worse)}." if worse else "None is significantly worse."
    rows = (
        (each.column, each.value, f"{each.images:,}", each.accuracy, f"{each.rest:.3f}",
         f"{each.p:.3g}", "worse" if each.worse else "")
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
    return f"{interval.low:.4f} to {interval.high:.4f}"
