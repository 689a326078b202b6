"""The rate that a training's length is chosen by."""

import pytest
import torch

from resnet_core import threads
from resnet_core.cores import THREADS
from resnet_core.model.resnet import ModelConfig
from resnet_core.training import rate as room
from resnet_core.training.config import TrainConfig
from resnet_core.training.rate import training_rate


def test_settings_of_a_long_training_do_not_matter_and_nothing_is_drawn() -> None:
    before = torch.random.get_rng_state()
    config = TrainConfig(batch_size=16, early_stopping=3, scales=(8, 16), progressive=0.5)
    assert training_rate(ModelConfig("resnet10", width=16), config, 8, 3, torch.device("cpu")) > 0
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_busy_machine_is_measured_with_the_threads_of_its_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all threads beside a neighbour, small networks would be given fewer epochs than there is time for."""
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    before, used = torch.get_num_threads(), []
    torch.set_num_threads(4)
    monkeypatch.setattr(threads, "busy_cores", lambda: 3.0)
    monkeypatch.setattr(threads, "_TRIED", 0.0)

    def rate_of_steps(*given: object) -> float:
        used.append(torch.get_num_threads())
        return 90.0 / used[-1]

    monkeypatch.setattr(room, "rate_of_steps", rate_of_steps)
    try:
        assert training_rate(ModelConfig("resnet10", width=16), TrainConfig(), 8, 3, torch.device("cpu")) == 90.0
        assert used == [1, 4, 1, 4, 1]
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
