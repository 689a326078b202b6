"""Seconds from Ctrl-C to the prompt: `python -m benchmarks.interrupts FOLDER`, a folder of images with labels.csv.

Every command runs in a session of its own, as in a terminal. SIGINT goes to its group once it has been at work for a
while; the lines that it prints afterwards are counted.
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

AT_WORK = (6.0, 14.0)  # seconds after which the signal comes
PATIENCE = 60.0
DATASET = """name: parts
source: {folder}
labels: {folder}/labels.csv
image: {{size: 32}}
model: {{arch: resnet10, width: 16}}
train: {{epochs: 400}}
gate: {{minimum: 0.0}}
"""


def commands(dataset: Path, folder: str) -> list[list[str]]:
    """Return ten commands. The first ones begin anew; the others find a champion that has learned for one epoch."""
    file = ["--dataset", str(dataset)]
    return [
        ["ingest", *file], ["preprocess", *file], ["retrain", *file], ["train", *file],
        ["train", *file, "--folds", "3"],
        ["tune", *file, "--trials", "3"], ["label-issues", *file], ["evaluate", *file],
        ["classify-batch", "--source", folder], ["predict", folder],
    ]  # fmt: skip


def interrupt(command: list[str], env: dict[str, str], after: float) -> tuple[float, int, int]:
    """Return seconds from the signal to the end, the exit status, and the number of lines printed after the signal."""
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli.app", *command],
            env=env, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        time.sleep(after)
        if process.poll() is not None:
            return 0.0, process.returncode, 0
        before = out.seek(0, os.SEEK_END)
        began = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        status = process.wait(PATIENCE)
        seconds = time.monotonic() - began
        out.seek(before)
        return seconds, status, len(out.read().strip().splitlines())


def main() -> None:
    folder = str(Path(sys.argv[1]).resolve())
    with tempfile.TemporaryDirectory() as scratch:
        dataset = Path(scratch) / "parts.yaml"
        env = {**os.environ, "GRAYLINE_STORE": f"{scratch}/store", "PYTHONUNBUFFERED": "1"}
        short = DATASET.format(folder=folder).replace("400", "1")
        dataset.write_text(short, encoding="utf-8")
        champion = [sys.executable, "-m", "flows.cli.app", "retrain", "--dataset", str(dataset)]
        subprocess.run(champion, env=env, check=True, capture_output=True)
        dataset.write_text(DATASET.format(folder=folder), encoding="utf-8")
        all_seconds = []
        for command in commands(dataset, folder):
            for after in AT_WORK:
                seconds, status, lines = interrupt(command, env, after)
                name = " ".join(command).replace(str(dataset), "FILE").replace(folder, "FOLDER")
                ended = "ended before" if not seconds else f"{seconds:.1f} s, status {status}, {lines} line"
                print(f"{name} | after {after:.0f} s | {ended}", flush=True)  # noqa: T201
                all_seconds += [seconds] * bool(seconds)
        print(f"median {statistics.median(all_seconds):.1f} s, worst {max(all_seconds):.1f} s, {len(all_seconds)} runs")  # noqa: T201


if __name__ == "__main__":
    main()
