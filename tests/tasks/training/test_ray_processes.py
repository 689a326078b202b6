"""One training on a Ray cluster of two nodes: the same weights, one clear error, also when a node dies."""

import subprocess
import sys
from pathlib import Path

import pytest

from resnet_core.errors import UserError
from tasks.training.ray_processes import check_cluster
from tests.flows.test_runners import NEEDS_LOOPBACKS, NEEDS_RAY, environment, kill, two_nodes

HOME = Path(__file__).resolve().parents[3]

TRAININGS = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from upath import UPath
from resnet_core.training import job as training
from resnet_core.errors import TrainingError
from resnet_core.training.distributed import World
from tasks.training.processes import LostProcessError
from tasks.training.ray_processes import run_on_cluster
from tests.resnet_core.training.test_job import a_job
from tests.tasks.training.test_processes import CONFIG, CPU, assert_same, digits_of

folder = Path(sys.argv[1])
job = replace(a_job(folder, digits_of(), 101, 30, CONFIG), state=UPath(folder / "state.safetensors"))

def told(step):
    pass

def run(job, on_epoch=told):
    return run_on_cluster(job, CPU, "auto", told, on_epoch)

reported = []
classifier, epochs = run(job, reported.append)
assert reported == epochs and len(epochs) == 2
assert_same(classifier, training.run(replace(job, state=None), World(CPU))[0], job)
print("the same weights", flush=True)

job.state.unlink()
try:
    run(replace(job, config=replace(job.config, lr=1e30)))
except TrainingError as error:
    assert "Lower `train.lr`" in str(error)
    print("the same error", flush=True)

def wait(epoch):
    print("an epoch", flush=True)
    sys.stdin.readline()

try:
    run(job, wait)
except LostProcessError as error:
    print(error, flush=True)

assert sorted(path.name for path in folder.iterdir()) == ["shard.parquet", "state.safetensors"]
"""


@pytest.mark.heavy
@pytest.mark.e2e
@NEEDS_RAY
@NEEDS_LOOPBACKS
def test_two_nodes_train_as_one_process_does_and_tell_when_one_dies(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    with two_nodes() as (_, second, env):
        process = subprocess.Popen(
            [sys.executable, "-c", TRAININGS, tmp_path / "job"],
            cwd=HOME, env=environment(GRAYLINE_STORE=str(tmp_path), RAY_USAGE_STATS_ENABLED="0", **env),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        for line in ("the same weights", "the same error", "an epoch"):
            assert process.stdout.readline() == line + "\n", process.communicate()[1]
        kill(second)
        said, errors = process.communicate("go on\n", timeout=180)
    assert process.returncode == 0, errors
    assert "is gone, or its machine is" in said


@pytest.mark.parametrize(
    ("resources", "wanted", "on_gpus"),
    [
        ({"CPU": 4.0}, "auto", False),
        ({"CPU": 4.0, "GPU": 2.0}, "auto", True),
        ({"CPU": 4.0, "GPU": 2.0}, "cpu", False),
        ({"CPU": 4.0, "GPU": 2.0}, "cuda", True),
    ],
)
def test_gpus_are_used_where_there_are_any(resources: dict[str, float], wanted: str, on_gpus: bool) -> None:
    assert check_cluster(resources, 2, wanted) is on_gpus


def test_a_cluster_too_small_is_said_so() -> None:
    with pytest.raises(UserError, match=r"take a GPU each, and the Ray cluster has 1\. Write 1 or less"):
        check_cluster({"CPU": 8.0, "GPU": 1.0}, 2, "auto")
