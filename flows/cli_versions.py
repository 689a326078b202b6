"""The commands about model versions; `cli` puts them at the top, beside those about data sets.

Heavy imports wait inside the commands.
"""

from typing import Annotated

import typer

from flows.command_line import ready

app = typer.Typer()

Reason = Annotated[str, typer.Option(help="Why; recorded on the version.")]
Version = Annotated[int | None, typer.Argument(help="The version's number.")]
Model = Annotated[str, typer.Argument(metavar="NAME", help="The registered model.")]


@app.command()
def promote(name: Model, version: Version = None, reason: Reason = "promoted by hand") -> None:
    """Make a version (by default the challenger) the champion."""
    ready(fans_out=False)
    from flows.promote import promote as flow
    from flows.summary import show_champion

    show_champion(flow(name, version, reason), reason)


@app.command()
def rollback(name: Model, version: Version = None, reason: Reason = "rolled back by hand") -> None:
    """Make the champion before this one (or a version) the champion again."""
    ready(fans_out=False)
    from flows.rollback import rollback as flow
    from flows.summary import show_champion

    show_champion(flow(name, version, reason), reason)
