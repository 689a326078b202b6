"""A whole batch, from files to rows on the disk, against timm's inference script and against the limit.

JPEG files of 1024x768 to 64 px, ResNet-18, two cores. Ours is `classify-batch` from its first to its last line.
It lists, reads, hashes, decodes, scores, writes, checks and writes the manifest. Prefect and MLflow are left out
(`.fn`; `fixed` has them), and so is the choice of the engine. The peers have the same weights and start before the
clock runs.

- timm's inference script: its loader with two workers, its batches, no hash, a CSV file. Ours runs with
  `decode: exact` and `decode: fast`, a setting for ingest, training and scoring alike.
- The limit: a bare loop that decodes, and the engine on arrays in memory, with all cores to itself. On shared cores
  the limit is the sum of the two times per image. With a device of its own, it is the slower of the two. The table
  has both.
- Shards: the same batch out of shards, against the engine on arrays in memory.
"""

import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from numpy.typing import NDArray
from upath import UPath

from benchmarks.images import QUALITY, scenes
from benchmarks.ingest import bare_loops
from benchmarks.peers import timm_inference
from benchmarks.rounds import Comparison, Difference, Result, Track, Turn, interleave
from benchmarks.score import CLASSES, MODEL, lively_network
from resnet_core.images.limits import DEFAULT_LIMITS
from resnet_core.images.preprocessing import Decode, Preprocessing
from resnet_core.inference import engines
from resnet_core.inference.engines import Engine
from resnet_core.model.classifier import Classifier
from resnet_core.model.inputs import Normalisation, to_input
from resnet_core.reading.pool import read_file
from resnet_core.shards import format as shards
from tasks.batch import finish as finish_batch
from tasks.batch import plan as plan_batch
from tasks.batch import score
from tasks.batch.values import EngineChoice
from tasks.values import ModelVersion

SIZE = 64  # pixels
FILES = 2000
QUALITIES = (75, QUALITY)  # Pillow's own, and a camera's
TIMES = 4  # so many images in the shards: a batch that takes a tenth of the time an image has to have more of them
WORKERS = 2
DECODES: tuple[Decode, ...] = ("exact", "fast")
ROUNDS = 3
VERSION = ModelVersion("bench", "1", "")
CHOICE = EngineChoice("torch", 64, WORKERS, 0.0)  # what the stages pass on; `scoring` has the engine


def run(folder: Path, track: Track) -> Result:
    sources = {quality: write_images(folder / f"quality{quality}", quality) for quality in QUALITIES}
    files = sorted(sources[QUALITY].iterdir())
    pixels = np.tile(read_all(files), (TIMES, 1, 1))
    classifier = make_classifier(pixels)
    write_shards(pixels, folder / "shards")
    fresh, engine = count(), fastest(classifier)
    weights, normalisation = classifier.network.state_dict(), classifier.normalisation
    given = timm_inference.Given(weights, len(CLASSES), SIZE, normalisation.mean, normalisation.std)
    peer = timm_inference.build(given)
    rows: dict[str, pd.DataFrame] = {}

    def ours(place: Path, decode: Decode = "exact") -> float:
        output = folder / f"out{next(fresh)}"
        decoding = replace(classifier, preprocessing=replace(classifier.preprocessing, decode=decode))
        with scoring(decoding, engine):
            began = time.perf_counter()
            found = batch(place, output, decoding)
            seconds = time.perf_counter() - began
        rows[f"{decode} {place.name}"] = pd.read_parquet(output)
        return found / seconds

    def timm_batch(place: Path) -> float:
        began = time.perf_counter()
        found = timm_inference.infer(place, peer, given, folder / "timm.csv")
        seconds = time.perf_counter() - began
        rows[f"timm {place.name}"] = found
        return len(found) / seconds

    with bare_loops(files) as bare:
        turns: dict[str, Turn] = {"decode": bare, "model": lambda: model_rate(engine, pixels)}
        turns["shards"] = partial(ours, folder / "shards")
        for place in sources.values():
            turns |= {f"{decode} {place.name}": partial(ours, place, decode) for decode in DECODES}
            turns[f"timm {place.name}"] = partial(timm_batch, place)
        rates = interleave(ROUNDS, turns, track)
    together = tuple(1 / (1 / d + 1 / m) for d, m in zip(rates["decode"], rates["model"], strict=True))
    slower = tuple(map(min, rates["decode"], rates["model"]))
    mine, what = rates[f"exact {sources[QUALITY].name}"], f"a batch from files, quality {QUALITY}"
    against_timm = [
        Comparison(
            f"a batch from files, quality {quality}, decode: {decode}",
            "timm's inference script",
            rates[f"{decode} {place.name}"],
            rates[f"timm {place.name}"],
            apart(rows[f"{decode} {place.name}"], rows[f"timm {place.name}"]),
        )
        for quality, place in sources.items()
        for decode in DECODES
    ]
    return Result(
        "batch",
        f"{FILES:,} JPEG files of 1024x768 to {SIZE} px, {TIMES * FILES:,} images in shards, {MODEL.arch}, "
        f"{WORKERS} cores, {engine.name}, no Prefect",
        (
            *against_timm,
            Comparison(what, "bare decode and bare model, on the same cores", mine, together),
            Comparison(what, "the slower of the two alone on all cores", mine, slower),
            Comparison("a batch from shards", "bare model on arrays in memory", rates["shards"], rates["model"]),
        ),
    )


