"""The defaults against the fixed ones that were there before: `python -m benchmarks defaults [PART ...]`, by itself.

A data set is trained with no setting of its own, and with `FIXED`; the split, the test images and the seeds are the
same. Seconds are those of one processor, of training alone: neighbours do not count. Finished trainings are kept.
Fashion-MNIST: Debian's dataset-fashion-mnist, in `FASHION` or where GRAYLINE_FASHION says.
"""

import gzip
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from upath import UPath

from benchmarks.look_alikes import digits, elpv
from benchmarks.nights import place
from benchmarks.rounds import Measure, Result, Track
from benchmarks.trainings import RESIDENT_BYTES, held_out, kept, percents, train
from resnet_core.device import describe, find_device
from resnet_core.evaluation.metrics import METRICS
from resnet_core.images.preprocessing import Preprocessing
from resnet_core.model.resnet import ModelConfig
from resnet_core.training.config import TrainConfig
from tasks.dataset import Dataset
from tasks.defaults.settle import settle
from tasks.survey.alone import ingest_alone, shards_alone
from tasks.training.run import job_of
from tests.drawn import Picture, characters, jig

FASHION = Path(os.environ.get("GRAYLINE_FASHION", "/usr/share/datasets/fashion-mnist"))
FIXED = {"image": Preprocessing(), "model": ModelConfig(), "train": TrainConfig()}
SEEDS = 3
PHOTOGRAPHS = ("astronaut", "camera", "chelsea", "coffee", "coins", "moon", "rocket", "text")


def textures(count: int = 300, share: float = 0.1) -> Iterator[Picture]:
    """Yield crops of surfaces, 96 px; a scratch or a blob is drawn into some of them."""
    from skimage import data, draw

    rng = np.random.default_rng(4)
    for number in range(count):
        surface = (data.gravel, data.grass, data.brick)[number % 3]()
        row, column = rng.integers(0, 512 - 96, 2)
        pixels = surface[row : row + 96, column : column + 96].astype(np.uint8).copy()
        defect = number < count * share
        if defect:
            row, column = (int(place) for place in rng.integers(16, 64, 2))
            if rng.random() < 0.5:
                rows, columns = draw.line(
                    row, column, row + int(rng.integers(8, 28)), column + int(rng.integers(8, 28))
                )
                pixels[rows, columns] = pixels[rows + 1, columns] = 240
            else:
                pixels[draw.disk((row, column), int(rng.integers(4, 8)), shape=pixels.shape)] = 30
        yield "defect" if defect else "ok", "", pixels


def photographs(each: int = 60) -> Iterator[Picture]:
    """Yield crops of photographs, 60 to 300 px, darker or lighter, noisy; the class is the photograph."""
    from skimage import color, data, util

    rng = np.random.default_rng(5)
    for name in PHOTOGRAPHS:
        whole = getattr(data, name)()
        gray = util.img_as_ubyte(color.rgb2gray(whole)) if whole.ndim == 3 else whole
        for _ in range(each):
            side = int(rng.integers(60, min(300, *gray.shape)))
            row, column = rng.integers(0, gray.shape[0] - side + 1), rng.integers(0, gray.shape[1] - side + 1)
            pixels = gray[row : row + side, column : column + side] * rng.uniform(0.6, 1.2)
            yield name, "", np.clip(pixels + rng.normal(0, 12, pixels.shape), 0, 255).astype(np.uint8)


def letters() -> Iterator[Picture]:
    """Yield letters whose classes do not say that they are letters: p, q, b and d mirror into each other."""
    for label, _, pixels in characters():
        yield f"form-{ord(label) - 96:02}", "", pixels


def rare_digits() -> Iterator[Picture]:
    """Yield digits; three classes have 20 images each."""
    seen: dict[str, int] = {}
    for label, group, pixels in digits():
        seen[label] = seen.get(label, 0) + 1
        if label not in "258" or seen[label] <= 20:
            yield label, group, pixels


