"""Mixup and CutMix: the pixels and the targets are mixed by the same share."""

import numpy as np
import pytest
import torch
from torch import Tensor

from resnet_core.training.augment import AugmentConfig, mix

MIXUP, CUTMIX = AugmentConfig(mixup=0.4), AugmentConfig(cutmix=1.0)
BOTH = AugmentConfig(mixup=0.4, cutmix=1.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def batch(digits: tuple[np.ndarray, list[str]]) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.from_numpy(digits[0][:40]).float().unsqueeze(1) / 255
    targets = torch.eye(10)[torch.tensor([int(label) for label in digits[1][:40]])]
    return x.contiguous(memory_format=torch.channels_last), targets, torch.ones(40)


def marked(count: int = 16, side: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Image k has the level k everywhere and a class of its own, so that a mixture tells of what."""
    x = torch.arange(float(count)).view(-1, 1, 1, 1).expand(count, 1, side, side)
    return x, torch.eye(count), torch.ones(count)


@pytest.mark.parametrize("config", [MIXUP, CUTMIX, BOTH])
def test_targets_stay_distributions_and_shapes_stay(
    batch: tuple[Tensor, Tensor, Tensor], config: AugmentConfig
) -> None:
    before = [tensor.clone() for tensor in batch]
    for seed in range(20):
        mixed = mix(*batch, config, seeded(seed))
        for was, tensor in zip(batch, mixed, strict=True):
            assert tensor.shape == was.shape
            assert tensor.dtype == was.dtype
        assert mixed[0].is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(mixed[1].sum(1), torch.ones(40))
        assert (mixed[1] >= 0).all()
        torch.testing.assert_close(mixed[2], torch.ones(40))
        assert mixed[0].min() >= 0
        assert mixed[0].max() <= 1 + 1e-6
    assert all(torch.equal(*pair) for pair in zip(before, batch, strict=True))


def test_nothing_happens_unasked(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    generator = seeded()
    mixed = mix(*batch, AugmentConfig(), generator)
    assert all(was is now for was, now in zip(batch, mixed, strict=True))
    assert torch.equal(generator.get_state(), seeded().get_state())


@pytest.mark.parametrize("config", [MIXUP, CUTMIX, BOTH])
def test_it_depends_on_the_generator_alone(batch: tuple[Tensor, Tensor, Tensor], config: AugmentConfig) -> None:
    np.random.seed(1)
    torch.manual_seed(1)
    first = mix(*batch, config, seeded(3))
    np.random.seed(2)
    torch.manual_seed(2)
    again, other = mix(*batch, config, seeded(3)), mix(*batch, config, seeded(4))
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_mixups_levels_are_what_its_targets_say() -> None:
    for seed in range(20):
        x, targets, _ = mix(*marked(), MIXUP, seeded(seed))
        expected = targets @ torch.arange(16.0)
        torch.testing.assert_close(x, expected.view(-1, 1, 1, 1).expand_as(x), atol=1e-4, rtol=0)


def test_cutmixs_share_of_the_pixels_is_that_of_the_targets() -> None:
    pasted = []
    for seed in range(100):
        x, targets, _ = mix(*marked(), CUTMIX, seeded(seed))
        shares = torch.stack([(x == k).float().mean((1, 2, 3)) for k in range(16)], dim=1)
        torch.testing.assert_close(shares, targets)
        foreign = (x != torch.arange(16.0).view(-1, 1, 1, 1)).squeeze(1)
        assert torch.equal(foreign.sum((1, 2)), foreign.any(1).sum(1) * foreign.any(2).sum(1))  # a rectangle
        pasted.append(foreign.any(0))
    assert torch.stack(pasted).any(0).all()  # anywhere


def test_one_share_for_the_batch_over_the_whole_range() -> None:
    shares = []
    for seed in range(200):
        _, targets, _ = mix(*marked(), AugmentConfig(mixup=1.0), seeded(seed))
        own = targets.diagonal()
        values = own[own < 1].unique()
        assert values.max() - values.min() < 1e-6
        shares.append(float(values[0]))
    assert np.mean(shares) == pytest.approx(0.5, abs=0.08)  # Beta(1, 1) is uniform
    assert np.std(shares) == pytest.approx(12**-0.5, abs=0.04)


def test_both_is_a_coin_for_each_batch() -> None:
    cut = [bool((mix(*marked(), BOTH, seeded(seed))[0] % 1 == 0).all()) for seed in range(100)]
    assert 30 < sum(cut) < 70


@pytest.mark.parametrize("config", [MIXUP, CUTMIX])
def test_the_weighted_loss_is_the_mixture_of_the_pairs_weighted_losses(config: AugmentConfig) -> None:
    torch.manual_seed(0)
    x, targets, _ = marked()
    weights = torch.rand(16)
    weights[:4] = 0
    plain = mix(x, targets, torch.ones(16), config, seeded(5))[1]
    _, mixed, mixed_weights = mix(x, targets, weights, config, seeded(5))
    torch.testing.assert_close(mixed.sum(1), torch.ones(16))
    torch.testing.assert_close(mixed_weights, plain @ weights)
    torch.testing.assert_close(mixed * mixed_weights[:, None], plain * weights)
    counts = mixed_weights > 0
    assert (mixed[counts, :4] == 0).all()  # an image of weight 0 says nothing


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_mixes_as_the_cpu_does(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    for config in (MIXUP, CUTMIX):
        expected = mix(*batch, config, seeded())
        found = mix(*(tensor.cuda() for tensor in batch), config, seeded())
        for cpu, gpu in zip(expected, found, strict=True):
            torch.testing.assert_close(gpu.cpu(), cpu)
