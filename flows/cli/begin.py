"""Begin with images of one's own: `init` looks at them and writes a data set file. Heavy imports wait inside."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.tables import console, say, table
from resnet_core.errors import UserError, plural, some_of
from resnet_core.storage.files import is_local, to_output
from resnet_core.storage.names import MODEL_NAME, json_line, visible
from tasks.settings import Settings, check_there
from tasks.store import own_files

if TYPE_CHECKING:
    from tasks.survey.survey import Survey

app = typer.Typer()

_UNEQUAL = 0.6  # share of a class from which a constant answer has a good accuracy
_SHOWN = 12  # classes, formats and reasons in a line


def show_beginning() -> None:
    """Print what the store holds and the next command, for `grayline` alone."""
    root = Settings().root
    names = [path.name for path in own_files(root / "catalog")]
    if not names:
        say(
            f"Nothing is in the store {root} yet.",
            "  grayline demo          runs the whole job on real images",
            "  grayline init FOLDER   looks at your images and writes a data set file",
            "  grayline --help        lists every command",
        )
        return
    rows = table("data set", "champion", "promoted")
    for name in names:
        rows.add_row(name, *_champion(name))
    console.print(rows)
    say(
        "",
        f"Store: {root}",
        f"  grayline history {names[0]}    its versions, and what the gate said",
        "  grayline predict IMAGE   classes of some images",
        "  grayline --help          lists every command",
    )


def _champion(name: str) -> tuple[str, str]:
    """Return the champion's version and the time of its promotion, or why there is none."""
    settings = Settings()
    try:
        check_there(settings)
        from tasks.registry.versions import CHAMPION, SINCE, by_alias, versions_of

        champion = by_alias(settings.tracking_uri, name, CHAMPION)
        if champion is None:
            return "none", ""
        return f"version {champion.version}", versions_of(settings.tracking_uri, name)[champion.version].tags.get(
            SINCE, ""
        )
    except UserError as error:
        return "none", str(error).partition(".")[0]


@app.command()
def init(
    source: Annotated[str, typer.Argument(help="Folder, glob, archive, table, or a URL of one.")],
    labels: Annotated[str | None, typer.Option(help="The table of labels; by default one that lies there.")] = None,
    name: Annotated[str | None, typer.Option(help="The data set's name; by default from the source's.")] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="The file to write; by default data/NAME.yaml.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing, take the defaults.")] = False,
) -> None:
    """Look at a source, say what is in it, and write a short data set file."""
    write_file(source, labels, name, output, asks=not yes and sys.stdin.isatty())


def write_file(
    source: str, labels: str | None = None, name: str | None = None, output: str | None = None, *, asks: bool
) -> Path:
    """Look, ask at most four questions, and write the file. Raises UserError for wrong input."""
    from resnet_core.credentials import opened
    from resnet_core.sources.source import check_source
    from resnet_core.storage.locations import from_home, is_url

    source = from_home(source)
    name, path = _check_places(source, name, output)
    try:
        check_source(source)
    except UserError as error:
        raise UserError(str(error).replace("Correct `source:`", "Correct the path")) from None
    from tasks.survey.survey import training_seconds

    found = _look(source, labels, asks)
    _show(found)
    learned = found.settled.train.augment.flips != "none"
    mirrored = (
        typer.confirm("May an image be mirrored without changing its class?", default=learned) if asks else learned
    )
    watched = _ask(asks, "Which class must not be missed (Enter: none)", "")
    if watched and watched not in found.classes:
        raise UserError(f"class: there is no class {watched!r}. It has: {', '.join(found.classes)}.")
    text = _as_yaml(found, name, watched, None if mirrored == learned else mirrored)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    say(f"{path}:", "", *text.splitlines(), "")
    if opened(source) != source:
        say("The file has no password: keep the URL in a file, and set GRAYLINE_ACCESS_FILE to it (docs/security.md).")
    if not is_url(source) and not Path(source).is_absolute():
        say(f"`source:` is relative to this folder, {Path.cwd()}: run Grayline here.")
    seconds = found.images / found.rate + training_seconds(found, Settings().device)
    say(f"A first night takes about {_in_words(seconds)} here, most of it training.")
    say(f"Next: `grayline retrain --dataset {path}`, then `grayline predict IMAGE`.")
    if not Settings().verify_key:
        say("Can others write to your MLflow? `grayline doctor` says how versions are signed.")
    return path