def fashion(count: int = 1000) -> Iterator[Picture]:
    """Yield the first training images of Fashion-MNIST."""

    def read(name: str, offset: int) -> Any:
        return np.frombuffer(gzip.decompress((FASHION / name).read_bytes()), np.uint8, offset=offset)

    images = read("train-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)[:count]
    for image, label in zip(images, read("train-labels-idx1-ubyte.gz", 8)[:count], strict=True):
        yield f"kind-{label}", "", image


# By time. `fashion` is read as it is; the fixed defaults are not run on it, their rate says how long they would take.
PARTS: dict[str, Callable[[], Iterator[Picture]] | None] = {
    "jig": jig, "textures": textures, "rare_digits": rare_digits, "digits": digits, "letters": letters,
    "photographs": photographs, "fashion_1000": fashion, "elpv": elpv, "fashion": None,
}  # fmt: skip


@dataclass(frozen=True)
class Way:
    """A data set with one of the two kinds of defaults."""

    name: str
    dataset: Dataset


def run(folder: Path, track: Track, parts: tuple[str, ...] = ()) -> Result:
    names = parts or tuple(PARTS)
    show, before = percents(track, sum(2 * SEEDS for _ in names)), 0
    measures: list[Measure] = []
    settings: list[str] = []
    for name in names:
        source = _write(name, folder / name)
        ways = [Way("auto", Dataset(name=name, source=source))]
        if PARTS[name]:
            ways.append(Way("fixed", Dataset(name=name, source=source, **FIXED)))
        for way in ways:
            found = [
                _one_seed(way, seed, folder / "stores", lambda share, at=before: show(at, share))
                for seed in range(SEEDS)
            ]
            before += SEEDS
            for metric in ("macro_f1", "rarest_recall", "accuracy", "seconds"):
                values = tuple(each[metric] for each in found)
                measures.append(Measure(f"{name}, {way.name}, {metric}", values, "s" if metric == "seconds" else ""))
            settings += [f"{name}: {found[0]['chosen']}"] if found[0]["chosen"] else []
    setting = "\n".join([f"{SEEDS} seeds each, on {describe(find_device())}", *settings])
    return Result("defaults", setting, measures=tuple(measures))


def _write(name: str, folder: Path) -> str:
    draw = PARTS[name]
    if draw is None:
        return str(FASHION)
    for number, (label, _, pixels) in enumerate(draw()):
        path = folder / label / f"{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return str(folder)


def _one_seed(way: Way, seed: int, stores: Path, show: Callable[[float], None]) -> dict[str, Any]:
    """Return the metrics, the seconds, and what was chosen."""
    dataset, here = way.dataset, place(UPath(stores / way.name), RESIDENT_BYTES)
    made = shards_alone(ingest_alone(dataset, here), dataset, here)
    settled = settle(made, dataset, here)
    job = job_of(made, settled.model_copy(update={"train": replace(settled.train, seed=seed)}), here)

    def work(checkpoint: UPath) -> dict[str, Any]:
        began = time.process_time()
        classifier, epochs = train(job, checkpoint, show)
        spent, test = time.process_time() - began, held_out(made)
        answers = classifier.probabilities(test.pixels)
        counts = np.bincount(test.labels, minlength=len(made.classes))
        rarest = int(np.where(counts, counts, counts.max() + 1).argmin())
        right = answers.argmax(1)[test.labels == rarest] == rarest
        found = {metric: METRICS[metric](test.labels, answers) for metric in ("macro_f1", "accuracy")}
        return {
            **found, "rarest_recall": float(right.mean()), "seconds": spent, "chosen": settled.chosen,
            "size": made.preprocessing.size, "images": made.train, "epochs": [asdict(epoch) for epoch in epochs],
        }  # fmt: skip

    show(0)
    found = kept(f"defaults-{way.dataset.name}-{way.name}-{seed}", work, made.digest, job.model, job.config)
    show(1)
    return found
