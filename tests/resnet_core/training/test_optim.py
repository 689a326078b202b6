"""Optimizers and schedules: what decays, how the rate goes, and that Muon's steps are orthogonal."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from resnet_core.model.resnet import ModelConfig, build
from resnet_core.training._optim import Muon, make_optimizer, make_schedule, orthogonal
from resnet_core.training.config import TrainConfig


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_weight_decay_spares_biases_and_batch_norm(name: str) -> None:
    model = build(ModelConfig("resnet10", width=16), size=8, classes=2)
    decayed, spared = make_optimizer(model, TrainConfig(optimizer=name)).param_groups  # type: ignore[arg-type]
    assert all(p.ndim > 1 for p in decayed["params"])
    assert all(p.ndim == 1 for p in spared["params"])
    assert (decayed["weight_decay"], spared["weight_decay"]) == (TrainConfig().weight_decay, 0)
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))


def rates(config: TrainConfig, steps: int) -> list[float]:
    optimizer = make_optimizer(nn.Linear(2, 2), config)
    schedule, found = make_schedule(optimizer, config, steps), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine"])
@pytest.mark.parametrize("warmup", [0.01, 0.2, 0.5])
def test_the_rate_goes_up_to_its_peak_and_down_to_nothing(schedule: str, warmup: float) -> None:
    found = rates(TrainConfig(lr=0.3, schedule=schedule, warmup=warmup), 200)  # type: ignore[arg-type]
    peak = found.index(max(found))
    assert max(found) == pytest.approx(0.3, rel=0.02)
    assert peak == pytest.approx(warmup * 200, abs=2)
    assert found[: peak + 1] == sorted(found[: peak + 1])
    assert found[peak:] == sorted(found[peak:], reverse=True)
    assert found[-1] < 0.3 / 1000


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_shortest_schedules_work(schedule: str, steps: int) -> None:
    assert all(rate > 0 for rate in rates(TrainConfig(schedule=schedule), steps))  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(16, 9), (16, 144), (64, 16)])
def test_an_orthogonal_step_has_singular_values_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape) @ torch.diag(torch.logspace(0, -2, shape[1]))
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert values.max() < 1.3
    assert values[: min(shape) // 2].min() > 0.5
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert (orthogonal(matrix) * (u @ v)).sum() / min(shape) > 0.5  # it points where the exact one does


def test_muon_turns_kernels_and_adapts_the_rest() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 8, 3)
    before = [p.detach().clone() for p in layer.parameters()]
    for parameter in layer.parameters():
        parameter.grad = torch.randn_like(parameter)
    Muon([{"params": list(layer.parameters())}], lr=0.01).step()
    kernel, bias = (p.detach() - b for p, b in zip(layer.parameters(), before, strict=True))
    values = torch.linalg.svdvals(kernel.flatten(1))
    assert values.min() > 0.6 * values.max()
    assert bias.abs().tolist() == pytest.approx([0.01] * 8, rel=1e-3)  # AdamW's first step is the rate


def test_momentum_is_what_it_says_throughout() -> None:
    config = replace(TrainConfig(), momentum=0.8)
    optimizer = make_optimizer(nn.Linear(2, 2), config)
    schedule = make_schedule(optimizer, config, 10)
    for _ in range(5):
        optimizer.step()
        schedule.step()
        assert optimizer.param_groups[0]["momentum"] == 0.8
