"""The commands about model versions. Heavy imports wait inside the commands."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column

from flows.cli.options import HtmlFile, Model, ModelOption, persons_list, ready
from flows.cli.tables import console, number, say, show_checks, table
from resnet_core.errors import JobError, UserError, plural
from tasks.settings import Settings, check_there, reveal

if TYPE_CHECKING:
    from tasks.release.monitor import Verdict
    from tasks.release.reproduce import Reproduction
    from tasks.values import Flips

app = typer.Typer()

_Name = Annotated[str, typer.Argument(metavar="NAME", help="The registered model.")]
_Version = Annotated[int | None, typer.Argument(help="The version's number.")]
_FLIPS = 10  # in a table
_Reason = Annotated[str, typer.Option(help="Why; recorded on the version.")]


@app.command()
def promote(name: _Name, version: _Version = None, reason: _Reason = "promoted by hand") -> None:
    """Make a version (by default the challenger) the champion."""
    _move(name, version, reason, back=False)


@app.command()
def rollback(name: _Name, version: _Version = None, reason: _Reason = "rolled back by hand") -> None:
    """Make the last accepted champion before this one (or a version) the champion again."""
    _move(name, version, reason, back=True)


def _move(name: str, version: int | None, reason: str, back: bool) -> None:
    """Promote or roll back: on the Prefect server if there is one, else directly, which is faster than a flow."""
    settings = Settings()
    if settings.prefect_api_url:
        ready(fans_out=False)
        from flows import promote as flows

        champion = (flows.rollback if back else flows.promote)(name, version, reason)
    else:
        from flows.machine.doctor import check_mlflow
        from tasks.registry.champion import make_champion, take_back

        check_there(settings)
        check_mlflow()
        move = take_back if back else make_champion
        chosen = None if version is None else str(version)
        champion = move(settings.tracking_uri, name, chosen, reason, settings.verify_key)
    say(f"{champion.name}: version {champion.version} is the champion ({reason})")


@app.command()
def history(name: _Name) -> None:
    """List who or what moved the champion, when, from which version to which, and why."""
    from flows.machine.doctor import check_mlflow
    from tasks.registry.champion import events
    from tasks.registry.versions import check_model

    check_there(Settings())
    check_mlflow()
    check_model(Settings().tracking_uri, name)
    moves = events(Settings().tracking_uri, name)
    if not moves:
        say(f"{name}: nothing has moved its champion yet")
        return
    rows = table(
        *(Column(heading, no_wrap=True) for heading in ("when (UTC)", "what", "from", "to")),
        *(Column(heading, overflow="fold") for heading in ("who", "why")),
    )
    for move in moves:
        when = datetime.fromisoformat(move.at).strftime("%Y-%m-%d %H:%M:%S")
        rows.add_row(when, move.action, move.before or "-", move.after, move.who, move.why)
    console.print(rows)


@app.command()
def reproduce(model: Model) -> None:
    """Train a version again from its own record, and compare the weights."""
    check_there(Settings())
    ready(fans_out=False)
    from flows.reproduce import reproduce as flow

    _show_reproduction(flow(model))


def _show_reproduction(result: Reproduction) -> None:
    """Print whether the weights are equal, how far the metrics are apart, and what may explain it."""
    model = result.version
    say(f"{model}: {result.verdict}")
    if result.metrics:
        rows = table("metric", *map(number, ("the version", "trained again", "difference")))
        for name, (then, now) in result.metrics.items():
            rows.add_row(name.replace("_", " "), f"{then:.4f}", f"{now:.4f}", f"{now - then:+.4f}")
        console.print(rows)
    for what, text in result.surroundings.items():
        say(f"{what:<14}{text}")


@app.command()
def monitor(
    labels: Annotated[str, typer.Option(help="CSV or Parquet of new images: path,label; paths relative to it.")],
    model: ModelOption = None,
    rollback: Annotated[bool, typer.Option(help="Go back to the previous champion if it does better.")] = False,
) -> None:
    """Compare the champion with its floor, its evaluation and its predecessor, on new labelled images."""
    from tasks.release.labelled import check_labels

    check_labels(labels)
    check_there(Settings())
    ready(fans_out=False)
    from flows.monitor import monitor as flow
    from tasks.release.monitor import MonitorError

    try:
        with persons_list(labels):
            _show_verdict(flow(labels, model, rollback))
    except MonitorError as error:
        _show_verdict(error.verdict)
        raise


def _show_verdict(verdict: Verdict) -> None:
    """Print the metric of a version on new labelled images, and its checks."""
    version = verdict.version
    left_out = ", ".join(f"{count:,} {why}" for why, count in verdict.left_out.items())
    say(
        f"{version} on {plural(verdict.count, 'new image')}"
        f"{f'; left out: {left_out}' if left_out else ''}: {verdict.metric} {verdict.found}",
        "",
    )
    show_checks(verdict.checks)


@app.command()
def compare(
    old: Annotated[str, typer.Argument(metavar="A", help="NAME@ALIAS or NAME/VERSION; NAME is its champion.")],
    new: Annotated[str, typer.Argument(metavar="B", help="The other version.")],
    source: Annotated[str, typer.Option(help="Images: a folder, glob, archive, table or list, or a URL of one.")],
    output: HtmlFile = "flips.html",
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Compare at most so many, drawn by name.")] = 1000,
) -> None:
    """Show which decisions differ between two versions, on the images of a source."""
    from flows.machine.doctor import check_mlflow
    from tasks.batch.folder import absolute_source, check_places
    from tasks.registry.versions import load_classifier, resolve
    from tasks.release.against.flips import MEASURED, compare_on, draw_files
    from tasks.report.flips_page import NO_PICTURES, render
    from tasks.report.pages import check_place, write_page
    from tasks.workspace import workspace

    check_there(Settings())
    check_mlflow()
    to = check_place(output, "flips.html")
    place = reveal(source, "--source")
    check_places(place, None)
    here = workspace()
    versions = (resolve(here.tracking_uri, old, "A"), resolve(here.tracking_uri, new, "B"))
    if versions[0] == versions[1]:
        raise UserError(f"B: {new} is {versions[0]}, and so is {old}. Name two versions.")
    classes = [set(load_classifier(here.tracking_uri, each, here.device).classes) for each in versions]
    if not classes[0] & classes[1]:
        raise UserError(f"B: {versions[1]} has no class of {versions[0]}. Name versions that share classes.")
    with persons_list(source):
        files, count = draw_files(place, limit)
        of = f"of {absolute_source(place)}" + f", drawn from {plural(count, 'file')}" * (count > len(files))
        found = compare_on(files, versions, of, MEASURED, here)
    if not found.images:
        raise JobError(f"--source: {source}: {found.in_words()}. Mend the files, or name others.")
    size = write_page(to, render(found, here.limits))
    _show_flips(found)
    say(*([NO_PICTURES] if found.secret else []), f"{to} ({size / 1e6:.1f} MB)")


def _show_flips(found: Flips) -> None:
    """Print the first flips, those first of which the old version was surest, and how many are of which kind."""
    old, new = str(found.old), str(found.new)
    rows = table("image", old, number("confidence"), new, number("confidence"))
    for flip in found.first[:_FLIPS]:
        rows.add_row(flip.uri, flip.old[0], f"{flip.old[1]:.3f}", flip.new[0], f"{flip.new[1]:.3f}")
    kinds = table(old, new, number("flips"))
    for before, after, count in found.kinds[:_FLIPS]:
        kinds.add_row(before, after, f"{count:,}")
    say(f"flips: {found.in_words()}", "")
    for each in (rows, kinds) if found.count else ():
        console.print(each)
        say("")


@app.command()
def report(model: Model, output: HtmlFile = "report.html") -> None:
    """Write a version as one page: its quality, its errors, the gate's checks and its lineage."""
    from flows.machine.doctor import check_mlflow
    from tasks.registry.versions import resolve
    from tasks.report.pages import check_place
    from tasks.report.version_page import write_report

    check_there(Settings())
    check_mlflow()
    to = check_place(output, "report.html")
    version = resolve(Settings().tracking_uri, model, field="NAME@ALIAS")
    size = write_report(Settings().tracking_uri, version, to)
    say(f"{version}: {to} ({size / 1e6:.1f} MB)")
