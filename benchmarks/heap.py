"""The benefit of keeping a step's memory (`resnet_core.device`): `python -m benchmarks heap`, by itself.

`fit` as it is, and without it, where glibc returns memory to the system. Trainings run in processes of their own,
because the second would use memory that the first one freed. The rate is that of the second epoch, the peak that of
the process.
"""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.fit import Shape, ours, training_images
from benchmarks.memory import peak_bytes
from benchmarks.rounds import Comparison, Result, Track
from resnet_core.training.loop import fit

SHAPES = (Shape(96, 16, 128, 12), Shape(160, 16, 128, 8), Shape(224, 16, 128, 6), Shape(288, 16, 128, 4))
ROUNDS = 3
LOOPS = {"ours": fit, "peer": inspect.unwrap(fit)}
COMMAND = "import sys; from benchmarks.heap import train_once; train_once(int(sys.argv[1]), sys.argv[2])"


def run(folder: Path, track: Track) -> Result:
    found: dict[tuple[int, str], list[list[float]]] = {(k, loop): [] for k in range(len(SHAPES)) for loop in LOOPS}
    for turn in track(range(ROUNDS * len(found))):
        number, loop = list(found)[turn % len(found)]
        command = [sys.executable, "-c", COMMAND, str(number), loop]
        ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[number, loop].append(json.loads(ended.stdout))
    lines = []
    for number, shape in enumerate(SHAPES):
        (rates, peaks), (their_rates, their_peaks) = (zip(*found[number, loop], strict=True) for loop in LOOPS)
        what, peer = f"fit, {shape.size} px, batch {shape.batch}", "memory given back"
        lines.append(Comparison(what, peer, rates, their_rates))
        lines.append(Comparison(f"{what}: peak of the process", peer, peaks, their_peaks, unit="MiB"))
    return Result("heap", f"resnet18 of width 16, SGD, {torch.get_num_threads()} torch threads", tuple(lines))


def train_once(number: int, loop: str) -> None:
    """Print images/s and the peak in MiB."""
    shape = SHAPES[number]
    rate = ours(shape, training_images(shape), None, LOOPS[loop])
    sys.stdout.write(json.dumps([rate, peak_bytes() / 2**20]))
