"""`python -m benchmarks [NAME [PART ...] ...]`: run the benchmarks, or those named, print tables, write JSON."""

import json
import logging
import math
import sys
import tempfile
import time
from dataclasses import asdict
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
from benchmarks.rounds import Comparison, Difference, Measure, Result
from resnet_core.errors import UserError
from resnet_core.storage.files import write_text

NAMES = ("decode", "batches", "fit", "score", "ingest", "batch")
# Run only where they are named; some have parts, and run those that are named after them, or all.
LONG: dict[str, tuple[str, ...]] = {
    "scale": (),
    "memory": (),
    "heap": (),
    "sizes": (),
    "quality": ("elpv", "elpv4", "digits"),
    "defaults": (
        *("jig", "textures", "rare_digits", "digits", "letters", "photographs", "fashion_1000", "elpv", "fashion"),
    ),
    "self_supervised": (),
    "trials": (
        *("as_it_is", "lr_0.06", "no_smoothing", "multiscale", "multiscale_no_smoothing", "all_three"),
        *("long", "long_moved", "long_decay", "long_multiscale", "long_multiscale_moved"),
    ),
    "label_issues": ("digits", "elpv"),
    "time_to_accuracy": ("documented", "shortened"),
    "gate": ("images", "groups", "evidence"),
    "drift": ("elpv", "digits"),
    "review": (),
    "novelty": ("digits", "clothes", "elpv", "speed"),
    "heatmaps": (),
    "engines": ("torch", "compile", "onnx", "openvino", "int8"),
    "int8": ("digits", "digits_short", "elpv", "elpv_again"),
    "command": ("fixed", "growth", "workers", "predict"),
    "whole_night": (),
    "contention": (),
    "simulate_scoring": (),
}
Chosen = dict[str, tuple[str, ...]]  # the benchmarks to run, and their parts
RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str]) -> int:
    # A pipe has no width of its own, and the table wants some.
    out, err = Console(width=None if sys.stdout.isatty() else 150, highlight=False), Console(stderr=True)
    try:
        chosen = choose(arguments)
    except UserError as error:
        err.print(f"benchmarks: {error}")
        return 2
    logging.getLogger("grayline").setLevel(logging.WARNING)  # what stages have to say is not what is asked here
    began, clock = datetime.now(UTC), time.monotonic()
    before = machine.describe()
    results = run(chosen, err)
    seconds = time.monotonic() - clock
    for made in (table(results), measures(results)):
        if made.row_count:
            out.print(made)
    for result in results:
        out.print(f"{result.name}: {result.setting}")
    out.print(
        f"{before['processor']}, {before['instructions']}, {before['cores']} cores, "
        f"load {before['load']} before the run; {seconds:.0f} s in all"
    )
    # A part of the benchmarks does not overwrite the day's full run.
    words = [word for name, parts in chosen.items() for word in (name, *parts)]
    stem = "-".join([f"{began:%Y-%m-%d}", *(words if tuple(chosen) != NAMES else [])])
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


def choose(arguments: list[str]) -> Chosen:
    """Raises UserError for what is neither a benchmark nor a part of the one before it."""
    chosen: dict[str, list[str]] = {}
    for word in arguments:
        known = LONG.get(next(reversed(chosen), ""), ())
        if word in NAMES or word in LONG:
            chosen[word] = []
        elif word in known:
            chosen[next(reversed(chosen))].append(word)
        else:
            raise UserError(f"there is no {word!r}. Choose from: {', '.join((*known, *NAMES, *LONG))}.")
    return {name: tuple(parts) for name, parts in chosen.items()} or dict.fromkeys(NAMES, ())


def run(chosen: Chosen, console: Console) -> list[Result]:
    """Run the chosen benchmarks, with a progress bar and a temporary folder each."""
    columns = (TextColumn("{task.description:<8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    results = []
    with Progress(*columns, console=console) as progress:
        for name, parts in chosen.items():
            module = import_module(f"benchmarks.{name}")
            with tempfile.TemporaryDirectory() as folder:
                track = partial(progress.track, description=name)
                results.append(module.run(Path(folder), track, *([parts] if parts else [])))
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
    ours, theirs = figure(median(line.ours)), figure(median(line.theirs))
    ratios = [f"{value:.3g}" for value in (line.ratio, min(line.ratios), max(line.ratios))]
    return [line.what, line.peer, ours, theirs, line.unit, *ratios, difference(line.difference)]


def figure(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"


def measures(results: list[Result]) -> Table:
    made = Table("what", title="Ours, once a seed")
    for name in ("mean", "standard deviation"):
        made.add_column(name, justify="right")
    made.add_column("unit")
    made.add_column("each seed")
    for result in results:
        for line in result.measures:
            each = "  ".join(figure(value) for value in line.values)
            made.add_row(line.what, figure(line.mean), figure(line.deviation), line.unit, each)
        made.add_section()
    return made


def difference(found: Difference | None) -> str:
    return f"{found.mean:.2g} / {found.largest:.2g} {found.unit}" if found else ""


def result_json(result: Result) -> dict[str, Any]:
    found = {"name": result.name, "setting": result.setting, "lines": [line_json(c) for c in result.comparisons]}
    return found | {"measures": [measure_json(measure) for measure in result.measures]}


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


def measure_json(measure: Measure) -> dict[str, Any]:
    deviation = measure.deviation if len(measure.values) > 1 else None
    return asdict(measure) | {"mean": measure.mean, "standard_deviation": deviation}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
