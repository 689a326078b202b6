"""The command about labels. Heavy imports wait inside the command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import DatasetFile, check
from flows.cli.tables import console, number, say, table
from resnet_core.errors import plural
from tasks.settings import Settings

if TYPE_CHECKING:
    from tasks.training.label_issues import LabelIssues

app = typer.Typer()


@app.command("label-issues")
def label_issues_command(
    dataset: DatasetFile,
    folds: Annotated[int, typer.Option(help="Number of folds of the training images.")] = 5,
) -> None:
    """List the training labels that are probably wrong: train once per fold, then write a table to correct."""
    from tasks.training.cross_validate import check_folds

    check_folds(folds)
    check(dataset)
    from flows.label_issues import label_issues

    _show_label_issues(label_issues(dataset, folds))


def _show_label_issues(result: LabelIssues) -> None:
    """Print the worst labels, and where the table and the sheet are."""
    title = f"{result.dataset}: {result.issues:,} of {plural(result.images, 'training label')} look wrong"
    rows = table("", "label", "rather", number("confidence in its label"), "image", title=title)
    for rank, (uri, label, suggested, confidence) in enumerate(result.worst, 1):
        rows.add_row(str(rank), label, suggested, f"{confidence:.3f}", uri)
    console.print(rows)
    if result.issues > len(result.worst):
        say(f"and {result.issues - len(result.worst):,} more")
    if result.sheet:
        say("", f"to look at: {result.sheet}")
    say(f"to correct: {result.table} (then name it as `labels:` in the data set file)")
    say(f"run {result.mlflow_run_id} in {Settings().tracking_uri}")