def _look(source: str, labels: str | None, asks: bool) -> Survey:
    """Look at a source by the labels that were named, by a table that lies there, or by its folders.

    A table that nobody named and that is of other images is left out, with a line.
    """
    from tasks.survey.survey import find_labels, survey
    from tasks.workspace import workspace

    here, tables = workspace(made=False), [] if labels else find_labels(source)
    if len(tables) > 1 and asks:
        labels = _ask(asks, f"Labels are in {some_of(tables, _SHOWN)}. Which of them", tables[0])
    elif len(tables) > 1:
        say(f"Labels are in {some_of(tables, _SHOWN)}: the first is taken. --labels names another.", "")
    if labels or not tables:
        return survey(source, labels, here)
    try:
        return survey(source, tables[0], here)
    except UserError as error:
        say(f"{tables[0]} is left out, and the folders are the classes: {error}", "")
        return survey(source, None, here)


def _check_places(source: str, name: str | None, output: str | None) -> tuple[str, Path]:
    """Return the data set's name and the file to write. Raises UserError for a name that cannot be one."""
    base = re.sub(r"[^a-z0-9]+", "-", Path(source.rstrip("/")).stem.lower())[:60].strip("-") or "images"
    name = name or base
    if not MODEL_NAME.fullmatch(name):
        what = f"1 to 100 lower-case letters, digits, - and _, as {base}"
        raise UserError(f"--name: {name!r} cannot name a model. Write {what}.")
    to = None if output is None else to_output(output, "--output")
    if to is not None and not is_local(to):
        raise UserError(f"--output: {output} is not on this machine. Name a file.")
    path = Path("data") / f"{name}.yaml" if to is None else Path(to.path)
    if path.exists():
        raise UserError(f"{path}: is there already. Choose another with --output, or --name.")
    return name, path


def _ask(asks: bool, question: str, default: str) -> str:
    return str(typer.prompt(question, default=default, show_default=bool(default))) if asks else default


def _show(found: Survey) -> None:
    """Print what the source holds, as a table of two columns."""
    from tasks.ingest.placement import lines

    rows = table("", "found")
    rows.add_row("images", f"{found.images:,}" + (f", {found.unlabelled:,} without a label" * bool(found.unlabelled)))
    largest, share = found.largest
    counts = [f"{label!r} {count:,}" for label, count in sorted(found.classes.items(), key=lambda each: -each[1])]
    rows.add_row("classes", f"{len(counts)}: {some_of(counts, _SHOWN)}; {largest!r} is {share:.0%}")
    if found.labels:
        rows.add_row("labels", f"{found.labels}, with {', '.join(found.columns)}")
    least, median, most = found.sides
    rows.add_row("sizes", f"shorter side {least:,} to {most:,} px, {median:,} in the median")
    rows.add_row("formats", some_of([f"{name} ({count})" for name, count in found.formats.items()], _SHOWN))
    if found.ignored:
        rows.add_row("left out", f"{plural(found.ignored, 'file')} by their names (docs/ignored.md)")
    if found.unread:
        rows.add_row("not read", some_of([f"{count:,} {text}" for text, count in found.unread.items()], _SHOWN))
    if found.splits:
        rows.add_row("splits", f"the source gives {' and '.join(found.splits)}")
    if found.catalog and found.catalog.placement:
        for line in lines(found.catalog.placement):
            rows.add_row("split", line)
    else:
        rows.add_row("split", "made on the first night, which also looks for look-alikes")
    rows.add_row("settings", f"image size {found.settled.image.size} px, {found.settled.chosen}")
    console.print(rows)
    say("")


def _in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{max(10, 10 * round(seconds / 10)):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _as_yaml(found: Survey, name: str, watched: str, mirrored: bool | None) -> str:
    """Return the text of the data set file: a line a setting, its reason behind it.

    mirrored: the answer of a person who knows better than what was learned. Keys that are not there are `auto`.
    """
    label, share = found.largest
    settings = [(f"name: {name}", "also the model's name"), (f"source: {json_line(found.source)}", "")]
    if found.labels:
        settings.append((f"labels: {json_line(found.labels)}", f"columns {', '.join(found.columns)}"))
    if mirrored is not None:
        settings.append((f"train: {{augment: {{flips: {'horizontal' if mirrored else 'none'}}}}}", "as you said"))
    metric = "macro_f1" if share > _UNEQUAL else "accuracy"
    settings.append((f"gate: {{metric: {metric}}}", f"{label!r} is {share:.0%} of the images"))
    if watched:
        settings.append((f"evaluate: {{recall: {{{json_line(watched)}: 0.95}}}}", "found in 95% of its images"))
    what = f"{plural(found.images, 'image')} of {plural(len(found.classes), 'class', 'classes')}"
    head = (
        f"# {what}. Size, epochs and the like are `auto`: each night prints them, with reasons.\n"
        "# docs/dataset-file.md has every key; `train: {minutes: 20}` says how long a training may take."
    )
    return "\n".join([head, *(f"{text}  # {visible(why)}" if why else text for text, why in settings)]) + "\n"
