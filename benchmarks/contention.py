"""Training, scoring and ingest beside busy neighbours on the same cores, against bare PyTorch in the same condition.

A neighbour is a process that computes all the time. There are none, one for two cores, one a core and three a core.
Ours runs with the variables that `resnet_core.cores` sets before PyTorch is imported; bare PyTorch runs with its own
defaults. Both run in processes that live through all rounds. Variables about threads that are set outside hold for
both; set none.

work     ours                                             bare PyTorch
fit      `fit`, the second epoch: ResNet-18, batch 32     forward, backward and a step on a batch that lies ready
small    the same at 8 px, width 32, batch 64             the same at 8 px, width 32, batch 64
scoring  `classify-batch` from files to rows, no Prefect  timm's inference script: DataLoader, two workers
ingest   ingest and preprocess, a first night             DataLoader with two workers: Pillow decodes and resizes

Beside the ratio to bare PyTorch there is the share of the quiet rate that is left to ours. It is a half at best beside
one neighbour a core, and a quarter beside three. Trainings choose their threads by `resnet_core.threads`.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.rounds import Comparison, Result, Track
from resnet_core.cores import thread_variables, usable_cores

NEIGHBOURS = (0, 0.5, 1, 3)  # busy processes a core
WORKS = ("fit", "small", "scoring", "ingest")
FILES = 300  # JPEG of 1024x768
ROUNDS = 3
_BUSY = "while True: pass"
_LARGE, _SMALL = (96, 64, 32, 3), (8, 32, 64, 21)  # pixels, width, batch, steps an epoch

Turn = Callable[[], float]


def run(folder: Path, track: Track) -> Result:
    write_images(folder)
    rates: dict[tuple[str, str, float], list[float]] = {}
    for work, _ in zip(WORKS, track(range(len(WORKS))), strict=True):
        with ExitStack() as stack:
            turns = {who: stack.enter_context(contestant(work, who, folder)) for who in ("ours", "bare")}
            for number in range(ROUNDS):
                for count in NEIGHBOURS:
                    with neighbours(round(count * usable_cores())):
                        for who in list(turns)[:: 1 if number % 2 else -1]:
                            rates.setdefault((work, who, count), []).append(turns[who]())
    comparisons = []
    for work in WORKS:
        quiet = tuple(rates[work, "ours", 0])
        for count in NEIGHBOURS:
            what = f"{work}, {count:g} busy neighbours a core" if count else f"{work}, quiet"
            mine = tuple(rates[work, "ours", count])
            comparisons.append(Comparison(what, "bare PyTorch", mine, tuple(rates[work, "bare", count])))
            if count:
                comparisons.append(Comparison(what, "the same, quiet", mine, quiet))
    return Result(
        "contention",
        f"{usable_cores()} cores; ours with {thread_variables(os.environ) or 'the variables of the environment'}; fit: "
        f"resnet18, batch 32, 96 px; small: 8 px; scoring and ingest: {FILES} JPEG files of 1024x768 to 64 px",
        tuple(comparisons),
    )


def write_images(folder: Path) -> None:
    """Write images in a folder for each class, and in a flat folder for timm's reader."""
    from benchmarks.images import scenes

    (folder / "flat").mkdir()
    for number, data in enumerate(scenes(FILES)):
        path = folder / "images" / "ab"[number % 2] / f"{number:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        (folder / "flat" / path.name).hardlink_to(path)


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Keep so many processes computing, and let them begin first."""
    busy = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(count)]
    time.sleep(0.5 if busy else 0)
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


@contextmanager
def contestant(work: str, who: str, folder: Path) -> Iterator[Turn]:
    """Yield a turn of a process that has imported and warmed up. It returns images/s."""
    own = thread_variables(os.environ) if who == "ours" else {}
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.contention", work, who, str(folder)],
        env={**os.environ, **own}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    ask, answers = process.stdin, process.stdout

    def turn() -> float:
        ask.write("\n")
        ask.flush()
        return float(answers.readline())

    try:
        turn()  # warms up
        yield turn
    finally:
        ask.close()
        process.wait()


# ---- in the processes
def fit_ours(folder: Path) -> Turn:
    return _fit_ours(*_LARGE)


def fit_bare(folder: Path) -> Turn:
    return _fit_bare(*_LARGE)


def small_ours(folder: Path) -> Turn:
    return _fit_ours(*_SMALL)


def small_bare(folder: Path) -> Turn:
    return _fit_bare(*_SMALL)


def _fit_ours(*numbers: int) -> Turn:
    from benchmarks.fit import CLASSES, Fitted, Shape, ours, training_images
    from resnet_core.threads import Threads
    from resnet_core.training.loop import Hooks, fit
    from resnet_core.training.rate import rate_of_steps

    shape = Shape(*numbers)
    images = training_images(shape)

    def loop(model: Any, data: Any, config: Any, world: Any) -> Fitted:
        rate = partial(rate_of_steps, shape.model, config, shape.size, CLASSES, world.device)
        with Threads(rate).set() as before_epoch:
            return fit(model, data, config, world, hooks=Hooks(before_epoch=before_epoch))

    return lambda: ours(shape, images, None, loop)


def _fit_bare(*numbers: int) -> Turn:
    from benchmarks.fit import Shape, bare_network, peer
    from benchmarks.rounds import timed

    shape = Shape(*numbers)
    network = bare_network(shape)
    return timed(lambda: peer(shape, network, None), seconds=0)


def scoring_ours(folder: Path) -> Turn:
    from benchmarks.batch import batch, make_classifier, read_all, scoring
    from resnet_core.inference import engines

    classifier = make_classifier(read_all(sorted((folder / "flat").iterdir())[:128]))
    engine = engines.open_torch(classifier, engines.usual_batch(classifier))

    def turn() -> float:
        with scoring(classifier, engine), tempfile.TemporaryDirectory(dir=folder) as output:
            began = time.perf_counter()
            return batch(folder / "flat", Path(output) / "rows", classifier) / (time.perf_counter() - began)

    return turn


def scoring_bare(folder: Path) -> Turn:
    from benchmarks.peers import timm_inference
    from benchmarks.score import CLASSES

    given = timm_inference.Given({}, len(CLASSES), 64, 0.5, 0.25)
    network = timm_inference.build(given)

    def turn() -> float:
        began = time.perf_counter()
        rows = timm_inference.infer(folder / "flat", network, given, folder / "timm.csv")
        return len(rows) / (time.perf_counter() - began)

    return turn


def ingest_ours(folder: Path) -> Turn:
    from upath import UPath

    from benchmarks.ingest import night

    def turn() -> float:
        with tempfile.TemporaryDirectory(dir=folder) as store:
            began = time.perf_counter()
            return night(folder / "images", UPath(store)) / (time.perf_counter() - began)

    return turn


def ingest_bare(folder: Path) -> Turn:
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import Compose, PILToTensor, Resize

    from benchmarks.batches import open_gray

    change = Compose([Resize((64, 64)), PILToTensor()])
    images = ImageFolder(str(folder / "images"), transform=change, loader=open_gray)
    loader = DataLoader(images, 64, num_workers=2)

    def turn() -> float:
        began = time.perf_counter()
        return sum(len(labels) for _, labels in loader) / (time.perf_counter() - began)

    return turn


def main() -> None:
    work, who, folder = sys.argv[1:]
    turn: Turn = globals()[f"{work}_{who}"](Path(folder))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # the stages print, too
    for _ in sys.stdin:
        answers.write(f"{turn()}\n")


if __name__ == "__main__":
    main()
