"""The command about labels; `cli` puts it at the top, beside the others.

Heavy imports wait inside the command.
"""

from typing import Annotated

import typer

from flows.cli.options import DatasetFile, check, resumable

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
    from flows.cli.show_labels import show_label_issues
    from flows.label_issues import label_issues

    with resumable():
        show_label_issues(label_issues(dataset, folds))
