"""`python -m benchmarks [NAME ...]`: run the benchmarks, or those named, print one table, write JSON."""

import json
import sys
import tempfile
import time
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from upath import UPath

from benchmarks import machine
from benchmarks.rounds import Comparison, Difference, Result
from resnet_core.files import write_text

NAMES = ("decode", "batches", "fit", "score", "ingest")
LONG = ("scale",)  # run only where they are named
RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str]) -> int:
    # A pipe has no width of its own, and the table wants some.
    out, err = Console(width=None if sys.stdout.isatty() else 150, highlight=False), Console(stderr=True)
    if unknown := [name for name in arguments if name not in NAMES + LONG]:
        err.print(f"benchmarks: there is no {unknown[0]!r}. Choose from: {', '.join(NAMES + LONG)}.")
        return 2
    names = [name for name in NAMES + LONG if name in arguments] or list(NAMES)
    began, clock = datetime.now(UTC), time.monotonic()
    before = machine.describe()
    results = run(names, err)
    seconds = time.monotonic() - clock
    out.print(table(results))
    for result in results:
        out.print(f"{result.name}: {result.setting}")
    out.print(
        f"{before['processor']}, {before['instructions']}, {before['cores']} cores, "
        f"load {before['load']} before the run; {seconds:.0f} s in all"
    )
    # A part of the benchmarks does not overwrite the day's full run.
    stem = "-".join([f"{began:%Y-%m-%d}", *(names if len(names) < len(NAMES) else [])])
    report = {
        "began": began.isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "machine": before,
        "versions": machine.versions(),
        "results": [result_json(result) for result in results],
    }
    path = RESULTS / f"{stem}.json"
    write_text(UPath(path), json.dumps(report, indent=2) + "\n")
    out.print(f"every round's figures: {path.relative_to(RESULTS.parents[1])}")
    return 0


def run(names: list[str], console: Console) -> list[Result]:
    """One bar a benchmark, each in a folder of its own that is gone afterwards."""
    columns = (TextColumn("{task.description:<8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    results = []
    with Progress(*columns, console=console) as progress:
        for name in names:
            module = import_module(f"benchmarks.{name}")
            with tempfile.TemporaryDirectory() as folder:
                results.append(module.run(Path(folder), partial(progress.track, description=name)))
    return results


def table(results: list[Result]) -> Table:
    made = Table("what", "peer", title="Ours to the peer's, measured in the same rounds (above 1: ours is faster)")
    for name in ("ours", "peer's"):
        made.add_column(name, justify="right")
    made.add_column("unit")
    for name in ("ratio", "min", "max"):
        made.add_column(name, justify="right")
    made.add_column("difference, mean / largest")
    for result in results:
        for line in result.comparisons:
            made.add_row(*cells(line))
        made.add_section()
    return made


def cells(line: Comparison) -> list[str]:
    ours, theirs = f"{median(line.ours):,.0f}", f"{median(line.theirs):,.0f}"
    ratios = [f"{value:.3g}" for value in (line.ratio, min(line.ratios), max(line.ratios))]
    return [line.what, line.peer, ours, theirs, line.unit, *ratios, difference(line.difference)]


def difference(found: Difference | None) -> str:
    return f"{found.mean:.2g} / {found.largest:.2g} {found.unit}" if found else ""


def result_json(result: Result) -> dict[str, Any]:
    return {"name": result.name, "setting": result.setting, "lines": [line_json(c) for c in result.comparisons]}


def line_json(line: Comparison) -> dict[str, Any]:
    ratios = {"median": line.ratio, "min": min(line.ratios), "max": max(line.ratios), "rounds": line.ratios}
    found = line.difference
    return {
        "what": line.what,
        "peer": line.peer,
        "unit": line.unit,
        "ours": line.ours,
        "theirs": line.theirs,
        "ratio": ratios,
        "difference": {"mean": found.mean, "largest": found.largest, "unit": found.unit} if found else None,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
