"""The command about labels; `cli` puts it at the top, beside the others.

Heavy imports wait inside the command.
"""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from flows.cli.options import DatasetFile, check, resumable
from tasks.settings import Settings
from tasks.training.label_issues import LabelIssues

app = typer.Typer()


@app.command("label-issues")
def label_issues_command(
    dataset: DatasetFile,
    folds: Annotated[int, typer.Option(help="Into how many parts the training images are dealt.")] = 5,
) -> None:
    """List the training labels that are probably wrong: a training for each fold, then a table to correct."""
    from tasks.training.cross_validate import check_folds

    check_folds(folds)
    check(dataset)
    from flows.label_issues import label_issues

    with resumable():
        _show_label_issues(label_issues(dataset, folds))


console = Console(highlight=False, soft_wrap=True, markup=False)


def _show_label_issues(found: LabelIssues) -> None:
    """The worst labels, and where the table and the sheet are."""
    title = f"{found.dataset}: {found.issues:,} of {found.images:,} training labels look wrong"
    table = Table("", "label", "rather", title=title, title_justify="left", box=None, pad_edge=False)
    table.padding = (0, 2, 0, 0)
    table.add_column("confidence in its label", justify="right")
    table.add_column("image")
    for rank, (uri, label, suggested, confidence) in enumerate(found.worst, 1):
        table.add_row(str(rank), label, suggested, f"{confidence:.3f}", uri)
    console.print(table)
    if found.issues > len(found.worst):
        console.print(f"and {found.issues - len(found.worst):,} more")
    if found.sheet:
        console.print(f"\nto look at: {found.sheet}")
    console.print(f"to correct: {found.table} (then name it as `labels:` in the data set file)")
    console.print(f"run {found.mlflow_run_id} in {Settings().tracking_uri}")
