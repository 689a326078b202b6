"""Batches for training: `Resident` and `Streamed` against ImageFolder with a DataLoader, and a memmap.

All give shuffled batches of 256 uint8 images of 64 px with their labels. Ours read Parquet shards as
`tasks.ingest.preprocess` makes them. ImageFolder reads the same images as PNG files, in its fastest plain
form: opened as gray, no float conversion. It runs with 0 and with 2 workers, and the faster is the peer.
Random rows of a numpy memmap are the limit: the copy alone. All files are in the page cache.
Images are repeated to fill the shards; that makes none of the readers faster.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import PILToTensor
from upath import UPath

from benchmarks.images import cells
from benchmarks.rounds import Comparison, Result, Track, interleave, timed
from resnet_core.images.preprocessing import Preprocessing
from resnet_core.reading.pool import read_file
from resnet_core.shards import format as shards
from resnet_core.training.batches import Batches, Resident, Streamed

SIZE = 64  # pixels
BATCH = 256
IMAGES = 32 * shards.ROW_GROUP  # in shards and memmap: 134 MB, well beyond the processor's caches
PNGS = 4096
WINDOW = 8 * shards.ROW_GROUP
CLASSES = ("defective", "functional")
ROUNDS = 7

CPU = torch.device("cpu")


def run(folder: Path, track: Track) -> Result:
    pixels = distinct_pixels()
    labels = np.arange(IMAGES) % len(CLASSES)
    files = write_shards(folder / "shards", pixels, labels)
    mapped = write_memmap(folder / "pixels.npy", pixels)
    pngs = write_pngs(folder / "pngs", pixels, labels)
    resident = Resident.of(shards.read(files, "train", CLASSES), CPU)
    streamed = Streamed(files, CLASSES, IMAGES, CPU, WINDOW)
    seeds = count()
    alone, helped = loader(pngs, workers=0), loader(pngs, workers=2)
    rates = interleave(
        ROUNDS,
        {
            "Resident": timed(lambda: ours(resident, next(seeds))),
            "Streamed": timed(lambda: ours(streamed, next(seeds))),
            "ImageFolder, 0 workers": timed(lambda: sum(len(y) for _, y in alone)),
            "ImageFolder, 2 workers": timed(lambda: sum(len(y) for _, y in helped)),
            "numpy memmap": timed(lambda: sum(len(x) for x, _ in random_rows(mapped, labels, next(seeds)))),
        },
        track,
    )
    folder_peer = max("ImageFolder, 0 workers", "ImageFolder, 2 workers", key=lambda name: np.median(rates[name]))
    return Result(
        "batches",
        f"shuffled, {SIZE} px, batch {BATCH}, {torch.get_num_threads()} torch threads; Streamed's window {WINDOW:,}",
        tuple(
            Comparison(f"{name} batches", peer, rates[name], rates[peer])
            for peer in (folder_peer, "numpy memmap")
            for name in ("Resident", "Streamed")
        ),
    )


def ours(batches: Batches, seed: int) -> int:
    return sum(len(batch.labels) for batch in batches.epoch(BATCH, seed))


def random_rows(
    pixels: NDArray[np.uint8], labels: NDArray[np.int64], seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    order = np.random.default_rng(seed).permutation(len(pixels))
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        yield torch.from_numpy(pixels[rows]), torch.from_numpy(labels[rows])


def loader(folder: Path, workers: int) -> "DataLoader[tuple[torch.Tensor, int]]":
    # Workers live on between epochs: starting them is not what is measured.
    images = ImageFolder(str(folder), transform=PILToTensor(), loader=open_gray)
    return DataLoader(images, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)


def open_gray(path: str) -> Image.Image:
    return Image.open(path).convert("L")


def distinct_pixels() -> NDArray[np.uint8]:
    """uint8 [2624, SIZE, SIZE]: every solar cell."""
    with ThreadPoolExecutor(2) as pool:
        read = pool.map(lambda path: read_file(str(path), Preprocessing(SIZE)).pixels, cells(2624))
        return np.stack([pixels for pixels in read if pixels is not None])


def write_shards(folder: Path, pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> list[UPath]:
    """Shards of 1,024 training images, the size of a part."""
    folder.mkdir()
    files = []
    for rows in np.split(np.arange(IMAGES), IMAGES // shards.ROW_GROUP):
        table = shards.make_table(
            pa.array([f"{row:064x}" for row in rows]),
            pa.array([CLASSES[label] for label in labels[rows]]),
            pa.array(["train"] * len(rows)),
            pa.array(np.ones(len(rows), dtype=np.float32)),
            pixels[rows % len(pixels)],
            shards.metadata(CLASSES, Preprocessing(SIZE)),
        )
        files.append(UPath(folder / f"{rows[0]:06}.parquet"))
        shards.write_table(table, str(files[-1]), keys=None)
    return files


def write_memmap(path: Path, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    np.save(path, pixels[np.arange(IMAGES) % len(pixels)])
    mapped: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return mapped


def write_pngs(folder: Path, pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> Path:
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    for row in range(PNGS):
        image = Image.fromarray(pixels[row % len(pixels)])
        image.save(folder / CLASSES[labels[row]] / f"{row:06}.png")
    return folder
