"""Compare what two states of the code make of the same images: `python -m tests.same A B`.

    python -m tests.same make OUT [--checkout DIR] [--only digits]
    python -m tests.same A B [--only digits]

`make` runs commands of a checkout, old or new: a short night, a report and a batch, of digits and of solar cells.
Everything they write lies in the folder OUT, which is not to be moved: the files have its path in them.
Digests of code are fixed meanwhile: older code reads shards in the order of their names, which contain such a digest.
The comparison expects equal values, bit for bit, in everything below, and exits with 1 on a difference.

what         files                                       a row is
catalog      catalog/*/catalog.parquet                   a file of the source
history      history/*/*.parquet                         a change between two catalogs
pixels       pixels/*/*/*.parquet                        a file that was read
shards       shards/*/*/                                 a training image; the manifest
checks       checks/*/*/summary.json                     a document
run          runs/*/*/**.json                            a document
predictions  runs/*/*/evaluation/*.parquet               a test image; a slice
weights      runs/ and mlartifacts/, **.safetensors      a tensor
model        mlartifacts/*/models/*/artifacts/**.json    a document
pictures     runs/*/*/explanation/images/                a picture, decoded
scores       *-scores/*.parquet                          a file of the batch
batch        *-scores/_*.json                            manifest, drift
registry     mlflow.db                                   a version, a run: aliases, tags, parameters, metrics
report       *.html                                      the page

Digests, times, rates, run ids, paths and the code that travels with a model may differ; they are left out.
Columns that only B has, and reworded text with equal numbers in it, are noted. Neither is a difference.
"""

import argparse
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.outputs import Rows, read_outputs

DATASETS = {
    "digits": """\
name: digits
source: data/raw/digits
labels: data/raw/digits/labels.csv
image: {size: 8}
model: {arch: resnet10, width: 32}
train: {epochs: 3, batch_size: 64, augment: {flips: none, shift: 0.125}}
gate: {metric: accuracy, minimum: 0.5}
""",
    "elpv": """\
name: elpv
source: data/raw/elpv
labels: data/raw/elpv/labels.csv
image: {size: 64}
train: {epochs: 2, seed: 3}
gate: {metric: accuracy, minimum: 0.5}
""",
}

# Runs `grayline` with a fixed digest of code.
PROGRAM = """\
from importlib import import_module
digest = import_module("{digest}")
assert callable(digest.source_digest)
digest.source_digest = lambda *modules: "fixed"
import_module("{program}").main()
"""

# Text for people: the numbers in it are compared, its words are noted.
TEXT = {"reason", "review_reason", "detail", "found", "wanted", "how", "description", "gate"}
SUMMARIES = {"note"}  # text whose numbers are metrics too
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m tests.same", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("a", help="an output folder of the older code, or the word `make`")
    parser.add_argument("b", type=Path, help="an output folder of the newer code; or the one to fill")
    parser.add_argument("--checkout", type=Path, default=Path(__file__).parents[1], help="make: the code to run")
    parser.add_argument("--only", choices=DATASETS, help="one data set; digits take a minute")
    given = parser.parse_args(arguments)
    datasets = [given.only] if given.only else list(DATASETS)
    if given.a == "make":
        make(given.b.absolute(), given.checkout.absolute(), datasets)
        return 0
    comparisons = compare(Path(given.a).absolute(), given.b.absolute(), datasets)
    show(comparisons)
    return int(any(comparison.differences for comparison in comparisons))


