"""The record of a training's threads: by epoch, or the one number of an earlier release."""

import json
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from resnet_core.images.preprocessing import Preprocessing
from resnet_core.model.resnet import ModelConfig
from resnet_core.training.config import TrainConfig
from resnet_core.training.job import Job
from resnet_core.training.loop import Epoch
from tasks.training.lineage import note_threads, read_lineage, threads_of
from tasks.training.run import places

MACHINE = {
    "processor": "x", "instructions": "AVX2", "cores": 8, "threads": 4, "memory": 16.0, "gpus": [], "system": "Linux",
}  # fmt: skip


def epoch(number: int, threads: int | None) -> Epoch:
    return Epoch(number, 1.0, 0.5, 0.1, 100.0, threads=threads)


@pytest.mark.parametrize(
    ("noted", "found"), [([2, 1, 2], (2, 1, 2)), ([None, None], (4,)), ([None, 2], (4,))], ids=["cpu", "gpu", "half"]
)
def test_threads_are_noted_by_epoch(tmp_path: Path, noted: list[int | None], found: tuple[int, ...]) -> None:
    """half: the first epochs were an earlier release's, which noted the machine's alone."""
    (tmp_path / "lineage.json").write_text(json.dumps({"machine": MACHINE, "code": "a"}))
    note_threads(UPath(tmp_path), [epoch(number, threads) for number, threads in enumerate(noted, 1)])
    lineage = read_lineage(tmp_path)
    assert lineage["code"] == "a"
    assert threads_of(lineage) == found


@pytest.mark.parametrize(
    ("noted", "told"), [([1, 1], "cpu (1 thread)"), ([4, 1, 2], "cpu (1 to 4 threads)"), ([4], "cpu (4 threads)")]
)
def test_a_training_tells_the_threads_that_it_had(noted: list[int], told: str) -> None:
    job = Job((), (), Preprocessing(8), 0, 0, ModelConfig(), TrainConfig())
    assert places(job, "cpu", [epoch(number, threads) for number, threads in enumerate(noted, 1)]) == told


def test_the_oldest_records_say_nothing_about_threads() -> None:
    lineage: dict[str, Any] = {}
    assert threads_of(lineage) == ()
