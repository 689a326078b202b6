"""The progress of a batch while it runs, and the decision to stop it.

A terminal shows a bar with bad files and the time left, and a table of labels. A log gets a line now and then.
Prefect gets a progress artifact.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from resnet_core.errors import JobError, plural, whole_or_cut
from tasks.artifacts import plain
from tasks.batch.values import Batch, PartOutcome
from tasks.progress import Speed, console, progress

_SECONDS_BETWEEN_ARTIFACTS = 5.0
SHOWN = 12  # labels in the table
LEAST = 1000  # files that a share of bad ones is judged by, or all where there are fewer


class TooManyBadError(JobError):
    """More files are bad than the batch may have."""


@dataclass
class _Watch:
    """Add up and show every finished part; raise TooManyBadError once the share of bad files is over `fail_over`."""

    batch: Batch
    fail_over: float | None
    show: Callable[[int, int, Counter[str]], None]
    artifact: "_Artifact"
    done: int = 0
    failed: int = 0
    again: int = 0  # known by their content
    refused: dict[str, str] = field(default_factory=dict)  # by engine: why a machine did not use it
    labels: Counter[str] = field(default_factory=Counter)

    def __call__(self, part: PartOutcome) -> None:
        self.done += part.images
        self.failed += part.failed
        self.again += part.again
        self.refused |= [part.refused] if part.refused else []
        self.labels.update(part.labels)
        self.show(part.images, self.failed, self.labels)
        self.artifact.update(self.done / self.batch.to_score)
        limit, enough = self.fail_over, self.done >= min(LEAST, self.batch.to_score)
        if limit is not None and enough and self.failed > limit * self.done:
            raise TooManyBadError(
                f"{self.failed:,} of the first {plural(self.done, 'file')} are bad, more than --fail-over "
                f"{limit:g} allows. "
                f"Their rows in {self.batch.folder} say why. Mend them or raise the limit; the same command goes on."
            )


@contextmanager
def watched(batch: Batch, fail_over: float | None) -> Iterator[_Watch]:
    """Watch a batch. fail_over: the share of bad files among those scored now that stops it; None: no limit."""
    with _shown(batch.to_score) as show:
        yield _Watch(batch, fail_over, show, _Artifact(batch))


@contextmanager
def _shown(total: int) -> Iterator[Callable[[int, int, Counter[str]], None]]:
    if not total:
        yield lambda images, failed, labels: None
    elif console.is_terminal:
        with _live(total) as show:
            yield show
    else:
        with progress("score", total) as advance:
            yield lambda images, failed, labels: advance(images, f"{failed:,} bad" if failed else "")


@contextmanager
def _live(total: int) -> Iterator[Callable[[int, int, Counter[str]], None]]:
    bar = Progress(
        TextColumn("score      "),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        Speed(),
        TextColumn("{task.fields[bad]}", style="red", markup=False),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=console,
    )
    task = bar.add_task("score", total=total, bad="", unit="images")
    with Live(bar, console=console, transient=True, refresh_per_second=4) as live:

        def show(images: int, failed: int, labels: Counter[str]) -> None:
            bar.update(task, advance=images, bad=f"{failed:,} bad" if failed else "")
            live.update(Group(bar, _label_table(labels)))

        yield show


def _label_table(labels: Counter[str]) -> Table:
    table = Table("label", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("images", justify="right")
    table.add_column("share", justify="right")
    shown = whole_or_cut(labels.most_common(), SHOWN)
    for name, count in shown:
        table.add_row(name, f"{count:,}", f"{count / labels.total():.1%}")
    if others := len(labels) - len(shown):
        table.add_row(f"and {others} more", "", "")
    return table


class _Artifact:
    """Prefect's progress artifact, made once there is something to wait for."""

    def __init__(self, batch: Batch) -> None:
        self._description = f"{plural(batch.to_score, 'file')} of {plain(batch.source)}"
        self._id: UUID | None = None
        self._said = time.monotonic()

    def update(self, share: float) -> None:
        now = time.monotonic()
        if now - self._said < _SECONDS_BETWEEN_ARTIFACTS and not (share == 1 and self._id):
            return
        self._said = now
        if self._id is None:
            self._id = create_progress_artifact(100 * share, key="scoring", description=self._description)  # type: ignore[assignment]
        else:
            update_progress_artifact(self._id, 100 * share)
