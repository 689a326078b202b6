"""The commands about the store; `cli` puts them at the top, beside those that fill it.

Heavy imports wait inside the commands.
"""

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from upath import UPath

from tasks.prune import Leftover
from tasks.settings import Settings, check_store

app = typer.Typer()
catalog = typer.Typer(help="What the nights have changed in a data set's catalog.", no_args_is_help=True)


@catalog.command("diff")
def catalog_diff(
    older: Annotated[int, typer.Argument(metavar="A", help="A version of the catalog; 0 is before the first.")],
    newer: Annotated[int, typer.Argument(metavar="B", help="A later version.")],
    dataset: Annotated[str | None, typer.Option(help="The data set's name; may be left out if there is one.")] = None,
    limit: Annotated[int, typer.Option(help="Show at most so many files.")] = 50,
) -> None:
    """What came, went and changed between two versions of the catalog."""
    from flows.cli.tables import show_difference
    from resnet_core.catalog.history import difference
    from tasks.store import find_catalog, versions_folder

    name = find_catalog(Settings().root, dataset)
    show_difference(difference(versions_folder(Settings().root, name), older, newer), limit)


@catalog.command("log")
def catalog_log(
    dataset: Annotated[str | None, typer.Option(help="The data set's name; may be left out if there is one.")] = None,
) -> None:
    """The versions of the catalog, and how much each changed."""
    from flows.cli.tables import show_versions
    from resnet_core.catalog.history import versions
    from tasks.store import find_catalog, versions_folder

    name = find_catalog(Settings().root, dataset)
    show_versions(versions(versions_folder(Settings().root, name)))


@app.command()
def prune(
    older_than: Annotated[
        int, typer.Option(min=0, metavar="DAYS", help="Only what nothing has written to for so long.")
    ] = 30,
    delete: Annotated[bool, typer.Option("--delete", help="Delete it; otherwise it is only listed.")] = False,
) -> None:
    """List, or delete, what nights have left in the store that neither a catalog nor a version refers to."""
    check_store(Settings().root)
    from datetime import UTC, datetime, timedelta

    from tasks import prune

    before = datetime.now(UTC) - timedelta(days=older_than)
    found = prune.leftovers(Settings().root, Settings().tracking_uri, before)
    _show_leftovers(found, Settings().root, older_than, delete)
    if delete:
        prune.delete(found)


console = Console(highlight=False, soft_wrap=True, markup=False)


def _show_leftovers(found: Sequence[Leftover], store: UPath, days: int, delete: bool) -> None:
    """A row a folder, the largest first."""
    if not found:
        console.print(f"nothing to prune: whatever is older than {days} days is still needed")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("folder", no_wrap=True)
    for heading in ("files", "MB"):
        table.add_column(heading, justify="right")
    table.add_column("last written", no_wrap=True)
    table.add_column("why", overflow="fold")
    for one in sorted(found, key=lambda one: -one.bytes):
        place = one.folder.path.removeprefix(store.path).lstrip("/")
        row = f"{len(one.files):,}", f"{one.bytes / 1e6:,.1f}", f"{one.modified:%Y-%m-%d}", one.why
        table.add_row(place, *row)
    console.print(table)
    freed = f"{sum(one.bytes for one in found) / 1e6:,.1f} MB in {store}"
    console.print(f"{freed}: {'deleting' if delete else 'say --delete to delete them'}")
