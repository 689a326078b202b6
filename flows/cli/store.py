"""The commands about the store: the catalog's versions, and pruning. Heavy imports wait inside the commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column

from flows.cli.tables import console, number, say, table
from resnet_core.errors import UserError, plural, some_of
from tasks.settings import Settings, check_store

if TYPE_CHECKING:
    from tasks.prune import Pruning

app = typer.Typer()
catalog = typer.Typer(help="Show the versions of a data set's catalog.", no_args_is_help=True)

_DatasetName = Annotated[
    str | None, typer.Option("--dataset", help="The data set's name; optional if there is only one.")
]


@catalog.command("diff")
def catalog_diff(
    older: Annotated[int, typer.Argument(metavar="A", help="A version of the catalog; 0 is before the first.")],
    newer: Annotated[int, typer.Argument(metavar="B", help="A later version.")],
    dataset: _DatasetName = None,
    limit: Annotated[int, typer.Option(help="Show at most so many files.")] = 50,
) -> None:
    """Show the files that came, went and changed between two versions of the catalog."""
    from collections import Counter

    from resnet_core.catalog.history import difference
    from resnet_core.errors import whole_or_cut
    from tasks.store import Store

    store = Store(Settings().root)
    folder = store.history(store.find_catalog(dataset))
    changes = difference(folder, older, newer).to_pylist()
    counts = Counter(row["change"] for row in changes)
    say(", ".join(f"{counts[change]:,} {change}" for change in ("came", "went", "changed")))
    rows = table("", "file", "what")
    shown = whole_or_cut(changes, limit)
    for row in shown:
        rows.add_row(row["change"], row["uri"], _describe(row))
    if changes:
        console.print(rows)
    if len(changes) > len(shown):
        say(f"and {len(changes) - len(shown):,} more: raise --limit")


def _describe(row: dict[str, Any]) -> str:
    """Return `label 3 -> 8, status ok -> quarantined`. For a file that came or went, its label, split and status."""
    from resnet_core.catalog.history import WATCHED

    if row["change"] != "changed":
        suffix = "" if row["change"] == "came" else "_before"
        return ", ".join(filter(None, (row[name + suffix] for name in ("label", "split", "status"))))
    moved = [name for name in WATCHED if row[name] != row[f"{name}_before"]]
    return ", ".join(
        f"{name} {row[f'{name}_before'] or 'none'} -> {row[name] or 'none'}" if name != "image_id"
        else "other bytes" if row[name] and row["image_id_before"]
        else "bytes read" if row[name] else "bytes gone or unreadable"
        for name in moved
    )  # fmt: skip


@catalog.command("log")
def catalog_log(dataset: _DatasetName = None) -> None:
    """List the versions of the catalog, how much each changed, and who began the split anew."""
    from datetime import datetime

    from resnet_core.catalog.history import versions
    from tasks.ingest.again import beginnings
    from tasks.store import Store

    store = Store(Settings().root)
    folder = store.history(store.find_catalog(dataset))
    columns = ("version", "came", "went", "changed")
    rows = table(*columns)
    for row in versions(folder).to_pylist():
        rows.add_row(*(f"{row[column]:,}" for column in columns))
    console.print(rows)
    for begun in beginnings(folder):
        when = datetime.fromisoformat(begun.at).strftime("%Y-%m-%d %H:%M:%S")
        say(f"split begun anew after version {begun.version}: {when} UTC, {begun.who}, {begun.why}")


@app.command()
def split(
    again: Annotated[str, typer.Option("--again", metavar="NAME", help="The data set whose split begins anew.")],
    reason: Annotated[str, typer.Option(help="Why; recorded beside the catalog's history.")] = "begun anew by hand",
) -> None:
    """Begin a data set's split anew: the next night deals all images that the labels have not placed."""
    from tasks.ingest.again import begin_again
    from tasks.store import Store

    root = Settings().root
    check_store(root)
    begun = begin_again(Store(root), again, reason)
    say(f"{again}: the next night begins the split anew, after version {begun.version} ({begun.why})")


@app.command()
def prune(
    older_than: Annotated[
        int | None,
        typer.Option(min=0, metavar="DAYS", help="Only what is older; by default GRAYLINE_KEEP_DAYS, 30."),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Leave the N newest versions; by default GRAYLINE_KEEP_VERSIONS, 10."),
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete it; otherwise it is only listed.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list it; the default.")] = False,
) -> None:
    """List, or delete, old versions, runs and files that no alias, no batch, no catalog and no version needs."""
    from flows.prune import keep_house, plan

    if delete and dry_run:
        raise UserError("--dry-run: lists alone, and --delete deletes. Leave one of them out.")
    settings = Settings()
    store, days = settings.root, settings.keep_days if older_than is None else older_than
    if not store.exists():
        raise UserError(f"GRAYLINE_STORE: there is no store {store}. Set it to the folder of the nights.")
    pruning = plan(days, keep)
    if not pruning.leftovers and not pruning.versions and not pruning.runs:
        say(f"nothing to prune: whatever is older than {days} days is still needed")
    else:
        _show_pruning(pruning, store.path)
        found = f"{pruning.bytes / 1e6:,.1f} MB in {store}"
        if pruning.versions or pruning.runs:
            found += f", {plural(len(pruning.versions), 'version')} and {plural(len(pruning.runs), 'run')} in MLflow"
        say(f"{found}: {'deleting' if delete else 'say --delete to delete them'}")
    if delete:
        keep_house(pruning)


def _show_pruning(pruning: Pruning, store: str) -> None:
    """Print a table of the files, the largest first, and the versions."""
    last_written = Column("last written", no_wrap=True)
    rows = table(
        Column("folder", no_wrap=True), number("files"), number("MB"), last_written, Column("why", overflow="fold")
    )
    for leftover in sorted(pruning.leftovers, key=lambda leftover: -leftover.bytes):
        rows.add_row(
            leftover.folder.path.removeprefix(store).lstrip("/"),
            f"{len(leftover.files):,}",
            f"{leftover.bytes / 1e6:,.1f}",
            f"{leftover.modified:%Y-%m-%d}",
            leftover.why,
        )
    if pruning.leftovers:
        console.print(rows)
    by_name: dict[str, list[str]] = {}
    for version in pruning.versions:
        by_name.setdefault(version.name, []).append(str(version.version))
    for name, numbers in by_name.items():
        say(f"versions of {name}: {some_of(numbers, 20)}")
