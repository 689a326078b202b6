"""The rate that a training's length is chosen by."""

import torch

from resnet_core.model.resnet import ModelConfig
from resnet_core.training.config import TrainConfig
from resnet_core.training.rate import training_rate


def test_settings_of_a_long_training_do_not_matter_and_nothing_is_drawn() -> None:
    before = torch.random.get_rng_state()
    config = TrainConfig(batch_size=16, early_stopping=3, scales=(8, 16), progressive=0.5)
    assert training_rate(ModelConfig("resnet10", width=16), config, 8, 3, torch.device("cpu")) > 0
    assert torch.equal(torch.random.get_rng_state(), before)