def make(out: Path, checkout: Path, datasets: Iterable[str] = tuple(DATASETS)) -> None:
    """Run the commands of the checkout. Raises CalledProcessError when one of them fails."""
    out.mkdir(parents=True, exist_ok=True)
    old = (checkout / "flows" / "cli.py").exists()
    names = ("resnet_core.digest", "flows.cli") if old else ("resnet_core.storage.digest", "flows.cli.app")
    program = PROGRAM.format(digest=names[0], program=names[1])
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GRAYLINE_", "MLFLOW_"))}
    settings = {
        "PYTHONPATH": checkout,
        "GRAYLINE_STORE": out / "store",
        "PREFECT_HOME": out / "prefect",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": 300,
        "OMP_NUM_THREADS": 1,  # sums may depend on it, and several threads wait for each other on a busy machine
    }
    environment = kept | {name: str(value) for name, value in settings.items()}

    def grayline(log: str, *words: str) -> None:
        command = [sys.executable, "-c", program, *words]
        with (out / log).open("wb") as file:
            subprocess.run(command, cwd=out, env=environment, stdout=file, stderr=subprocess.STDOUT, check=True)

    for name in datasets:
        images, model, scores = f"data/raw/{name}", f"{name}/1", f"{name}-scores"
        (out / f"{name}.yaml").write_text(DATASETS[name], encoding="utf-8")
        grayline(f"{name}-sample.txt", "sample", name, "--to", images)
        grayline(f"{name}-night.txt", "retrain", "--dataset", f"{name}.yaml")
        grayline(f"{name}-report.txt", "report", model, "-o", f"{name}.html")
        grayline(f"{name}-batch.txt", "classify-batch", "--source", images, "--output", scores, "--model", model)


@dataclass
class Comparison:
    """An output of both folders. `notes` count what may differ, `differences` say where and how it may not."""

    what: str
    rows: tuple[int, int]
    values: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)


def compare(a: Path, b: Path, datasets: Iterable[str] = tuple(DATASETS)) -> list[Comparison]:
    """Compare all outputs of two folders."""
    comparisons = []
    for dataset in datasets:
        before, after = (read_outputs(folder, dataset) for folder in (a, b))
        for what in [*before, *(name for name in after if name not in before)]:
            comparisons.append(compare_rows(f"{dataset} {what}", before.get(what, {}), after.get(what, {})))
    return comparisons


def compare_rows(what: str, before: Rows, after: Rows) -> Comparison:
    result = Comparison(what, (len(before), len(after)))
    if not before and not after:
        result.differences.append("nothing to compare: neither folder has any")
    for key in [*before, *(name for name in after if name not in before)]:
        if key not in before or key not in after:
            result.differences.append(f"{key}: only in {'A' if key in before else 'B'}")
            continue
        for column in before[key].keys() | after[key].keys():
            if column not in before[key]:
                result.notes[f"new: {column}"] += 1
            elif column not in after[key]:
                result.differences.append(f"{key}: {column}: missing in B")
            else:
                result.values += 1
                _compare_values(result, key, column, before[key][column], after[key][column])
    return result


def _compare_values(result: Comparison, key: str, column: str, before: Any, after: Any) -> None:
    if before == after or (before != before and after != after):  # NaN is equal to NaN here
        return
    word = column.rsplit(".", 1)[-1]
    text = word in TEXT and isinstance(before, str) and isinstance(after, str)
    if word in SUMMARIES or (text and _numbers(before) == _numbers(after)):
        result.notes[f"reworded: {column}"] += 1
        return
    result.differences.append(f"{key}: {column}: {_short(before)} -> {_short(after)}")


def _numbers(text: str) -> Counter[str]:
    return Counter(NUMBER.findall(text))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 70 else f"{text[:50]}... ({len(text)} characters)"


def show(comparisons: list[Comparison], console: Console | None = None, examples: int = 3) -> None:
    """Print a table, and the first differences of each output below it."""
    out = console or Console(width=None if sys.stdout.isatty() else 130, highlight=False)
    table = Table("what", "rows A", "rows B", "values", "equal", "notes")
    for result in comparisons:
        verdict = f"{len(result.differences):,} differ" if result.differences else "equal"
        notes = ", ".join(f"{name} ({count:,})" for name, count in sorted(result.notes.items()))
        table.add_row(result.what, *(f"{count:,}" for count in (*result.rows, result.values)), verdict, notes)
    out.print(table)
    for result in comparisons:
        for line in result.differences[:examples]:
            out.print(f"{result.what}: {line}", markup=False)
        if len(result.differences) > examples:
            out.print(f"{result.what}: and {len(result.differences) - examples:,} more")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
