"""The commands about model versions; `cli` puts them at the top, beside those about data sets.

Heavy imports wait inside the commands.
"""

from typing import Annotated

import typer

from flows.cli.options import ready, resumable
from tasks.settings import Settings, check_store

app = typer.Typer()

Reason = Annotated[str, typer.Option(help="Why; recorded on the version.")]
Version = Annotated[int | None, typer.Argument(help="The version's number.")]
Model = Annotated[str, typer.Argument(metavar="NAME", help="The registered model.")]


@app.command()
def promote(name: Model, version: Version = None, reason: Reason = "promoted by hand") -> None:
    """Make a version (by default the challenger) the champion."""
    from flows.cli.show_versions import show_champion

    if Settings().prefect_api_url:
        ready(fans_out=False)
        from flows.promote import promote as flow

        show_champion(flow(name, version, reason), reason)
        return
    check_store(Settings().root)  # a server of its own would take longer than all that there is to do
    from tasks.registry.champion import make_champion

    number = str(version) if version else None
    show_champion(make_champion(Settings().tracking_uri, name, number, reason, Settings().verify_key), reason)


@app.command()
def rollback(name: Model, version: Version = None, reason: Reason = "rolled back by hand") -> None:
    """Make the last accepted champion before this one (or a version) the champion again."""
    from flows.cli.show_versions import show_champion

    if Settings().prefect_api_url:
        ready(fans_out=False)
        from flows.rollback import rollback as flow

        show_champion(flow(name, version, reason), reason)
        return
    check_store(Settings().root)
    from tasks.registry.champion import take_back

    number = str(version) if version else None
    show_champion(take_back(Settings().tracking_uri, name, number, reason, Settings().verify_key), reason)


@app.command()
def history(name: Model) -> None:
    """Who or what moved the champion, when, from which version to which, and why."""
    check_store(Settings().root)
    from flows.cli.show_versions import show_history
    from tasks.registry.champion import check_model
    from tasks.registry.history import events

    check_model(Settings().tracking_uri, name)
    show_history(name, events(Settings().tracking_uri, name))


@app.command()
def reproduce(
    model: Annotated[str, typer.Argument(metavar="NAME@ALIAS", help="Or NAME/VERSION; NAME is its champion.")],
) -> None:
    """Train a version again from what it records, and compare."""
    ready(fans_out=False)
    from flows.cli.show_versions import show_reproduction
    from flows.reproduce import reproduce as flow

    with resumable():
        show_reproduction(flow(model))


@app.command()
def monitor(
    labels: Annotated[str, typer.Option(help="CSV or Parquet of new images: path,label; paths relative to it.")],
    model: Annotated[str | None, typer.Option(help="NAME@ALIAS or NAME/VERSION; the champion by default.")] = None,
    rollback: Annotated[bool, typer.Option(help="Go back to the champion before where that one does better.")] = False,
) -> None:
    """Hold the champion against its floor, its evaluation and its predecessor, on new labelled images."""
    from tasks.release.labelled import check_labels

    check_labels(labels)
    ready(fans_out=False)
    from flows.cli.tables import show_verdict
    from flows.monitor import monitor as flow
    from tasks.release.monitor import MonitorError

    try:
        show_verdict(flow(labels, model, rollback))
    except MonitorError as error:
        show_verdict(error.verdict)
        raise


@app.command()
def report(
    model: Annotated[str, typer.Argument(metavar="NAME@ALIAS", help="Or NAME/VERSION; NAME is its champion.")],
    output: Annotated[str, typer.Option("--output", "-o", help="The HTML file to write.")] = "report.html",
) -> None:
    """A version on one page: how good it is, where it errs, why it was let in, where it comes from."""
    from flows.cli.show_versions import show_report
    from flows.doctor import check_mlflow
    from tasks.registry.versions import resolve
    from tasks.report.pages import check_place
    from tasks.report.version_page import write_report

    check_store(Settings().root)
    check_mlflow()
    to = check_place(output, "report.html")
    version = resolve(Settings().tracking_uri, model, field="NAME@ALIAS")
    show_report(version, to, write_report(Settings().tracking_uri, version, to))