def batch(source: Path, output: Path, classifier: Classifier) -> int:
    """`classify-batch` without Prefect. Returns the number of rows."""
    work = plan_batch.plan_batch.fn(str(source), UPath(output), VERSION, classifier.preprocessing)
    how = score.Scoring(VERSION, CHOICE, "", "cpu", DEFAULT_LIMITS, work.run, work.known)
    with ThreadPoolExecutor(WORKERS) as pool:
        for _ in pool.map(lambda part: score.score_part.fn(part, how), work.waiting):
            pass
    return finish_batch.finish_batch.fn(work, 1.0).files


@contextmanager
def scoring(classifier: Classifier, engine: Engine) -> Iterator[None]:
    """The stages have this classifier in place of a registered version."""
    with (
        patch.object(score, "load_classifier", lambda *place: classifier),
        patch.object(score, "open_engine", lambda *place: engine),
        patch.object(finish_batch, "publish_page", lambda *page, **more: None),
    ):
        yield


def fastest(classifier: Classifier) -> Engine:
    """OpenVINO where it is installed."""
    if not engines.can_run("openvino", classifier.device):
        return engines.open_torch(classifier, engines.usual_batch(classifier))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        engines.write_file(classifier, "bench", "1", path)
        usual = engines.usual_batch(classifier)
        return engines.open_file("openvino", path, len(CLASSES), WORKERS, usual, classifier.novelty)


def model_rate(engine: Engine, pixels: NDArray[np.uint8]) -> float:
    """Images/s of the engine alone, on all cores."""
    began = time.perf_counter()
    with ThreadPoolExecutor(WORKERS) as pool:
        found = list(pool.map(engine.run, np.array_split(pixels, 2 * WORKERS)))
    return sum(map(len, found)) / (time.perf_counter() - began)


def make_classifier(pixels: NDArray[np.uint8]) -> Classifier:
    normalisation = Normalisation(float(pixels.mean()) / 255, float(pixels.std()) / 255)
    network = lively_network(to_input(torch.from_numpy(pixels[:128]), normalisation))
    return Classifier(network.eval(), MODEL, CLASSES, Preprocessing(SIZE), normalisation)


def write_images(source: Path, quality: int) -> Path:
    source.mkdir()
    for number, data in enumerate(scenes(FILES, quality=quality)):
        (source / f"{number:05}.jpg").write_bytes(data)
    return source


def read_all(paths: list[Path]) -> NDArray[np.uint8]:
    found = [read_file(str(path), Preprocessing(SIZE)).pixels for path in paths]
    return np.stack([image for image in found if image is not None])


def write_shards(pixels: NDArray[np.uint8], folder: Path) -> None:
    folder.mkdir()
    ids = [hashlib.sha256(image.tobytes() + bytes([k // FILES])).hexdigest() for k, image in enumerate(pixels)]
    constant = (pa.array([value] * len(pixels)) for value in ("functional", "test", 1.0))
    table = shards.make_table(pa.array(ids), *constant, pixels, shards.metadata(CLASSES, Preprocessing(SIZE)))
    shards.write_table(table, folder / "0.parquet", None)


def apart(mine: pd.DataFrame, theirs: pd.DataFrame) -> Difference:
    """Compare the largest probabilities: Pillow's filter and decoder are not quite ours."""
    ours = mine.set_index("uri")["confidence"].loc[theirs["filename"]].to_numpy()
    gap = np.abs(ours - theirs["prob_0"].to_numpy())
    return Difference(float(gap.mean()), float(gap.max()), "probability")
