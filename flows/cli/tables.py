"""What the commands print when they are done: on stdout, as tables."""

from collections import Counter

import pyarrow as pa
import yaml
from rich.console import Console
from rich.table import Table

from resnet_core.catalog.history import WATCHED
from resnet_core.training.search_space import fragment
from tasks.batch.finish import speed
from tasks.batch.values import Scores
from tasks.release.monitor import Verdict
from tasks.report.night_page import headline, summary
from tasks.settings import Settings
from tasks.training.cross_validate import CrossValidation
from tasks.training.tune import Tuning
from tasks.values import Check, Night

console = Console(highlight=False, soft_wrap=True)


def show_night(night: Night) -> None:
    """A line a stage, and the gate's checks."""
    table = Table("stage", "", title=headline(night), title_justify="left", box=None, pad_edge=False)
    for stage, text in summary(night):
        table.add_row(stage, text)
    console.print(table)
    if night.decision and night.decision.checks:
        console.print()
        _show_checks(night.decision.checks)
    console.print()


def _show_checks(checks: tuple[Check, ...]) -> None:
    table = Table("check", "wanted", "found", "", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for check in checks:
        table.add_row(check.name, check.wanted, check.found, "passed" if check.passed else "failed")
    console.print(table)


def show_verdict(verdict: Verdict) -> None:
    """What new labelled images said of a version, check by check."""
    version = verdict.version
    others = f"; left out: {', '.join(f'{n:,} {why}' for why, n in verdict.left_out.items())}" * bool(verdict.left_out)
    console.print(
        f"{version.name} version {version.version} on {verdict.count:,} new images{others}: "
        f"{verdict.metric} {verdict.found}"
    )
    console.print()
    _show_checks(verdict.checks)
    console.print()


def show_cross_validation(found: CrossValidation) -> None:
    """Each metric's mean and spread over the folds, and where the predictions are."""
    again = f", {found.reused} of them in an earlier run" if found.reused else ""
    title = f"{found.dataset}: {found.folds} folds of {found.count:,} training images{again}"
    table = Table("metric", title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("mean", "standard deviation", "folds"):
        table.add_column(heading, justify="right")
    for name, (mean, std) in found.metrics.items():
        values = " ".join(f"{value:.3f}" for value in found.by_fold[name])
        table.add_row(name.replace("_", " "), f"{mean:.3f}", f"{std:.3f}", values)
    console.print(table)
    console.print(f"{found.predictions}\nrun {found.mlflow_run_id} in {Settings().tracking_uri}")


def show_tuning(found: Tuning) -> None:
    """The best values as a part of a data set file, what matters, and where to look."""
    plan = found.plan
    table = Table("setting", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.title, table.title_justify = f"{plan.name}: {found.trials} trials, {found.pruned} ended early", "left"
    for heading in ("best", "importance"):
        table.add_column(heading, justify="right")
    for key, value in found.values.items():
        table.add_row(key, str(value), f"{found.importance[key]:.2f}" if key in found.importance else "")
    console.print(table)
    own = f"; your own values: {found.own_accuracy:.4f}" if found.own_accuracy is not None else ""
    console.print(f"\nvalidation accuracy {found.accuracy:.4f} after {plan.epochs} epochs, trial {found.number}{own}")
    console.print("\n# for the data set file\n" + yaml.safe_dump(fragment(found.values), sort_keys=False))
    console.print(f"pictures and trials: run {plan.mlflow_run_id} in {Settings().tracking_uri}\nstudy: {plan.storage}")


def show_scores(scores: Scores) -> None:
    """Counts and mean confidence by label, and where the rows are."""
    title = (
        f"{scores.files:,} files by {scores.model.name} version {scores.model.version}: "
        f"{scores.scored:,} scored, {scores.failed:,} failed"
        + ("" if scores.review is None else f", {scores.review:,} need a person's eyes")
    )
    table = Table("label", title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("images", justify="right")
    table.add_column("mean confidence", justify="right")
    for label, (count, confidence) in scores.labels.items():
        table.add_row(label, f"{count:,}", f"{confidence:.3f}")
    console.print(table)
    if scores.reasons:
        console.print("failed: " + ", ".join(f"{count:,} {reason}" for reason, count in scores.reasons.items()))
    console.print(f"{speed(scores)}\n{scores.output}")
    console.print()


def show_places(dataset: str, scores: Scores) -> None:
    """Where the demo's files are, and what to do next."""
    settings = Settings()
    store = settings.root
    table = Table("what", "where", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_row("catalog", f"{store}/catalog/{dataset}/")
    table.add_row("shards", f"{store}/shards/{dataset}/")
    table.add_row("metrics and plots", f"{store}/runs/{dataset}/")
    table.add_row("scores", f"{scores.output}/")
    table.add_row("model", f"models:/{dataset}@champion in {settings.tracking_uri}")
    console.print(table)
    console.print(
        "\nNext: `make up` starts the Prefect and MLflow servers on these files; "
        "`grayline classify-batch --source FOLDER --output FOLDER` scores your own images."
    )


def show_difference(changes: pa.Table, limit: int) -> None:
    """How many files came, went and changed, and which."""
    rows = changes.to_pylist()
    counts = Counter(row["change"] for row in rows)
    console.print(", ".join(f"{counts[change]:,} {change}" for change in ("came", "went", "changed")))
    table = Table("", "file", "what", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for row in rows[:limit]:
        table.add_row(row["change"], row["uri"], _what_changed(row))
    if rows:
        console.print(table)
    if len(rows) > limit:
        console.print(f"and {len(rows) - limit:,} more: raise --limit")


def _what_changed(row: dict[str, str | None]) -> str:
    """`label 3 -> 8, status ok -> quarantined`; of one that came or went, its label, split and status."""
    if row["change"] != "changed":
        suffix = "" if row["change"] == "came" else "_before"
        return ", ".join(filter(None, (row[name + suffix] for name in ("label", "split", "status"))))
    moved = [name for name in WATCHED if row[name] != row[f"{name}_before"]]
    return ", ".join(
        "other bytes" if name == "image_id" else f"{name} {row[f'{name}_before']} -> {row[name]}" for name in moved
    )


def show_versions(versions: pa.Table) -> None:
    table = Table("version", "came", "went", "changed", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for row in versions.to_pylist():
        table.add_row(*(f"{row[name]:,}" for name in ("version", "came", "went", "changed")))
    console.print(table)
