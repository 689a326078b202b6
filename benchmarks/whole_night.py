"""A whole night on ELPV, by itself, because it takes half an hour on two idle cores.

Ours are the commands `grayline retrain` on `data/elpv.yaml` and `grayline classify-batch` over all 2,624 files. Time
runs from the first import to the last row, Prefect and MLflow included. The version must be promoted, with an
accuracy of TARGET.

The peer is the usual script: torchvision's reference training on an ImageFolder of the same split and input size. It is
evaluated after each epoch, until it reaches that accuracy; then timm's inference script runs over the same files. It
makes no near-duplicate check, no interval, no version and no gate. Its schedule has as many epochs as fit into three
times our seconds: cut off in its middle, the documented one of 90 epochs would say nothing. A peer that has not reached
the accuracy by then is stopped: its time is at least that.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
import yaml
from mlflow.tracking import MlflowClient
from upath import UPath

from benchmarks.command import call
from benchmarks.nights import preprocess, write_sample
from benchmarks.peers import timm_inference, torchvision_recipe
from benchmarks.rounds import Comparison, Result, Track
from benchmarks.time_to_accuracy import TARGET, write_folders
from benchmarks.trainings import percents
from resnet_core.device import find_device
from tasks.dataset import Dataset
from tasks.values import ShardSet

TIMES = 3  # so many times our seconds the peer has
GRAYLINE = (sys.executable, "-m", "flows.cli.app")


def run(folder: Path, track: Track) -> Result:
    show = percents(track, 2)
    dataset = write_sample("elpv", folder / "raw")
    made = preprocess(dataset, UPath(folder / "split"))
    write_folders(made, folder / "raw", folder / "data")
    seconds, accuracy = our_night(folder, dataset)
    show(0, 1)
    limit = TIMES * seconds
    theirs, best, rows = their_night(folder, made, limit, lambda share: show(1, share))
    bound = "" if best >= TARGET else " (stopped)"
    return Result(
        "whole_night",
        f"ELPV, {made.preprocessing.size} px: ours {accuracy:.3f} in {seconds:.0f} s; torchvision's training and "
        f"timm's inference {best:.3f}, {rows:,} rows in {theirs:.0f} s",
        (
            Comparison(
                f"nights, ratio{' at least' if bound else ''}", f"torchvision and timm{bound}",
                (3600 / seconds,), (3600 / theirs,), unit="an hour",
            ),
        ),
    )  # fmt: skip


def our_night(folder: Path, dataset: Dataset) -> tuple[float, float]:
    """Seconds, and the accuracy of the version that was promoted."""
    store = folder / "store"
    environment = {**os.environ, "GRAYLINE_STORE": str(store)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    content = dataset.model_dump(mode="json", exclude_unset=True)
    (folder / "elpv.yaml").write_text(yaml.safe_dump(content))
    began = time.monotonic()
    call((*GRAYLINE, "retrain", "--dataset", str(folder / "elpv.yaml")), environment)
    images = folder / "raw" / "images"
    call((*GRAYLINE, "classify-batch", "--source", str(images), "--output", str(folder / "scores")), environment)
    seconds = time.monotonic() - began
    rows = pd.read_parquet(folder / "scores")
    if len(rows) != len(list(images.iterdir())) or (rows["status"] != "ok").any():
        raise RuntimeError(f"{len(rows)} rows")
    registry = MlflowClient(f"sqlite:///{store}/mlflow.db", registry_uri=f"sqlite:///{store}/mlflow.db")
    champion = registry.get_model_version_by_alias("elpv", "champion")
    return seconds, float(registry.get_run(champion.run_id).data.metrics["test_accuracy"])


def their_night(folder: Path, made: ShardSet, limit: float, show: Callable[[float], None]) -> tuple[float, float, int]:
    """Seconds, the best accuracy, and the rows that came of it."""
    side, device, best = made.preprocessing.size, find_device(), 0.0
    torch.manual_seed(0)
    first = next(torchvision_recipe.train(folder / "data", side, torchvision_recipe.EPOCHS, device))
    epochs = max(1, int(limit / first.seconds))
    began = time.monotonic()
    for epoch in torchvision_recipe.train(folder / "data", side, epochs, device):
        best, spent = max(best, epoch.accuracy), time.monotonic() - began
        show(min(1.0, spent / limit))
        if best >= TARGET or spent >= limit:
            break
    # The values of the weights do not change the time.
    given = timm_inference.Given({}, len(made.classes), side, 0.5, 0.25)
    rows = timm_inference.infer(folder / "raw" / "images", timm_inference.build(given), given, folder / "timm.csv")
    return time.monotonic() - began, best, len(rows)
