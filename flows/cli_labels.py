"""The command about labels; `cli` puts it at the top, beside the others.

Heavy imports wait inside the command.
"""

from typing import Annotated

import typer

from flows.command_line import DatasetFile, check, resumable

app = typer.Typer()


@app.command("label-issues")
def label_issues_command(
    dataset: DatasetFile,
    folds: Annotated[int, typer.Option(help="Into how many parts the training images are dealt.")] = 5,
) -> None:
    """List the training labels that are probably wrong: a training for each fold, then a table to correct."""
    from tasks.cross_validate import check_folds

    check_folds(folds)
    check(dataset)
    from flows.label_issues import label_issues
    from flows.show_labels import show_label_issues

    with resumable():
        show_label_issues(label_issues(dataset, folds))
