"""The commands that score batches and show them. Heavy imports wait inside the commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import SecretStr

from flows.cli.options import HtmlFile, ModelOption, persons_list, ready
from flows.cli.tables import console, number, say, table
from resnet_core.errors import JobError, UserError, plural, some_of
from resnet_core.storage.files import to_output
from tasks.settings import Settings, check_there, reveal

if TYPE_CHECKING:
    from tasks.batch.heat_maps import Seer
    from tasks.batch.values import Scores

app = typer.Typer()

_GONE = 3  # files in a message


@app.command("classify-batch")
def classify_batch(
    source: Annotated[
        str,
        typer.Option(help="Folder, glob, tar, zip, Parquet with image bytes, shards, IDX, manifest, or a URL of one."),
    ],
    output: Annotated[
        str | None,
        typer.Option(help="Folder for the rows and the manifest; by default one in the store, always the same."),
    ] = None,
    model: ModelOption = None,
    to: Annotated[
        list[str] | None,
        typer.Option(help="Write the rows there too: x.csv, a database's URL, delta:PLACE, iceberg:TABLE; repeatable."),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="auto (a short trial decides), torch, compile, onnx, openvino or int8.")
    ] = None,
    embeddings: Annotated[bool, typer.Option(help="Keep each image's embedding.")] = False,
    only_failed: Annotated[bool, typer.Option(help="Score failed files again, and nothing else.")] = False,
    fail_over: Annotated[
        float | None, typer.Option(min=0, max=1, help="Stop when the share of bad files is larger, such as 0.01.")
    ] = None,
    heatmaps: Annotated[
        str | None, typer.Option(help="Folder for a heat map of each image to review: where its label was seen.")
    ] = None,
) -> None:
    """Score every image of a source: one row per file. Run again, it scores new and changed files."""
    from tasks.batch.folder import check_places
    from tasks.sinks.sinks import check_target

    check_places(reveal(source, "--source"), to_output(output, "--output") if output else None)
    for target in to or ():
        check_target(target)
    if engine and engine != "auto":
        from resnet_core.device import find_device
        from resnet_core.inference.engines import check_engine

        check_engine("--engine", engine, find_device(Settings().device))
    check_there(Settings())
    ready()
    from flows.classify_batch import classify_batch as flow

    with persons_list(source):
        targets = [SecretStr(target) for target in to or ()]  # Prefect keeps a run's parameters
        show_scores(flow(source, output, model, targets, engine, embeddings, only_failed, fail_over, heatmaps))


def show_scores(scores: Scores) -> None:
    """Print counts and mean confidence by label, and where the rows are."""
    rows = table("label", number("images"), number("mean confidence"), title=scores.headline())
    for label, (count, confidence) in scores.labels.items():
        rows.add_row(label, f"{count:,}", f"{confidence:.3f}")
    console.print(rows)
    if scores.reasons:
        say(scores.failures())
    say(scores.speed(), str(scores.output), "")


@app.command()
def gallery(
    batch: Annotated[str, typer.Argument(help="The output of a batch, or its name under scores/.")],
    output: HtmlFile = "gallery.html",
    limit: Annotated[int, typer.Option(help="Show at most so many files; those to review come first.")] = 500,
    label: Annotated[list[str] | None, typer.Option(help="Only images given this label; repeatable.")] = None,
    in_clear: Annotated[bool, typer.Option(help="Write the images of an encrypted version's batch, too.")] = False,
    heat: Annotated[bool, typer.Option(help="Heat maps, which a key shows: where the label was seen.")] = True,
) -> None:
    """Write a scored batch as one page to look through and correct; it exports labels for the next night."""
    from tasks.report.gallery_page import check_options, find_batch, write_gallery
    from tasks.report.pages import check_place
    from tasks.store import Store

    to = check_place(output, "gallery.html")
    folder = find_batch(batch, Store(Settings().root))
    check_options(folder, limit, label or [], in_clear)
    seer = seer_of_batch(folder.scores) if heat else None
    page = write_gallery(folder, to, limit, label or [], Settings().limits, seer)
    unseen = f"; {page.unseen:,} have no picture" if page.unseen else ""
    say(f"{page.batch}: {page.shown:,} of {plural(page.files, 'file')}, {page.size / 1e6:,.1f} MB{unseen}")
    say(f"{page.path} (then name what you export from it as `corrections:` in the data set file)")


def seer_of_batch(scores: Scores) -> Seer | None:
    """Return what makes heat maps; None, with the reason, if the batch's version cannot be had."""
    from flows.machine.doctor import check_mlflow
    from tasks.batch.heat_maps import seer_of

    try:
        check_there(Settings())
        check_mlflow()
        return seer_of(scores, Settings())
    except (UserError, JobError) as error:
        say(f"no heat maps: {error}")
        return None


@app.command("sort")
def sort_batch(
    batch: Annotated[str, typer.Argument(help="The output of a batch, or its name under scores/.")],
    to: Annotated[str, typer.Option(help="The folder to make: a folder per label, `unknown`, `review` and `failed`.")],
    copy: Annotated[bool, typer.Option("--copy/--link", help="Copy the files, or link to them.")] = False,
) -> None:
    """Sort a batch's files into folders by label; the originals stay as they are."""
    from tasks.report.gallery_page import find_batch
    from tasks.report.sorted_files import RESERVED, check_folder, sort_files
    from tasks.store import Store

    scores = find_batch(batch, Store(Settings().root)).scores
    counts, gone = sort_files(scores, folder := check_folder(to, scores, copy), copy)
    rows = table("folder", number("files"), title=str(folder))
    for name, count in sorted(counts.items()):
        rows.add_row(name, f"{count:,}")
    console.print(rows)
    if gone:
        say(f"{plural(len(gone), 'file')} of the batch cannot be read any more: {some_of(gone, _GONE)}")
    others = [f"`{name}`" for name in RESERVED if name in counts]
    say(f"Move the files of {', '.join(others)} to folders of their labels." if others else "Move what is wrong.")
    say("Then retrain on them: every folder is a class.")
