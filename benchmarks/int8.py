"""int8 by three kinds of numbers, on this processor and on one with AVX2: `python -m benchmarks int8 [PART ...]`.

    u8 x s8   activations and weights of 8 bits
    u8 x s7   weights of 7 bits, as `write_int8` makes them
    s8 x s8   signed activations

A network is trained on a sample data set. Decisions on its held-out images are compared with float32's. A second
process, in gdb, finds a processor without AVX-512 and VNNI (see `avx2`).
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rounds import Measure, Result, Track

BATCH, ROUNDS = 32, 5
CALIBRATED = 512  # training images
ELPV = {"image": {"size": 64}, "model": {"score_flips": "none", "width": 32}}
PARTS: dict[str, dict[str, Any]] = {
    "digits": {},
    "digits_short": {"train": {"epochs": 3}},
    "elpv": ELPV | {"train": {"epochs": 10}},
    "elpv_again": ELPV | {"train": {"epochs": 10, "seed": 1}},
}
KINDS: dict[str, dict[str, Any]] = {
    "u8 x s8": {"reduce_range": False},
    "u8 x s7": {},
    "s8 x s8": {"reduce_range": False},
}
AVX2 = ("gdb", "-nx", "-iex", "set auto-load no", "-batch", "-x", str(Path(__file__).with_name("avx2.py")), "--args")


def run(folder: Path, track: Track, parts: tuple[str, ...] = ()) -> Result:
    from benchmarks.trainings import percents

    names = parts or tuple(PARTS)
    show, measures, settings = percents(track, len(names)), [], []
    for number, name in enumerate(names):
        place = folder / f"{name}-int8"
        place.mkdir(parents=True)
        settings.append(made(name, folder, place))
        for machine, before in (("here", ()), ("AVX2", AVX2)):
            for kind, found in scored(place, before).items():
                what = f"{name}, {kind}, {machine}"
                measures.append(Measure(f"{what}: decided otherwise than float32", (found["differing"],), "images"))
                measures.append(Measure(f"{what}: accuracy", (found["accuracy"],)))
                measures.append(Measure(f"{what}: speed of a thread", tuple(found["rates"]), "images/s"))
        show(number, 1)
    return Result("int8", "; ".join(settings), measures=tuple(measures))


def made(name: str, folder: Path, place: Path) -> str:
    """Train, and write the files and the held-out images with float32's answers. Returns the setting."""
    from dataclasses import replace

    from onnxruntime.quantization import QuantType
    from upath import UPath

    from benchmarks.nights import place as workspace
    from benchmarks.nights import preprocess, write_sample
    from benchmarks.trainings import RESIDENT_BYTES, held_out, train
    from resnet_core.export import onnx_file
    from resnet_core.export.graph import describe, trace
    from tasks.registry.images import VersionImages
    from tasks.training.run import job_of

    dataset = write_sample(name.partition("_")[0], folder / name)
    changes = {field: replace(getattr(dataset, field), **values) for field, values in PARTS[name].items()}
    dataset = dataset.model_copy(update=changes)
    shard_set = preprocess(dataset, UPath(folder / f"{name}-store"))
    job = job_of(shard_set, dataset, workspace(shard_set.folder, RESIDENT_BYTES))
    classifier, _ = train(job, UPath(place / "state"), lambda share: None)
    test, calibrated = held_out(shard_set), VersionImages(shard_set, None).sample(CALIBRATED)
    np.savez(place / "test.npz", pixels=test.pixels, labels=test.labels, own=classifier.probabilities(test.pixels))
    program, text = trace(classifier), describe(classifier, name, "1")
    for kind, how in KINDS.items():
        signed = {"activation_type": QuantType.QInt8} if kind == "s8 x s8" else {}
        onnx_file.write_int8(program, text, place / f"{kind}.onnx", calibrated, **how, **signed)
    accuracy = (classifier.probabilities(test.pixels).argmax(1) == test.labels).mean()
    return f"{name}: {len(test.labels)} held-out images, float32's accuracy {accuracy:.3f}"


def scored(place: Path, before: tuple[str, ...]) -> dict[str, Any]:
    """Return what a process of its own finds, by kind."""
    command = [*before, sys.executable, "-m", "benchmarks.int8", str(place)]
    subprocess.run(command, check=True, capture_output=True)
    return dict(json.loads((place / "found.json").read_text()))


def score(place: Path) -> dict[str, Any]:
    """Score the held-out images with each file, on one thread. Rates are of processor time: others may be at work."""
    import onnxruntime

    test, found = np.load(place / "test.npz"), {}
    pixels, own = test["pixels"], test["own"].argmax(1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    for kind in KINDS:
        session = onnxruntime.InferenceSession(str(place / f"{kind}.onnx"), options, providers=["CPUExecutionProvider"])
        rates: list[float] = []
        for _ in range(ROUNDS):
            started = time.process_time()
            parts = [session.run(None, {"images": pixels[k : k + BATCH]})[0] for k in range(0, len(pixels), BATCH)]
            rates.append(len(pixels) / (time.process_time() - started))
        decided = np.concatenate(parts).argmax(1)
        right = float((decided == test["labels"]).mean())
        found[kind] = {"differing": int((decided != own).sum()), "accuracy": right, "rates": rates}
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    (folder / "found.json").write_text(json.dumps(score(folder)))
