"""The commands that score batches and look at them; `cli` puts them at the top, beside the others.

Heavy imports wait inside the commands.
"""

from typing import Annotated

import typer
from pydantic import SecretStr
from rich.console import Console
from upath import UPath

from flows.cli.options import ready, resumable
from resnet_core.storage.files import absolute
from tasks.report.gallery_page import GalleryPage
from tasks.settings import Settings

console = Console(highlight=False, soft_wrap=True, markup=False)


def _show_gallery(page: GalleryPage) -> None:
    """How much of the batch is on the page, and what to do with it."""
    unseen = f"; {page.unseen:,} have no picture" if page.unseen else ""
    console.print(f"{page.batch}: {page.shown:,} of {page.files:,} files, {page.size / 1e6:,.1f} MB{unseen}")
    console.print(f"{page.path} (then name what you export from it as `corrections:` in the data set file)")


app = typer.Typer()


@app.command("classify-batch")
def classify_batch(
    source: Annotated[
        str,
        typer.Option(
            help="Folder, glob, tar, zip, Parquet with image bytes, shards, IDX or manifest, or a URL of one."
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            help="Folder for the Parquet files and the manifest; by default one in the store, the same again."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="NAME@ALIAS or NAME/VERSION; the champion by default.")] = None,
    to: Annotated[
        list[str] | None,
        typer.Option(
            help="Write the rows there too: x.csv, a database's URL, delta:PLACE, iceberg:TABLE; again for more."
        ),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="torch, compile, onnx, openvino or int8; auto: a short trial decides.")
    ] = None,
    embeddings: Annotated[bool, typer.Option(help="Keep each image's embedding.")] = False,
    only_failed: Annotated[bool, typer.Option(help="Try what failed again, and nothing else.")] = False,
    fail_over: Annotated[
        float | None, typer.Option(min=0, max=1, help="Stop once the share of bad files is larger, as 0.01.")
    ] = None,
) -> None:
    """Score every image of a source: one row a file. Run again, it scores what is new or changed."""
    from tasks.batch.folder import check_places
    from tasks.sinks.sinks import check_target

    check_places(source, absolute(UPath(output)) if output else None)
    for target in to or ():
        check_target(target)
    if engine and engine != "auto":
        from resnet_core.device import find_device
        from resnet_core.inference.engines import check_engine

        check_engine("--engine", engine, find_device(Settings().device))
    ready()
    from flows.classify_batch import classify_batch as flow
    from flows.cli.tables import show_scores

    with resumable():
        targets = [SecretStr(target) for target in to or ()]  # Prefect keeps a run's parameters
        show_scores(flow(source, output, model, targets, engine, embeddings, only_failed, fail_over))


@app.command()
def gallery(
    batch: Annotated[str, typer.Argument(help="The output of a batch, or its name under scores/.")],
    output: Annotated[str, typer.Option("--output", "-o", help="The HTML file to write.")] = "gallery.html",
    limit: Annotated[int, typer.Option(help="Show at most so many files: what needs a person first.")] = 500,
    label: Annotated[list[str] | None, typer.Option(help="Only images given this label; again for more.")] = None,
) -> None:
    """A scored batch as one page to look through and correct: it exports labels for the next night."""
    from tasks.report.gallery_page import check_options, find_batch, write_gallery
    from tasks.report.pages import check_place

    to = check_place(output, "gallery.html")
    found = find_batch(batch, Settings().root)
    check_options(found, limit, label or [])
    _show_gallery(write_gallery(found, to, limit, label or [], Settings().limits))
