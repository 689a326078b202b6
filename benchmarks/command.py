"""The commands `classify-batch`, with Prefect and MLflow, and `predict`. Run it by itself, because it takes long.

- fixed: ten images beside a running Prefect server, and the share of importing. The limit is 8 seconds.
- growth: LARGE images against SMALL, out of a tar, without a server. Time per image may grow 1.15 times. Memory, the
  highest sum of resident bytes of the command and all its processes, may grow 1.3 times.
- workers: a Ray cluster of two nodes, pinned to a core each, against a cluster of one node. The rate is the batch's
  own images/s, including the start of workers and Prefect. Twice would be linear. The command, its Prefect server and
  the scheduler share the cores: beside one node they find a core free, beside two none.
- predict: one image from the shell to the prompt, against a script that loads the same weights by hand: torchvision's
  ResNet-18, Pillow, safetensors. Both are processes of their own, warm. Labels must be equal.

The version that scores batches is of the digits, trained for an epoch; the images are `scale`'s, all different.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import yaml

from benchmarks.images import scenes
from benchmarks.rounds import Comparison, Difference, Measure, Result, Track, interleave
from benchmarks.scale import Run, watch, write_tar
from tests.cluster import kill, two_nodes

FEW, SMALL, LARGE = 10, 1_000, 200_000
PHOTOGRAPHS = 24_000
ROUNDS = 5
PARTS = ("fixed", "growth", "workers", "predict")
GRAYLINE = (sys.executable, "-m", "flows.cli.app")
IMPORTS = (sys.executable, "-c", "import flows.classify_batch")
BY_HAND = """
import json, sys
from pathlib import Path
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision.models import resnet18
from torchvision.transforms.functional import to_tensor

image, folder = sys.argv[1], Path(sys.argv[2])
about = json.loads((folder / "model.json").read_text())
size, levels = about["preprocessing"]["size"], about["normalisation"]
network = resnet18(num_classes=len(about["classes"]))
network.conv1 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
network.load_state_dict(load_file(folder / "model.safetensors"))
pixels = to_tensor(Image.open(image).convert("L").resize((size, size), Image.Resampling.BILINEAR))
with torch.inference_mode():
    logits = network.eval()(((pixels - levels["mean"]) / levels["std"])[None])
