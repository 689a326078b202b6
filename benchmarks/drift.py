"""Drift measures under a changed camera, and the loss of accuracy: `python -m benchmarks drift [PART ...]`.

The training uses a sample data set (ELPV at 64 px and for 12 epochs, which takes a minute). Half of the held-out
images is the reference. The other half is the batch, once unchanged and once for each change. A threshold should lie
where accuracy begins to suffer; the default of `drift:` is 0.2. The table of docs/drift.md is this one.
The column of the unit names the measures that drifted.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from upath import UPath

from benchmarks.nights import place, preprocess, write_sample
from benchmarks.rounds import Measure, Result, Track
from benchmarks.trainings import RESIDENT_BYTES, held_out
from resnet_core.device import find_device
from resnet_core.drift.drift import Drift, Thresholds, measure_drift
from resnet_core.drift.reference import MOST
from resnet_core.drift.summary import Summary, summarise
from resnet_core.evaluation.calibrate import Outputs
from resnet_core.images.statistics import measure
from resnet_core.model.classifier import Classifier
from resnet_core.model.features import embed
from resnet_core.training.job import run as train
from tasks.evaluation.reference import of_judged
from tasks.training.run import job_of

PARTS: dict[str, dict[str, Any]] = {"elpv": {"size": 64, "epochs": 12}, "digits": {}}
SEED = 0
Pixels = NDArray[np.uint8]


def levels(change: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Callable[[Pixels], Pixels]:
    """The change, image by image, in whole gray levels that there are."""
    return lambda pixels: np.stack([np.clip(change(image.astype(float)), 0, 255).astype(np.uint8) for image in pixels])


def noise(sigma: float) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    rng = np.random.default_rng(SEED)
    return lambda image: image + rng.normal(0, sigma, image.shape)


CHANGES: dict[str, Callable[[Pixels], Pixels]] = {
    "as they are": lambda pixels: pixels,
    "10 gray levels brighter": levels(lambda image: image + 10),
    "gray levels x 0.9": levels(lambda image: image * 0.9),
    "gray levels x 0.7": levels(lambda image: image * 0.7),
    "blurred, sigma 0.5 px": levels(partial(gaussian_filter, sigma=0.5)),
    "blurred, sigma 1 px": levels(partial(gaussian_filter, sigma=1)),
    "noise, sigma 10": levels(noise(10)),
    "noise, sigma 25": levels(noise(25)),
    "a quarter turn": lambda pixels: np.ascontiguousarray(np.rot90(pixels, axes=(1, 2))),
    "negatives": lambda pixels: 255 - pixels,
}


def run(folder: Path, track: Track, parts: tuple[str, ...] = ()) -> Result:
    names = parts or tuple(PARTS)
    ticks = iter(track(range(len(names))))
    measures: list[Measure] = []
    for name in names:
        next(ticks, None)
        measures += part(name, folder)
    next(ticks, None)
    return Result("drift", "; ".join(names), measures=tuple(measures))


def part(name: str, folder: Path) -> list[Measure]:
    dataset, wanted = write_sample(name, folder / name), PARTS[name]
    image = replace(dataset.image, size=wanted.get("size", dataset.image.size))
    dataset = dataset.model_copy(update={"image": image})
    made = preprocess(dataset, UPath(folder / f"{name}-store"))
    job = job_of(made, dataset, place(made.folder, RESIDENT_BYTES))
    job = replace(job, config=replace(job.config, epochs=wanted.get("epochs", job.config.epochs)))
    classifier, _ = train(job, find_device())
    test = held_out(made)
    order = np.random.default_rng(SEED).permutation(len(test.labels))
    before, now = order[: len(order) // 2], order[len(order) // 2 :]
    reference, known = summary_of(classifier, test.pixels[before]), embed(classifier, test.pixels[before])[:MOST]
    found = []
    for change, changed in CHANGES.items():
        pixels = changed(test.pixels[now])
        accuracy = float((classifier.probabilities(pixels).argmax(1) == test.labels[now]).mean())
        drifts = measure_drift(
            reference, summary_of(classifier, pixels), Thresholds(), (known, embed(classifier, pixels))
        )
        found.append(Measure(f"{name}, {change}: accuracy", (accuracy,), beside(drifts)))
        found.append(Measure(f"{name}, {change}: MMD of embeddings", (by_name(drifts, "embedding").distance,)))
    return found


def summary_of(classifier: Classifier, pixels: Pixels) -> Summary:
    """Return the summary that scoring would keep of a batch, without reviews: this version has no sets."""
    shares = classifier.probabilities(pixels)
    brightness, contrast, sharpness = measure(pixels)
    looks = pa.table({"brightness": brightness, "contrast": contrast, "sharpness": sharpness})
    return of_judged(Outputs(shares, shares.argmax(1), None), classifier.classes) + summarise(looks)


def by_name(drifts: tuple[Drift, ...], name: str) -> Drift:
    return next(each for each in drifts if each.measure == name)


def beside(drifts: tuple[Drift, ...]) -> str:
    """The measures that call it drift."""
    return " ".join(each.measure for each in drifts if each.drifted)
