"""Heat maps: how much of the heat lies on a planted scratch, `python -m benchmarks heatmaps`.

Crops of three surfaces (gravel, grass, brick), a thin scratch drawn into half of them. A small network learns to tell
them, once per seed; it is asked about crops of another part of each surface. Scratches that it finds have heat maps of
`defect` by both ways, at several stages. Its figures are the share of the heat in the scratch's box, and whether the
hottest pixel lies there. The box has a margin of MARGIN pixels. Even heat would have the box's share of the area.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from benchmarks.nights import place
from benchmarks.novelty import shard_set
from benchmarks.rounds import Measure, Result, Track
from benchmarks.trainings import RESIDENT_BYTES, kept, percents, train
from resnet_core.device import describe, find_device
from resnet_core.explain.heat import WAY, Way, finest, heat_of
from resnet_core.model.classifier import Classifier
from tasks.dataset import Dataset
from tasks.training.run import job_of
from tasks.validation import validate

SEEDS = 3
SIDES = (96, 160)  # pixels
TRAIN, TEST = 900, 300
MARGIN = 3
RECIPE = {"epochs": 15, "batch_size": 32}
MODEL = {"arch": "resnet10", "width": 32}
DEFECT = 1
Box = tuple[int, int, int, int]  # top, left, bottom, right; the last two are outside


class Drawn(NamedTuple):
    pixels: NDArray[np.uint8]  # [N, S, S]
    labels: NDArray[np.int64]  # [N]
    boxes: list[Box | None]


def draw(count: int, side: int, seed: int, left: bool) -> Drawn:
    """Draw crops of the left three fifths of the surfaces, or of the rest."""
    rng = np.random.default_rng(seed)
    made = list(_crops(count, side, rng, left))
    pixels, boxes = zip(*made, strict=True)
    return Drawn(np.stack(pixels), np.array([box is not None for box in boxes], np.int64), list(boxes))


def _crops(
    count: int, side: int, rng: np.random.Generator, left: bool
) -> Iterator[tuple[NDArray[np.uint8], Box | None]]:
    from skimage import data, draw

    surfaces = [data.gravel(), data.grass(), data.brick()]
    for number in range(count):
        surface = surfaces[number % 3]
        edge = surface.shape[1] * 3 // 5
        columns = (0, edge - side) if left else (edge, surface.shape[1] - side)
        row, column = int(rng.integers(0, surface.shape[0] - side)), int(rng.integers(*columns))
        pixels = surface[row : row + side, column : column + side].astype(np.uint8).copy()
        box = None
        if number % 2:
            top, start = (int(v) for v in rng.integers(side // 12, side * 3 // 4, 2))
            down, across = (int(v) for v in rng.integers(side // 12, side // 4, 2))
            rows, places = draw.line(top, start, min(top + down, side - 2), min(start + across, side - 2))
            places = (start + places[::-1] - places[0]) if rng.random() < 0.5 else places
            pixels[rows, places] = pixels[rows + 1, places] = 235
            box = int(rows.min()), int(places.min()), int(rows.max()) + 2, int(places.max()) + 1
        yield pixels, box


def run(folder: Path, track: Track) -> Result:
    tasks = [(side, seed) for side in SIDES for seed in range(SEEDS)]
    show = percents(track, len(tasks))
    found: dict[tuple[int, str], list[float]] = {}
    for number, (side, seed) in enumerate(tasks):
        for what, value in one(folder, side, seed, lambda share, number=number: show(number, share)).items():
            found.setdefault((side, what), []).append(value)
        show(number, 1.0)
    lines = tuple(Measure(f"{side} px, {what}", tuple(values)) for (side, what), values in found.items())
    return Result("heatmaps", f"{SEEDS} seeds; {MODEL}, {RECIPE}; on {describe(find_device())}", measures=lines)


def one(folder: Path, side: int, seed: int, show: Callable[[float], None]) -> dict[str, float]:
    def work(checkpoint: UPath) -> dict[str, Any]:
        learned, test = draw(TRAIN, side, seed, left=True), draw(TEST, side, 100 + seed, left=False)
        made = shard_set(folder / f"heatmaps-{side}-{seed}", learned.pixels, learned.labels)
        content = {"name": "heatmaps", "source": ".", "image": {"size": side}, "model": MODEL,
                   "train": {**RECIPE, "seed": seed}}  # fmt: skip
        job = job_of(made, validate(content, Dataset), place(made.folder, RESIDENT_BYTES))
        return measured(train(job, checkpoint, show)[0], test)

    return kept(f"heatmaps-{side}-{seed}", work, side, seed, Path(__file__).read_text(encoding="utf-8"))


def measured(classifier: Classifier, test: Drawn) -> dict[str, float]:
    answers = classifier.probabilities(test.pixels).argmax(1)
    hits = np.flatnonzero((answers == DEFECT) & (test.labels == DEFECT))
    pixels, wanted = test.pixels[hits], np.full(len(hits), DEFECT)
    inside = np.stack([mask(test.boxes[k], pixels.shape[1]) for k in hits])
    found = {"accuracy": float((answers == test.labels).mean()), "scratches": float(len(hits)),
             "share of the area": float(inside.mean())}  # fmt: skip
    own = finest(classifier.network, pixels.shape[1])
    for layer in ("layer2", "layer3", "layer4"):
        for way in get_args(Way):
            heat = heat_of(classifier, pixels, wanted, way, layer).heat
            name = f"{way} of {layer}{' (used)' if (way, layer) == (WAY, own) else ''}"
            found[f"{name}: share of the heat"] = share(heat, inside)
            hottest = heat.reshape(len(heat), -1).argmax(1)
            found[f"{name}: hottest pixel"] = float(inside.reshape(len(heat), -1)[np.arange(len(heat)), hottest].mean())
    return found


def mask(box: Box | None, side: int) -> NDArray[np.bool_]:
    assert box is not None
    made = np.zeros((side, side), bool)
    top, left, bottom, right = box
    made[max(0, top - MARGIN) : bottom + MARGIN, max(0, left - MARGIN) : right + MARGIN] = True
    return made


def share(heat: NDArray[np.float32], inside: NDArray[np.bool_]) -> float:
    """Return the mean over the images of the share of the heat [N, S, S] inside. A map of zeros has none."""
    total = heat.sum((1, 2))
    return float((np.where(inside, heat, 0).sum((1, 2)) / np.where(total > 0, total, 1)).mean())