confidence, place = logits.softmax(1)[0].max(0)
print(json.dumps({"label": about["classes"][place], "confidence": float(confidence)}))
"""


def run(folder: Path, track: Track, parts: Sequence[str] = PARTS) -> Result:
    environment = {**os.environ, "GRAYLINE_STORE": str(folder / "store")}
    comparisons, measures = predict(folder, environment, track) if "predict" in parts else ((), ())
    if {*parts} - {"predict"}:
        make_version(folder, environment)
    comparisons += growth(folder, environment, track) if "growth" in parts else ()
    comparisons += workers(folder, environment, track) if "workers" in parts else ()
    measures += fixed(folder, environment, track) if "fixed" in parts else ()
    about = "resnet10 of width 16 at 8 px; predict: resnet18 of width 64 at 96 px"
    return Result("command", f"grayline classify-batch, {about}", comparisons, measures)


def make_version(folder: Path, environment: dict[str, str]) -> None:
    """A champion, however good it is."""
    source = folder / "digits"
    call((*GRAYLINE, "sample", "digits", "--to", str(source)), environment)
    content = {
        "name": "digits",
        "source": str(source),
        "labels": str(source / "labels.csv"),
        "image": {"size": 8},
        "model": {"arch": "resnet10", "width": 16},
        "train": {"epochs": 1},
        "gate": {"minimum": 0.0},
    }
    (folder / "digits.yaml").write_text(yaml.safe_dump(content))
    call((*GRAYLINE, "retrain", "--dataset", str(folder / "digits.yaml")), environment)


def call(command: Sequence[str], environment: dict[str, str]) -> float:
    """Seconds. Raises RuntimeError with what the command had to say."""
    began = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return time.monotonic() - began


def predict(
    folder: Path, environment: dict[str, str], track: Track
) -> tuple[tuple[Comparison, ...], tuple[Measure, ...]]:
    """300 drawn parts have too few held-out images for a temperature, so that both compute the same softmax."""
    call((*GRAYLINE, "sample", "parts", "--to", str(folder / "parts")), environment)
    content = {
        "name": "parts",
        "source": str(folder / "parts" / "labelled"),
        "image": {"size": 96},
        "model": {"arch": "resnet18", "width": 64, "stem": "imagenet"},
        "train": {"epochs": 2},
    }
    (folder / "parts.yaml").write_text(yaml.safe_dump(content))
    call((*GRAYLINE, "register", "--dataset", str(folder / "parts.yaml")), environment)
    image = str(folder / "parts" / "new" / "300.png")
    (weights,) = (folder / "store" / "runs" / "parts").glob("*/model")
    commands = {
        "ours": (*GRAYLINE, "predict", image, "--model", "parts/1", "--json"),
        "by hand": (sys.executable, "-c", BY_HAND, image, str(weights)),
    }
    answers = [
        json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
        for command in commands.values()
    ]
    if answers[0]["label"] != answers[1]["label"]:
        raise RuntimeError(f"two labels: {answers}")
    gap = abs(answers[0]["confidence"] - answers[1]["confidence"])
    turns = {name: partial(rate, command, environment) for name, command in commands.items()}
    rates = interleave(ROUNDS, turns, track)
    lines = (
        Comparison(
            "grayline predict IMAGE", "the same weights by hand", rates["ours"], rates["by hand"],
            Difference(gap, gap, "probability"), "commands/s",
        ),
    )  # fmt: skip
    seconds = (Measure(f"an image, {name}", tuple(1 / each for each in found), "s") for name, found in rates.items())
    return lines, tuple(seconds)


def rate(command: Sequence[str], environment: dict[str, str]) -> float:
    """Commands per second."""
    return 1 / call(command, environment)


def fixed(folder: Path, environment: dict[str, str], track: Track) -> tuple[Measure, ...]:
    write_tar(folder / "few.tar", FEW)
    whole, imports = [], []
    with server(environment) as url:
        there = environment | {"PREFECT_API_URL": url}
        for number in track(range(ROUNDS + 1)):
            batch = ("classify-batch", "--source", str(folder / "few.tar"), "--output", str(folder / f"few{number}"))
            seconds = call((*GRAYLINE, *batch), there), call(IMPORTS, there)
            if number:  # the first one finds nothing in the disk's cache
                whole.append(seconds[0])
                imports.append(seconds[1])
    return (
        Measure(f"a batch of {FEW} images, a server running", tuple(whole), "s"),
        Measure("of which imports", tuple(imports), "s"),
    )


@contextmanager
def server(environment: dict[str, str]) -> Iterator[str]:
    """A Prefect server on this machine, for the length of the block. Its API's URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = (sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
    home = {"PREFECT_HOME": f"{environment['GRAYLINE_STORE']}/server", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    process = subprocess.Popen(command, env=environment | home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/api"
    try:
        wait(f"{url}/health")
        yield url
    finally:
        process.terminate()
        process.wait()


def wait(url: str, seconds: float = 120) -> None:
    began = time.monotonic()
    while True:
        try:
            with urlopen(url, timeout=5):
                return
        except (URLError, OSError):
            if time.monotonic() - began > seconds:
                raise
            time.sleep(0.5)


def growth(folder: Path, environment: dict[str, str], track: Track) -> tuple[Comparison, ...]:
    small, large = (measure(folder, environment, count) for count in track((SMALL, LARGE)))
    peaks = (large.bytes / 2**20,), (small.bytes / 2**20,)
    return (
        Comparison(f"speed, {LARGE:,} images", f"{SMALL:,} images", (LARGE / large.seconds,), (SMALL / small.seconds,)),
        Comparison(f"peak memory, {LARGE:,} images", f"{SMALL:,} images", *peaks, unit="MiB"),
    )


def measure(folder: Path, environment: dict[str, str], count: int) -> Run:
    source = folder / f"{count}.tar"
    write_tar(source, count)
    command = (*GRAYLINE, "classify-batch", "--source", str(source), "--output", str(folder / f"out{count}"))
    found = watch(command, environment, folder / "log")
    source.unlink()
    return found


def workers(folder: Path, environment: dict[str, str], track: Track) -> tuple[Comparison, ...]:
    source = folder / "photographs"
    source.mkdir()
    some = list(scenes(PHOTOGRAPHS // 60))
    for number in range(PHOTOGRAPHS):
        # All differ by a byte behind the image, so that none is known by its content.
        (source / f"{number:05}.jpg").write_bytes(some[number % len(some)] + str(number).encode())
    speeds = []
    for nodes in track((1, 2)):
        output = folder / f"by{nodes}"
        with two_nodes(pinned=True) as (_, second, ray):
            if nodes == 1:
                kill(second)
            there = environment | ray | {"GRAYLINE_RUNNER": "ray"}
            call((*GRAYLINE, "classify-batch", "--source", str(source), "--output", str(output)), there)
        speeds.append(float(json.loads((output / "_manifest.json").read_text())["images_per_second"]))
    return (Comparison("a batch on two Ray nodes", "one node", (speeds[1],), (speeds[0],)),)
