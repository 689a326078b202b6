"""What the commands about versions print: on stdout. Nothing here imports Prefect, which takes seconds."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from upath import UPath

    from tasks.registry.history import Event
    from tasks.values import ModelVersion, Reproduction


WIDE = 400  # columns, in a file or a pipe: a line an event
console = Console(highlight=False, soft_wrap=True, markup=False)


def show_champion(version: ModelVersion, reason: str) -> None:
    console.print(f"{version.name}: version {version.version} is the champion ({reason})")


def show_history(name: str, events: Sequence[Event]) -> None:
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
        Console(highlight=False, markup=False, width=WIDE).print(table)


def show_reproduction(found: Reproduction) -> None:
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


def show_report(version: ModelVersion, to: UPath, size: int) -> None:
    console.print(f"{version.name} version {version.version}: {to} ({size / 1e6:.1f} MB)")
