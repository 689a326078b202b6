"""Peak memory of a training on streamed shards: `python -m benchmarks memory`, by itself.

The same training of a tiny network, in a process of its own, on SMALL and on LARGE images. Both may hold equally much
in memory (`resident_bytes`), less than either set. The result is the large run's peak over the small one's: at most
1.1. Images are noise that compresses; shards have the size that a night writes.
"""

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from upath import UPath

from benchmarks.rounds import Comparison, Result, Track
from resnet_core.images.preprocessing import Preprocessing
from resnet_core.model.resnet import ModelConfig
from resnet_core.shards import format as shards
from resnet_core.training.config import TrainConfig
from resnet_core.training.job import Job
from resnet_core.training.job import run as train

SETTINGS = Preprocessing(size=64)
SMALL, LARGE = 20_000, 200_000
IN_A_SHARD = 1024
RESIDENT_BYTES = 32 * 1024**2  # 8,192 images: two windows of a quarter each
CLASSES = ("a", "b")
MODEL = ModelConfig("resnet10", width=16)
COMMAND = "import sys; from benchmarks.memory import train_on; train_on(sys.argv[1])"


def run(folder: Path, track: Track, small: int = SMALL, large: int = LARGE) -> Result:
    peaks = [measure(folder / str(count), count) for count in track((small, large))]
    what, peer = f"peak memory of training, {large:,} images", f"{small:,} images"
    return Result(
        "memory",
        f"{MODEL.arch} of width {MODEL.width}, {SETTINGS.size} px, one epoch, {RESIDENT_BYTES / 1024**2:.0f} MiB of "
        f"resident_bytes, {torch.get_num_threads()} torch threads",
        (Comparison(what, peer, (peaks[1] / 1024**2,), (peaks[0] / 1024**2,), unit="MiB"),),
    )


def measure(folder: Path, count: int) -> int:
    """The most bytes that a process which trains on that many images ever had in memory."""
    write_shards(folder, count)
    ended = subprocess.run([sys.executable, "-c", COMMAND, str(folder)], check=True, stdout=subprocess.PIPE, text=True)
    return int(ended.stdout)


def write_shards(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number, start in enumerate(range(0, count, IN_A_SHARD)):
        images = min(IN_A_SHARD, count - start)
        pixels = rng.integers(96, 160, (images, SETTINGS.size, SETTINGS.size), dtype=np.uint8)
        names = [f"{start + k:064x}" for k in range(images)]
        labels = [CLASSES[k % len(CLASSES)] for k in range(images)]
        facts = (pa.array(names), pa.array(labels), pa.array(["train"] * images), pa.array(np.ones(images, np.float32)))
        table = shards.make_table(*facts, pixels, shards.metadata(CLASSES, SETTINGS))
        shards.write_table(table, str(folder / f"{number:04}.parquet"), None)


def train_on(folder: str) -> None:
    """Train, and print the peak in bytes."""
    files = tuple(sorted(UPath(folder).glob("*.parquet")))
    count = sum(shards.open_file(path).metadata.num_rows for path in files)
    config = TrainConfig(epochs=1, batch_size=64, optimizer="sgd", lr=0.1)
    train(Job(files, CLASSES, SETTINGS, count, 0, MODEL, config, resident_bytes=RESIDENT_BYTES), torch.device("cpu"))
    sys.stdout.write(f"{peak_bytes()}\n")


def peak_bytes() -> int:
    """Return the peak of this process. Linux's `ru_maxrss` begins with the peak of the process that started it."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes
