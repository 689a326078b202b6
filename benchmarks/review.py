"""The loop of labelling by simulation: `python -m benchmarks review`, by itself.

A network learns from FIRST labelled images of Fashion-MNIST, and scores POOL others. A round labels BUDGET more and
trains anew. They are chosen as `grayline review` does, with its random share, or all at random. Both ways begin with
the same network, once per seed. Accuracy is that on TEST test images. Finished trainings are kept.

Fashion-MNIST: Debian's dataset-fashion-mnist, in `FASHION` or where GRAYLINE_FASHION says.
"""

import gzip
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t
from upath import UPath

from benchmarks.defaults import FASHION
from benchmarks.nights import place
from benchmarks.novelty import as_given, see, shard_set
from benchmarks.rounds import Measure, Result, Track
from benchmarks.trainings import RESIDENT_BYTES, kept, percents, train
from resnet_core.device import describe, find_device
from resnet_core.evaluation.novelty import find_novelty, measure_novelty
from resnet_core.explain import queue
from resnet_core.explain.queue import Pool, choose, novel
from resnet_core.model.classifier import Classifier
from resnet_core.storage.digest import digest_of, source_digest
from tasks.dataset import Dataset
from tasks.training.run import job_of
from tasks.validation import validate

FIRST, ROUNDS, BUDGET, RANDOM, POOL, TEST, SEEDS = 200, 5, 100, 0.2, 10_000, 5_000, 5
HELD_OUT = 500  # images beyond the pool by which the unknown ones are told
WAYS = ("random", "review")
CANDIDATES = 2000  # as `tasks.review.queue` takes for this budget
LEVEL = 0.05
MODEL = {"arch": "resnet10", "width": 16}
RECIPE = {"epochs": 15, "batch_size": 16, "augment": {"flips": "horizontal"}}
Pixels = NDArray[np.uint8]


def images(name: str, count: int | None = None) -> tuple[Pixels, NDArray[np.int64]]:
    def read(kind: str, offset: int) -> Any:
        return np.frombuffer(
            gzip.decompress((FASHION / f"{name}-{kind}-ubyte.gz").read_bytes()), np.uint8, offset=offset
        )

    pixels = read("images-idx3", 16).reshape(-1, 28, 28)[:count]
    return pixels, read("labels-idx1", 8)[:count].astype(np.int64)


def run(folder: Path, track: Track) -> Result:
    show, number = percents(track, SEEDS * (1 + len(WAYS) * ROUNDS)), 0
    accuracies: dict[tuple[str, int], list[float]] = {}
    for seed in range(SEEDS):
        for way, count, share in loop(seed, folder):
            accuracies.setdefault((way, count), []).append(share)
            show(number, 1.0)
            number += 1
    measures = [
        Measure(f"{way}, {count} labels: accuracy", tuple(values)) for (way, count), values in accuracies.items()
    ]
    for turn in range(1, ROUNDS + 1):
        count = FIRST + BUDGET * turn
        gains = np.subtract(accuracies["review", count], accuracies["random", count])
        half = float(t.ppf(0.975, SEEDS - 1) * gains.std(ddof=1) / np.sqrt(SEEDS))
        mean = float(gains.mean())
        what = f"review less random, {count} labels: {mean:+.4f} ({mean - half:+.4f} to {mean + half:+.4f})"
        measures.append(Measure(what, tuple(gains.tolist())))
    setting = f"{FIRST} labels of {POOL:,}, {ROUNDS} rounds of {BUDGET}, {RECIPE['epochs']} epochs; {SEEDS} seeds"
    return Result("review", f"{setting}; on {describe(find_device())}", measures=tuple(measures))


def loop(seed: int, folder: Path) -> Iterator[tuple[str, int, float]]:
    """Yield the way, the number of labels, and the accuracy, after each training."""
    first = np.random.default_rng(seed).permutation(POOL)[:FIRST].tolist()
    begun = one(WAYS, seed, first, folder)
    yield "both", FIRST, begun["accuracy"]
    for way in WAYS:
        labelled = [*first, *begun["next"][way]]
        for _ in range(ROUNDS):
            found = one((way,), seed, labelled, folder)
            yield way, len(labelled), found["accuracy"]
            labelled = [*labelled, *found["next"][way]]


def one(ways: tuple[str, ...], seed: int, labelled: list[int], folder: Path) -> dict[str, Any]:
    """Train on the labelled images; return the accuracy, and the images to label next, by way."""
    pixels, labels = images("train", POOL)
    rows = np.array(labelled)

    def work(checkpoint: UPath) -> dict[str, Any]:
        made = shard_set(folder / f"{'-'.join(ways)}-{seed}-{len(rows)}", pixels[rows], labels[rows])
        content = {"name": "review", "source": ".", "image": {"size": 28}, "model": MODEL,
                   "train": {**RECIPE, "seed": seed}}  # fmt: skip
        job = job_of(made, validate(content, Dataset), place(made.folder, RESIDENT_BYTES))
        classifier, _ = train(job, checkpoint, lambda share: None)
        rng, rest = np.random.default_rng([seed, len(rows)]), np.setdiff1d(np.arange(POOL), rows)
        chosen = {"random": rng.permutation(rest)[:BUDGET].tolist()}
        if "review" in ways:
            chosen["review"] = by_review(classifier, pixels, labels, rows, rest, rng).tolist()
        return {"accuracy": accuracy(classifier), "next": chosen}

    data = hashlib.sha256(pixels.tobytes()).hexdigest()
    code = source_digest(queue, sys.modules[__name__])
    return kept(f"review-{'-'.join(ways)}-{seed}-{len(rows)}", work, digest_of(data, labelled), code)


def accuracy(classifier: Classifier) -> float:
    pixels, labels = images("t10k", TEST)
    return float((see(classifier, pixels).logits.argmax(1) == labels).mean())


def by_review(
    classifier: Classifier,
    pixels: Pixels,
    labels: NDArray[np.int64],
    rows: NDArray[np.int64],
    rest: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Return what `grayline review` would ask about: some at random, then `choose` among the candidates."""
    drawn = rng.permutation(len(rest))[: round(BUDGET * RANDOM)]
    seen, learned = see(classifier, pixels[rest]), see(classifier, pixels[rows])
    held_out = see(classifier, images("train", POOL + HELD_OUT)[0][POOL:])
    measure = find_novelty(as_given(learned), labels[rows], learned.pool.shape[1], LEVEL)
    assert measure is not None
    distances, known = (measure.distances(torch.from_numpy(as_given(each))).numpy() for each in (seen, held_out))
    measure, _ = measure_novelty(measure, known, None, None)
    p_values = measure.p_values(distances)
    unknown = measure.is_unknown(p_values)
    exponents = np.exp(seen.logits - seen.logits.max(1, keepdims=True))
    probabilities = (exponents / exponents.sum(1, keepdims=True)).astype(np.float32)
    two = np.sort(probabilities, 1)[:, -2:]
    order = np.argsort(two[:, 1] - two[:, 0], kind="stable")
    candidates = np.union1d(np.union1d(drawn, np.flatnonzero(unknown)), order[~unknown[order]][:CANDIDATES])
    pool = Pool(
        probabilities[candidates], seen.pool[candidates].astype(np.float32),
        unknown[candidates] & ~np.isin(candidates, drawn), distances[candidates], np.isin(candidates, drawn),
    )  # fmt: skip
    chosen = choose(pool, BUDGET - len(drawn), int(rng.integers(2**31)), novel(p_values[unknown], len(rest)))
    return rest[np.concatenate([drawn, candidates[[row for row, _ in chosen]]])]
