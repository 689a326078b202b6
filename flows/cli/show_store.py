"""What `grayline prune` prints."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from upath import UPath

from tasks.prune import Leftover

console = Console(highlight=False, soft_wrap=True, markup=False)


def show_leftovers(found: Sequence[Leftover], store: UPath, days: int, delete: bool) -> None:
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
