"""One training by several processes: the same weights, one clear error, nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from sklearn.datasets import load_digits
from upath import UPath

from resnet_core.errors import TrainingError, UserError
from resnet_core.model.classifier import Classifier
from resnet_core.training import job as training
from resnet_core.training.augment import AugmentConfig
from resnet_core.training.config import TrainConfig
from resnet_core.training.distributed import World
from resnet_core.training.job import Job
from resnet_core.training.loop import Epoch, Step
from tasks.training.processes import LostProcessError, check_batches, run_on_devices
from tests.resnet_core.training.test_job import a_job

CPU = torch.device("cpu")
CONFIG = TrainConfig(
    epochs=2,
    batch_size=64,
    optimizer="sgd",
    lr=0.02,
    devices=2,
    precision="float32",
    augment=AugmentConfig(shift=0.1, mixup=0.2),
)
HOME = Path(__file__).resolve().parents[3]

Digits = tuple[np.ndarray, list[str]]


@pytest.fixture
def job(tmp_path: Path, digits: Digits) -> Job:
    """Four steps in two epochs, over 101 digits."""
    return replace(a_job(tmp_path, digits, 101, 30, CONFIG), state=UPath(tmp_path / "state.safetensors"))


def digits_of() -> Digits:
    """The fixture `digits`, for processes that pytest has not started."""
    found = load_digits()
    return np.rint(found.images * (255 / 16)).astype(np.uint8), [str(label) for label in found.target]


def workers() -> list[psutil.Process]:
    """The processes of the training; multiprocessing's tracker of resources is none."""
    found = psutil.Process().children(recursive=True)
    return [process for process in found if "spawn_main" in " ".join(process.cmdline())]


def assert_same(found: Classifier, expected: Classifier, job: Job) -> None:
    """Apart by no more than float32's rounding: what training moved them by is ten thousand times as much.
    (`test_distributed` compares to 1e-5, in double precision.)"""
    begun, one, several = (
        torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
        for network in (training.network(job), expected.network, found.network)
    )
    assert (several - one).norm() < 1e-4 * (one - begun).norm()


def test_two_processes_give_the_classifier_of_one_and_tell_as_much(job: Job) -> None:
    expected, expected_epochs = training.run(replace(job, state=None), World(CPU))
    steps: list[Step] = []
    reported: list[Epoch] = []
    heard_on: set[str] = set()

    def on_step(step: Step) -> None:
        steps.append(step)
        for worker in workers():
            heard_on.update(c.laddr.ip for c in worker.net_connections("inet") if c.status == "LISTEN")

    classifier, epochs = run_on_devices(job, CPU, on_step, reported.append)
    assert_same(classifier, expected, job)
    assert classifier.description() == expected.description()
    assert reported == epochs
    assert [epoch.loss for epoch in epochs] == pytest.approx([epoch.loss for epoch in expected_epochs], abs=1e-2)
    assert [step.images for step in steps] == [51, 101, 51, 101]
    assert heard_on == {"127.0.0.1"}
    assert not workers()


def test_a_process_that_is_killed_fails_the_training_which_then_goes_on_from_its_checkpoint(job: Job) -> None:
    def kill(epoch: Epoch) -> None:
        workers()[-1].send_signal(signal.SIGKILL)

    with pytest.raises(LostProcessError, match=r"process . of 2 was ended by SIGKILL"):
        run_on_devices(job, CPU, lambda step: None, kill)
    assert not workers()
    reported: list[Epoch] = []
    classifier, epochs = run_on_devices(job, CPU, lambda step: None, reported.append)
    assert [epoch.epoch for epoch in reported] == [2]
    assert [epoch.epoch for epoch in epochs] == [1, 2]
    assert_same(classifier, training.run(replace(job, state=None), World(CPU))[0], job)


def test_what_a_process_raises_is_raised_as_it_is(job: Job) -> None:
    hopeless = replace(job, config=replace(job.config, lr=1e30))
    with pytest.raises(TrainingError, match=r"no longer a number .* Lower `train.lr`") as caught:
        run_on_devices(hopeless, CPU, lambda step: None, lambda epoch: None)
    assert not isinstance(caught.value, LostProcessError)
    assert "Traceback" in caught.value.__notes__[0]
    assert not workers()


def test_an_interruption_ends_all_processes(job: Job) -> None:
    def interrupt(step: Step) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_on_devices(job, CPU, interrupt, lambda epoch: None)
    assert not workers()


KILLED = """
import sys, time
from pathlib import Path
import torch
from resnet_core.training.loop import Step
from tasks.training.processes import run_on_devices
from tests.resnet_core.training.test_job import a_job
from tests.tasks.training.test_processes import CONFIG, digits_of

def wait(step: Step) -> None:
    print("trains", flush=True)
    time.sleep(600)

if __name__ == "__main__":
    run_on_devices(a_job(Path(sys.argv[1]), digits_of(), 101, 30, CONFIG), torch.device("cpu"), wait, wait)
"""


def test_the_processes_end_with_who_started_them(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(KILLED)
    process = psutil.Popen(
        [sys.executable, tmp_path / "train.py", tmp_path],
        env={**os.environ, "PYTHONPATH": str(HOME)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "trains\n"
    children = process.children(recursive=True)
    assert len(children) >= 2
    process.kill()
    process.wait()
    began = time.monotonic()
    while any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children):
        assert time.monotonic() - began < 30
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (replace(CONFIG, devices=40), "train.batch_size: 64 images are less than two for each of 40 devices. Write 80"),
        (replace(CONFIG, devices=200, batch_size=400), "train.devices: 200 are more than the 101 training images"),
    ],
)
def test_every_process_has_an_image_of_each_batch(job: Job, config: TrainConfig, text: str) -> None:
    with pytest.raises(UserError, match=text):
        check_batches(replace(job, config=config))
