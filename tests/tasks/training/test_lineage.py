"""The record of a training's threads: by epoch, or the one number of an earlier release."""

import json
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from resnet_core.training.loop import Epoch
from tasks.training.lineage import note_threads, read_lineage, threads_of

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


def test_the_oldest_records_say_nothing_about_threads() -> None:
    lineage: dict[str, Any] = {}
    assert threads_of(lineage) == ()
