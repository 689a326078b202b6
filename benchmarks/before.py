"""This tree against an earlier one: `git worktree add DIR f0480c9; python -m benchmarks.before DIR [PART ...]`.

jpeg, png, tiff: a process of each tree takes in and scores the same 4,000 files in turn, without Prefect and MLflow.
commands: a first night of digits, an unchanged night, a batch, and the batch again, from the shell to the prompt.
A line has the earlier median and this tree's, and the median of earlier / this over the pairs: above 1, this is faster.
"""

import io
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import IO

from PIL import Image

from benchmarks.images import scenes

HERE = Path(__file__).resolve().parents[1]
FILES, PAIRS, COMMAND_PAIRS = 4000, 5, 4
SUFFIXES = {"jpeg": "jpg", "png": "png", "tiff": "tif"}
STAGES = """
import shutil, sys, time
from pathlib import Path
from upath import UPath
if __name__ == "__main__":
    from benchmarks import batch
    from benchmarks.ingest import night
    source, scratch = Path(sys.argv[1]), Path(sys.argv[2])
    classifier = batch.make_classifier(batch.read_all(sorted(source.glob("*/*"))[:64]))
    engine = batch.fastest(classifier)
    print("ready", file=sys.stderr, flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        if line.strip() == "ingest":
            night(source, UPath(scratch / "store"))
        else:
            with batch.scoring(classifier, engine):
                began = time.perf_counter()
                batch.batch(source, scratch / "rows", classifier)
        seconds = time.perf_counter() - began
        shutil.rmtree(scratch)
        print(seconds, file=sys.stderr, flush=True)
"""
COMMAND = """
import sys
try:
    from flows.cli.app import main
except ImportError:
    from flows.cli import main
sys.argv[0] = "grayline"
main()
"""
DATASET = """name: digits
source: {folder}
labels: {folder}/labels.csv
image: {{size: 8}}
model: {{arch: resnet10, width: 32}}
train: {{epochs: 12, batch_size: 64, augment: {{flips: none, shift: 0.125}}}}
gate: {{metric: accuracy, minimum: 0.5}}
"""

Seconds = Callable[[], float]


def write_files(folder: Path, kind: str) -> None:
    """Write JPEG files of 1024x768, or gray PNG or TIFF files of 512x512 px, cut out of them."""
    for number, content in enumerate(scenes(FILES)):
        path = folder / "ab"[number % 2] / f"{number:05}.{SUFFIXES[kind]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "jpeg":
            path.write_bytes(content)
        else:
            Image.open(io.BytesIO(content)).convert("L").crop((0, 0, 512, 512)).save(path)


@contextmanager
def stages(tree: Path, source: Path, scratch: Path) -> Iterator[dict[str, Seconds]]:
    """Start the tree's own stages on this source."""
    script = scratch.with_suffix(".py")
    script.write_text(STAGES)
    command = [sys.executable, "-W", "ignore", str(script), str(source), str(scratch)]
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=tree, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin
        assert process.stderr
        read_until(process.stderr, "ready")
        yield {what: lambda what=what: ask(process, what) for what in ("ingest", "score")}  # type: ignore[misc]
        process.stdin.close()


def ask(process: subprocess.Popen[str], what: str) -> float:
    assert process.stdin
    assert process.stderr
    print(what, file=process.stdin, flush=True)
    return float(read_until(process.stderr))


def read_until(lines: IO[str], word: str = "") -> str:
    """Return the next line that is `word`, or a number; a log's lines between are passed over."""
    for line in lines:
        if line.strip() == word or (not word and line.strip().replace(".", "").isdigit()):
            return line
    raise SystemExit("the other process has ended")


def nights(tree: Path, dataset: Path, folder: Path) -> dict[str, float]:
    """Return the seconds of four commands, one after the other, in a fresh store."""
    environment = {
        **os.environ, "PYTHONPATH": str(tree), "GRAYLINE_STORE": str(folder / "store"), "HOME": str(folder),
    }  # fmt: skip
    folder.mkdir()
    retrain = ["retrain", "--dataset", str(dataset)]
    score = ["classify-batch", "--source", str(dataset.parent / "digits"), "--output", str(folder / "rows")]
    seconds = {}
    for what, arguments in {"night": retrain, "unchanged night": retrain, "batch": score, "batch again": score}.items():
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", COMMAND, *arguments], cwd=folder, env=environment, check=True, capture_output=True
        )
        seconds[what] = time.perf_counter() - began
    shutil.rmtree(folder)
    return seconds


def show(what: str, earlier: list[float], this: list[float]) -> None:
    ratio = statistics.median(a / b for a, b in zip(earlier, this, strict=True))
    sys.stdout.write(
        f"{what:16} {statistics.median(earlier):8.3f} s {statistics.median(this):8.3f} s   {ratio:.3f} "
        f"(best {min(earlier) / min(this):.3f})\n"
    )
    sys.stdout.flush()


def compare_stages(trees: list[Path], folder: Path, kind: str) -> None:
    write_files(folder / kind, kind)
    with ExitStack() as stack:
        both = [
            stack.enter_context(stages(tree, folder / kind, folder / f"scratch-{kind}{number}"))
            for number, tree in enumerate(trees)
        ]
        for what in ("ingest", "score"):
            seconds: list[list[float]] = [[], []]
            for turn in range(PAIRS + 1):  # the first warms up
                for side in (0, 1) if turn % 2 else (1, 0):
                    seconds[side].append(both[side][what]())
            show(f"{what} {kind}", seconds[0][1:], seconds[1][1:])


def compare_commands(trees: list[Path], folder: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", COMMAND, "sample", "digits", "--to", str(folder / "digits")],
        env={**os.environ, "PYTHONPATH": str(HERE)}, check=True, capture_output=True,
    )  # fmt: skip
    dataset = folder / "digits.yaml"
    dataset.write_text(DATASET.format(folder=folder / "digits"))
    fresh = count()
    runs: list[list[dict[str, float]]] = [[], []]
    for turn in range(COMMAND_PAIRS):
        for side in (0, 1) if turn % 2 else (1, 0):
            runs[side].append(nights(trees[side], dataset, folder / f"run{next(fresh)}"))
    for what in runs[0][0]:
        show(what, *([run[what] for run in side] for side in runs))


def main() -> None:
    trees = [Path(sys.argv[1]).resolve(), HERE]
    parts = sys.argv[2:] or [*SUFFIXES, "commands"]
    with tempfile.TemporaryDirectory() as name:
        for part in parts:
            if part == "commands":
                compare_commands(trees, Path(name))
            else:
                compare_stages(trees, Path(name), part)


if __name__ == "__main__":
    main()
