"""Ways to tell unknown images, near and far: `python -m benchmarks novelty [PART ...]`, by itself.

Every part trains a small network on known classes, once per seed, and asks which images it has never learned. Held-out
images of the known classes are halved: one half finds the threshold for LEVEL by split conformal, the other is counted.

part      known                                      unknown
digits    digits, 8 px                               solar cells, clothes, drawn textures: far
clothes   8 classes of Fashion-MNIST, 28 px          its 2 other classes, each pair of 5 in turn: near
elpv      solar cells, 48 px                         drawn textures, photographs of clothes: far

The part `speed` scores batches out of shards with novelty and without, in turn: reading files would hide a difference.

The ways are those of OpenOOD v1.5 (Zhang et al. 2023, arXiv:2306.09301) that need one pass and little memory. `ours`
is `resnet_core.model.novelty`. Fashion-MNIST is Debian's dataset-fashion-mnist (`apt-get download`, `dpkg -x`), in
/usr/share/datasets or the folder that GRAYLINE_FASHION names.
"""

import gzip
import hashlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.special import log_softmax, logsumexp
from sklearn.metrics import roc_auc_score
from upath import UPath

from benchmarks.batch import batch, fastest, make_classifier, scoring, write_shards
from benchmarks.defaults import FASHION
from benchmarks.nights import place
from benchmarks.rounds import Comparison, Measure, Result, Track, interleave
from benchmarks.trainings import RESIDENT_BYTES, kept, percents, train
from resnet_core.device import describe, find_device
from resnet_core.errors import UserError
from resnet_core.evaluation.novelty import find_novelty
from resnet_core.images.preprocessing import Preprocessing, resize
from resnet_core.inference.engines import Engine, open_torch, usual_batch
from resnet_core.model.classifier import Classifier
from resnet_core.model.features import features
from resnet_core.model.inputs import to_input
from resnet_core.shards import format as shards
from resnet_core.storage.digest import digest_of
from tasks.dataset import Dataset
from tasks.training.run import job_of
from tasks.validation import validate
from tasks.values import ShardSet

LEVEL = 0.05
SEEDS = 3
NEIGHBOURS = 5
NEAR = "2 other classes"
Pixels = NDArray[np.uint8]
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """A network and how it is trained; `train` and `held_out` images of the known classes."""

    size: int
    train: int
    held_out: int
    model: dict[str, Any]
    recipe: dict[str, Any]


PARTS = {
    "digits": Part(
        8, 1200, 597, {"arch": "resnet10", "width": 32},
        {"epochs": 15, "batch_size": 64, "augment": {"flips": "none", "shift": 0.125}},
    ),
    "clothes": Part(
        28, 3000, 4000, {"arch": "resnet10", "width": 16},
        {"epochs": 5, "batch_size": 64, "augment": {"flips": "horizontal"}},
    ),
    "elpv": Part(
        48, 1600, 1000, {"arch": "resnet10", "width": 16}, {"epochs": 10, "augment": {"flips": "dihedral"}}
    ),
}  # fmt: skip
ROUNDS, IMAGES = 7, 3000  # of `speed`
PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))


class Seen(NamedTuple):
    """The outputs of a network for N images: last features, logits, and the means of all stages side by side."""

    pool: Matrix  # [N, D]
    logits: Matrix  # [N, C]
    early: Matrix  # [N, E], the means of the first two stages
    stages: Matrix  # [N, D'], of all stages


