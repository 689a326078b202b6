"""From ten thousand images to a million: `python -m benchmarks scale`, by itself, because it takes long.

The command `grayline preprocess` runs from a tar of small images to shards, on SMALL and on LARGE images. An image is
a blend of two crops of scikit-image's photographs, so all differ, as in a collection. Time is wall-clock time per
image, Prefect's start included. Memory is the highest sum of resident bytes of the command and all its processes. The
results are the large run's figures over the small one's: at most 1.2 in time, 1.5 in memory.
"""

import io
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import skimage.data
import yaml
from numpy.typing import NDArray
from PIL import Image

from benchmarks.rounds import Comparison, Result, Track

SIDE = 32  # pixels
SMALL, LARGE = 10_000, 1_000_000
CLASSES = 4
SECONDS_BETWEEN_LOOKS = 0.1


@dataclass(frozen=True)
class Run:
    """`seconds` of the whole command; `bytes` at its peak."""

    seconds: float
    bytes: int


def run(folder: Path, track: Track, large: int = LARGE) -> Result:
    counts = (SMALL, large)
    runs = [measure(folder, count) for count in track(counts)]
    speed = [count / found.seconds for count, found in zip(counts, runs, strict=True)]
    memory = [found.bytes / 1024**2 for found in runs]
    return Result(
        "scale",
        f"a tar of {SIDE}x{SIDE} PNG, grayline preprocess with Prefect's temporary server; {SMALL:,} images took "
        f"{runs[0].seconds:.0f} s, {large:,} took {runs[1].seconds:.0f} s",
        (
            Comparison(f"speed, {large:,} images", f"{SMALL:,} images", (speed[1],), (speed[0],)),
            Comparison(f"peak memory, {large:,} images", f"{SMALL:,} images", (memory[1],), (memory[0],), unit="MiB"),
        ),
    )


def measure(folder: Path, count: int) -> Run:
    """Run the command in a process of its own, and watch the tree below it."""
    source, dataset = folder / f"{count}.tar", folder / f"{count}.yaml"
    write_tar(source, count)
    dataset.write_text(yaml.safe_dump({"name": f"n{count}", "source": str(source), "image": {"size": SIDE}}))
    environment = {**os.environ, "GRAYLINE_STORE": str(folder / f"store{count}")}
    command = [sys.executable, "-m", "flows.cli.app", "preprocess", "--dataset", str(dataset)]
    found = watch(command, environment, folder / "log")
    source.unlink()
    return found


def watch(command: Sequence[str], environment: dict[str, str], log: Path) -> Run:
    """Raises RuntimeError with what the command had to say."""
    began = time.monotonic()
    with open(log, "w+", encoding="utf-8") as said:
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
        peak = max(looks(process))
        if process.returncode:
            said.seek(0)
            raise RuntimeError(said.read())
    return Run(time.monotonic() - began, peak)


def looks(process: "subprocess.Popen[bytes]") -> Iterator[int]:
    """The resident bytes of the process and all below it, now and then until it ends."""
    root = psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        for one in [root, *root.children(recursive=True)]:
            try:
                total += one.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        yield total
        time.sleep(SECONDS_BETWEEN_LOOKS)


def write_tar(path: Path, count: int) -> None:
    rng = np.random.default_rng(count)
    photographs = [luma(image) for image in (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.rocket())]
    with tarfile.open(path, "w") as archive:
        for number in range(count):
            one, other = (crop(photographs[rng.integers(len(photographs))], rng) for _ in range(2))
            share = rng.uniform(0.3, 0.7)
            sink = io.BytesIO()
            Image.fromarray((share * one + (1 - share) * other).astype(np.uint8)).save(sink, "PNG", compress_level=1)
            entry = tarfile.TarInfo(f"class{number % CLASSES}/{number:07}.png")
            entry.size, entry.mtime = sink.tell(), number + 1
            sink.seek(0)
            archive.addfile(entry, sink)
            archive.members = []  # type: ignore[assignment]  # else a million of them stay in memory


def luma(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).convert("L"))


def crop(gray: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    top, left = rng.integers(gray.shape[0] - SIDE), rng.integers(gray.shape[1] - SIDE)
    return gray[top : top + SIDE, left : left + SIDE]
