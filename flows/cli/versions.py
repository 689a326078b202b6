"""The commands about model versions; `cli` puts them at the top, beside those about data sets.

Heavy imports wait inside the commands.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from upath import UPath

from flows.cli.options import ready, resumable
from tasks.registry.champion import Event
from tasks.release.reproduce import Reproduction
from tasks.settings import Settings, check_store
from tasks.values import ModelVersion

app = typer.Typer()

Reason = Annotated[str, typer.Option(help="Why; recorded on the version.")]
Version = Annotated[int | None, typer.Argument(help="The version's number.")]
_Model = Annotated[str, typer.Argument(metavar="NAME", help="The registered model.")]


@app.command()
def promote(name: _Model, version: Version = None, reason: Reason = "promoted by hand") -> None:
    """Make a version (by default the challenger) the champion."""
    if Settings().prefect_api_url:
        ready(fans_out=False)
        from flows.promote import promote as flow

        _show_champion(flow(name, version, reason), reason)
        return
    check_store(Settings().root)  # a server of its own would take longer than all that there is to do
    from tasks.registry.champion import make_champion

    number = str(version) if version else None
    _show_champion(make_champion(Settings().tracking_uri, name, number, reason, Settings().verify_key), reason)


@app.command()
def rollback(name: _Model, version: Version = None, reason: Reason = "rolled back by hand") -> None:
    """Make the last accepted champion before this one (or a version) the champion again."""
    if Settings().prefect_api_url:
        ready(fans_out=False)
        from flows.promote import rollback as flow

        _show_champion(flow(name, version, reason), reason)
        return
    check_store(Settings().root)
    from tasks.registry.champion import take_back

    number = str(version) if version else None
    _show_champion(take_back(Settings().tracking_uri, name, number, reason, Settings().verify_key), reason)


@app.command()
def history(name: _Model) -> None:
    """Who or what moved the champion, when, from which version to which, and why."""
    check_store(Settings().root)
    from tasks.registry.champion import check_model, events

    check_model(Settings().tracking_uri, name)
    _show_history(name, events(Settings().tracking_uri, name))


@app.command()
def reproduce(
    model: Annotated[str, typer.Argument(metavar="NAME@ALIAS", help="Or NAME/VERSION; NAME is its champion.")],
) -> None:
    """Train a version again from what it records, and compare."""
    ready(fans_out=False)
    from flows.reproduce import reproduce as flow

    with resumable():
        _show_reproduction(flow(model))


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
    from flows.doctor import check_mlflow
    from tasks.registry.versions import resolve
    from tasks.report.pages import check_place
    from tasks.report.version_page import write_report

    check_store(Settings().root)
    check_mlflow()
    to = check_place(output, "report.html")
    version = resolve(Settings().tracking_uri, model, field="NAME@ALIAS")
    _show_report(version, to, write_report(Settings().tracking_uri, version, to))


_WIDE = 400  # columns, in a file or a pipe: a line an event
console = Console(highlight=False, soft_wrap=True, markup=False)


def _show_champion(version: ModelVersion, reason: str) -> None:
    console.print(f"{version.name}: version {version.version} is the champion ({reason})")


def _show_history(name: str, events: Sequence[Event]) -> None:
    """A row an event, the newest last."""
    if not events:
        console.print(f"{name}: nothing has moved its champion yet")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("when (UTC)", "what", "from", "to"):
        table.add_column(heading, no_wrap=True)
    for heading in ("who", "why"):
        table.add_column(heading, overflow="fold")
    for event in events:
        when = datetime.fromisoformat(event.at).strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(when, event.action, event.before or "-", event.after, event.who, event.why)
    if console.is_terminal:
        console.print(table)
    else:
        Console(highlight=False, markup=False, width=_WIDE).print(table)


def _show_reproduction(found: Reproduction) -> None:
    """Whether it is the same, how far it is not, and what may be why."""
    model = found.version
    console.print(f"{model.name} version {model.version}: {found.verdict}")
    if found.metrics:
        table = Table("metric", box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for heading in ("the version", "trained again", "difference"):
            table.add_column(heading, justify="right")
        for name, (then, now) in found.metrics.items():
            table.add_row(name.replace("_", " "), f"{then:.4f}", f"{now:.4f}", f"{now - then:+.4f}")
        console.print(table)
    for what, text in found.surroundings.items():
        console.print(f"{what:<14}{text}")


def _show_report(version: ModelVersion, to: UPath, size: int) -> None:
    console.print(f"{version.name} version {version.version}: {to} ({size / 1e6:.1f} MB)")