def clothes() -> tuple[Pixels, NDArray[np.int64]]:
    """Return the 10,000 test images of Fashion-MNIST. Raises UserError if they are not here."""
    if not (FASHION / "t10k-images-idx3-ubyte.gz").exists():
        raise UserError(
            f"Fashion-MNIST is not in {FASHION}. Unpack Debian's dataset-fashion-mnist, and set GRAYLINE_FASHION to "
            "its folder."
        )
    images = np.frombuffer(gzip.decompress((FASHION / "t10k-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((FASHION / "t10k-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    return images.reshape(-1, 28, 28), labels.astype(np.int64)


def digits() -> tuple[Pixels, NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return (found.images * (255 / 16)).round().astype(np.uint8), found.target.astype(np.int64)


def cells() -> tuple[list[Pixels], NDArray[np.int64]]:
    folder = Path(str(files("elpv_dataset"))) / "data"
    lines = [line.split() for line in (folder / "labels.csv").read_text(encoding="utf-8").splitlines() if line.strip()]
    images = [np.asarray(Image.open(folder / line[0]).convert("L")) for line in lines]
    return images, np.array([float(line[1]) > 0.5 for line in lines], np.int64)


def textures(count: int, seed: int = 0, side: int = 128) -> list[Pixels]:
    """Draw gratings, checks, grain and clouds, of random scale, direction and contrast."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side].astype(float)
    drawn = []
    for number in range(count):
        period, angle = rng.uniform(4, 40), rng.uniform(0, np.pi)
        u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        cells_of = max(2, int(side / period))
        clouds = np.asarray(
            Image.fromarray(rng.normal(size=(cells_of, cells_of)).astype(np.float32)).resize((side, side))
        )
        pattern = (
            np.sin(2 * np.pi * u / period), np.sign(np.sin(np.pi * u / period) * np.sin(np.pi * v / period)),
            rng.normal(size=(side, side)), clouds,
        )[number % 4]  # fmt: skip
        image = rng.uniform(80, 170) + rng.uniform(15, 60) * pattern + rng.normal(0, 4, (side, side))
        drawn.append(np.clip(image, 0, 255).astype(np.uint8))
    return drawn


def sized(images: Any, size: int) -> Pixels:
    settings = Preprocessing(size=size, resize="squash")
    return np.stack([resize(np.ascontiguousarray(image), settings) for image in images])


def run(folder: Path, track: Track, parts: tuple[str, ...] = ()) -> Result:
    names = [name for name in parts or PARTS if name in PARTS]
    tasks = [(name, case, seed) for name in names for case in cases(name) for seed in range(SEEDS)]
    show, measures = percents(track, len(tasks)), dict[tuple[str, ...], dict[int, list[float]]]()
    for number, (name, case, seed) in enumerate(tasks):
        found = one(name, case, seed, folder, lambda share, number=number: show(number, share))
        show(number, 1.0)
        for (unknown, way, what), value in found.items():
            pair = [f"classes {case}"] if unknown == NEAR and way == "ours" else []
            for key in (unknown, *pair):
                measures.setdefault((name, key, way, what), {}).setdefault(seed, []).append(value)
    lines = [
        Measure(f"{name} against {unknown}, {way}: {what}", tuple(statistics.mean(each) for each in values.values()))
        for (name, unknown, way, what), values in measures.items()
    ]
    setting = f"level {LEVEL}, {SEEDS} seeds a case; on {describe(find_device())}"
    comparisons = speed(folder, track) if not parts or "speed" in parts else ()
    return Result("novelty", setting, comparisons, tuple(lines))


def speed(folder: Path, track: Track) -> tuple[Comparison, ...]:
    """Compare batches of cells, 64 px, by ResNet-18: from the listing to the manifest, without Prefect."""
    few = sized(cells()[0][::4], 64)
    pixels = np.tile(few, (-(-IMAGES // len(few)), 1, 1))[:IMAGES]
    plain = make_classifier(few)
    seen = plain.features(few)
    novelty = find_novelty(seen, np.arange(len(few)) % 2, plain.network.fc.in_features, LEVEL)  # type: ignore
    assert novelty is not None
    held_out = np.sort(novelty.distances(torch.from_numpy(seen)).numpy())
    knowing = replace(plain, novelty=replace(novelty, held_out=held_out))
    write_shards(pixels, folder / "shards")
    fresh = count()

    def turn(classifier: Classifier, engine: Engine) -> float:
        with scoring(classifier, engine):
            began = time.perf_counter()
            return batch(folder / "shards", folder / f"out{next(fresh)}", classifier) / (time.perf_counter() - began)

    ways = {"on": knowing, "off": plain}
    opened = {
        f"{engine.name} {way}": partial(turn, classifier, engine)
        for way, classifier in ways.items()
        for engine in {
            e.name: e for e in (open_torch(classifier, usual_batch(classifier)), fastest(classifier))
        }.values()
    }
    rates = interleave(ROUNDS, opened, track)
    return tuple(
        Comparison(
            f"a batch from shards by {name}, novelty on", "novelty off", rates[f"{name} on"], rates[f"{name} off"]
        )
        for name in dict.fromkeys(key.split()[0] for key in opened)
    )


def cases(name: str) -> tuple[tuple[int, ...], ...]:
    """Return the classes that are held out."""
    return PAIRS if name == "clothes" else ((),)


def one(
    name: str, case: tuple[int, ...], seed: int, folder: Path, show: Callable[[float], None]
) -> dict[tuple[str, str, str], float]:
    part = PARTS[name]
    pixels, labels, unknown = images_of(name, case)
    order = np.random.default_rng(seed).permutation(len(labels))
    learned, aside = order[: part.train], order[part.train : part.train + part.held_out]

    def work(checkpoint: UPath) -> dict[str, Any]:
        made = shard_set(folder / f"{name}-{case}-{seed}", pixels[learned], labels[learned])
        content = {"name": "novelty", "source": ".", "image": {"size": part.size}, "model": part.model,
                   "train": {**part.recipe, "seed": seed}}  # fmt: skip
        job = job_of(made, validate(content, Dataset), place(made.folder, RESIDENT_BYTES))
        classifier, _ = train(job, checkpoint, show)
        seen = {key: see(classifier, images) for key, images in unknown.items()}
        test = see(classifier, pixels[aside])
        accuracy = float((test.logits.argmax(1) == labels[aside]).mean())
        return {
            "accuracy": accuracy,
            "found": compared(classifier, see(classifier, pixels[learned]), labels[learned], test, seen),
        }

    decides = digest_of(part, LEVEL, *(hashlib.sha256(pixels[rows].tobytes()).hexdigest() for rows in (learned, aside)))
    outcome = kept(f"novelty-{name}-{'-'.join(map(str, case))}-{seed}", work, decides, Path(__file__).read_text())
    found = {tuple(key.split("|")): value for key, value in outcome["found"].items()}
    return {("held-out images", "the network", "accuracy"): outcome["accuracy"], **found}  # type: ignore[dict-item]


def images_of(name: str, case: tuple[int, ...]) -> tuple[Pixels, NDArray[np.int64], dict[str, Pixels]]:
    """Return the known images and their labels, and the unknown ones by name."""
    size = PARTS[name].size
    if name == "digits":
        pixels, labels = digits()
        far = {"solar cells": cells()[0][::4], "clothes": clothes()[0][:2000], "textures": textures(500)}
        return pixels, labels, {key: sized(images, size) for key, images in far.items()}
    if name == "elpv":
        images, labels = cells()
        far = {"textures": textures(500), "clothes": clothes()[0][:500]}
        return sized(images, size), labels, {key: sized(each, size) for key, each in far.items()}
    pixels, labels = clothes()
    out = np.isin(labels, case)
    known = np.unique(labels[~out], return_inverse=True)[1]
    return pixels[~out], known.astype(np.int64), {NEAR: pixels[out][:1000]}


def shard_set(folder: Path, pixels: Pixels, labels: NDArray[np.int64]) -> ShardSet:
    """Write the images as one shard, all of them for training."""
    folder.mkdir(parents=True)
    names, settings = tuple(map(str, range(labels.max() + 1))), Preprocessing(size=pixels.shape[1])
    count = len(labels)
    table = shards.make_table(
        pa.array([f"{k:064x}" for k in range(count)]), pa.array(np.array(names)[labels]), pa.array(["train"] * count),
        pa.array(np.ones(count, np.float32)), pixels, shards.metadata(names, settings),
    )  # fmt: skip
    file = UPath(folder / "0.parquet")
    with file.open("wb") as sink:
        shards.write_table(table, sink, None)
    return ShardSet(
        "novelty",
        UPath(folder),
        (file,),
        digest_of(hashlib.sha256(pixels.tobytes()).hexdigest()),
        names,
        settings,
        count,
        0,
        0,
        1,
    )


def see(classifier: Classifier, pixels: Pixels) -> Seen:
    found: list[tuple[torch.Tensor, ...]] = []
    with torch.inference_mode():
        for batch in torch.from_numpy(pixels).split(256):
            layers = features(
                classifier.network.eval(), to_input(batch.to(classifier.device), classifier.normalisation)
            )
            means = [layers[f"stage{k}"].mean((2, 3)) for k in range(1, 5)]
            outputs = (layers["pool"], layers["logits"], torch.cat(means[:2], 1), torch.cat(means, 1))
            found.append(tuple(output.cpu() for output in outputs))
    return Seen(*(torch.cat(part).double().numpy() for part in zip(*found, strict=True)))


Score = Callable[[Seen], Matrix]  # the larger, the more novel


def ways(classifier: Classifier, seen: Seen, labels: NDArray[np.int64]) -> Iterator[tuple[str, Score]]:
    """Yield the ways to tell unknown images, fitted on the training images."""
    yield "max softmax", lambda s: -np.exp(log_softmax(s.logits, 1)).max(1)
    yield "energy", lambda s: -logsumexp(s.logits, 1)
    last = classifier.network.fc  # type: ignore[union-attr]
    weight, bias = last.weight.detach().double().numpy(), last.bias.detach().double().numpy()
    yield "max logit", lambda s: -s.logits.max(1)
    yield "GEN", generalised_entropy
    yield "ASH-S", lambda s: -logsumexp(shaped(s.pool) @ weight.T + bias, 1)
    cut = np.quantile(seen.pool, 0.9)
    yield "ReAct", lambda s: -logsumexp(np.minimum(s.pool, cut) @ weight.T + bias, 1)
    yield f"{NEIGHBOURS} nearest neighbours", neighbours(seen.pool)
    yield "ViM", vim(seen, weight, bias)
    for layer, ridge in (("pool", 1e-5), ("pool", 1e-3), ("early", 1e-1), ("stages", 1e-1)):
        yield f"Mahalanobis, {layer}, ridge {ridge:g}", mahalanobis(seen, labels, layer, ridge, False)
        yield f"relative Mahalanobis, {layer}, ridge {ridge:g}", mahalanobis(seen, labels, layer, ridge, True)
    novelty = find_novelty(as_given(seen), labels, seen.pool.shape[1], LEVEL)
    assert novelty is not None
    yield "ours", lambda s: novelty.distances(torch.from_numpy(as_given(s))).double().numpy()


def as_given(seen: Seen) -> NDArray[np.float32]:
    """Return the features as `Classifier.features` has them."""
    return np.concatenate([seen.pool, seen.early], 1).astype(np.float32)


def generalised_entropy(s: Seen) -> Matrix:
    """Liu et al. 2023, GEN, with all classes and gamma 0.1."""
    shares: Matrix = np.exp(log_softmax(s.logits, 1))
    entropy: Matrix = ((shares * (1 - shares)) ** 0.1).sum(1)
    return entropy


def shaped(pool: Matrix, share: float = 0.65) -> Matrix:
    """Keep the largest features of each image, scaled (Djurisic et al. 2023, arXiv:2209.09858)."""
    kept = np.where(pool >= np.quantile(pool, share, axis=1, keepdims=True), pool, 0)
    before, after = (np.maximum(x.sum(1, keepdims=True), 1e-12) for x in (pool, kept))
    scaled: Matrix = kept * np.exp(before / after)
    return scaled


def neighbours(learned: Matrix) -> Score:
    """Distance to the k-th nearest training image on the unit sphere (Sun et al. 2022, arXiv:2204.06507)."""
    known = unit(learned)
    return lambda s: -np.sort(unit(s.pool) @ known.T, axis=1)[:, -NEIGHBOURS]


def unit(x: Matrix) -> Matrix:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def vim(seen: Seen, weight: Matrix, bias: Matrix) -> Score:
    """Norm in the residual space as a logit (Wang et al. 2022, arXiv:2203.10807)."""
    origin = -np.linalg.pinv(weight) @ bias
    centred = seen.pool - origin
    values, vectors = np.linalg.eigh(centred.T @ centred)
    residual = vectors[:, : max(1, len(values) // 2)]
    alpha = seen.logits.max(1).mean() / np.linalg.norm(centred @ residual, axis=1).mean()
    return lambda s: alpha * np.linalg.norm((s.pool - origin) @ residual, axis=1) - logsumexp(s.logits, 1)


def mahalanobis(seen: Seen, labels: NDArray[np.int64], layer: str, ridge: float, relative: bool) -> Score:
    """Lee et al. 2018, arXiv:1807.03888; relative: less the distance to all (Ren et al. 2021, arXiv:2106.09022)."""
    x: Matrix = getattr(seen, layer)
    means = np.stack([x[labels == k].mean(0) for k in range(labels.max() + 1)])
    within, every = whitening(x - means[labels], ridge), whitening(x - x.mean(0), ridge)

    def score(s: Seen) -> Matrix:
        y: Matrix = getattr(s, layer)
        squares = np.stack([(((y - mean) @ within) ** 2).sum(1) for mean in means], 1).min(1)
        return squares - (((y - x.mean(0)) @ every) ** 2).sum(1) if relative else squares

    return score


def whitening(x: Matrix, ridge: float) -> Matrix:
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    whitened: Matrix = vectors / np.sqrt(np.maximum(values, 0) + ridge * values.mean())
    return whitened


def compared(
    classifier: Classifier, learned: Seen, labels: NDArray[np.int64], test: Seen, unknown: dict[str, Seen]
) -> dict[str, float]:
    """Return AUROC and the shares called unknown, by `unknown images|way|figure`."""
    classifier = replace(classifier, network=classifier.network.cpu())
    found = {}
    for way, score in ways(classifier, learned, labels):
        known = score(test)
        half = len(known) // 2
        found[f"held-out images|{way}|flagged"] = float((p_values(known[half:], known[:half]) < LEVEL).mean())
        for name, seen in unknown.items():
            far = score(seen)
            truth = np.repeat([0, 1], [half + len(known) % 2, len(far)])
            found[f"{name}|{way}|AUROC"] = float(roc_auc_score(truth, np.concatenate([known[half:], far])))
            found[f"{name}|{way}|flagged"] = float((p_values(far, known[:half]) < LEVEL).mean())
    return found


def p_values(scores: Matrix, held_out: Matrix) -> Matrix:
    nearer = np.searchsorted(np.sort(held_out), scores, side="left")
    shares: Matrix = (1 + len(held_out) - nearer) / (1 + len(held_out))
    return shares
