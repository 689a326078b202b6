"""Training sizes: drawn or growing, ending at the side that the model is used at."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_core.model.inputs import resize_batch
from resnet_core.training._progressive import STEP, draw_sides, strength
from resnet_core.training.config import TrainConfig


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sides(
    scales: tuple[int, ...],
    progressive: float,
    size: int,
    epoch: int,
    epochs: int,
    steps: int,
    generator: torch.Generator,
) -> list[int]:
    return draw_sides(TrainConfig(epochs, scales=scales, progressive=progressive), size, epoch, steps, generator)


def gray(photograph: Image.Image, side: int) -> torch.Tensor:
    """float32 [1, 1, side, side]."""
    image = photograph.convert("L").resize((side, side), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).float()[None, None]


@pytest.mark.parametrize("side", [32, 48, 63, 96])
def test_a_batch_is_resized_as_pillow_resizes(photograph: Image.Image, side: int) -> None:
    x = gray(photograph, 64)
    resized = resize_batch(x, side)
    assert resized.shape == (1, 1, side, side)
    assert resized.is_contiguous(memory_format=torch.channels_last)
    image = Image.fromarray(x[0, 0].numpy()).resize((side, side), Image.Resampling.BILINEAR)
    torch.testing.assert_close(resized[0, 0], torch.from_numpy(np.array(image)), atol=1e-2, rtol=0)
    assert resized.mean() == pytest.approx(float(x.mean()), abs=1)


def test_a_batch_of_the_side_is_the_batch(photograph: Image.Image) -> None:
    x = gray(photograph, 64)
    assert resize_batch(x, 64) is x
    assert resize_batch(x[:, :, :32], 64).shape == (1, 1, 64, 64)


def test_without_either_every_batch_has_the_side_and_nothing_is_drawn() -> None:
    generator = seeded()
    assert sides((), 0, 60, 3, 10, 5, generator) == [60] * 5
    assert torch.equal(generator.get_state(), seeded().get_state())
    assert strength(TrainConfig(10), 1) == 1


def test_every_scale_is_as_likely_and_the_generator_decides() -> None:
    drawn = sides((64, 96, 100), 0, 96, 1, 10, 900, seeded())
    assert Counter(drawn) == pytest.approx({64: 300, 96: 300, 100: 300}, abs=60)
    assert drawn == sides((64, 96, 100), 0, 96, 1, 10, 900, seeded())
    assert drawn != sides((64, 96, 100), 0, 96, 1, 10, 900, seeded(1))


@pytest.mark.parametrize("size", [8, 28, 60, 64, 224])
@pytest.mark.parametrize("epochs", [1, 2, 3, 10, 30, 90])
@pytest.mark.parametrize("progressive", [0.3, 0.5, 0.9])
def test_sizes_grow_to_the_full_side_for_the_last_third(size: int, epochs: int, progressive: float) -> None:
    grown = [sides((), progressive, size, epoch, epochs, 1, seeded())[0] for epoch in range(1, epochs + 1)]
    assert grown == sorted(grown)
    last_third = grown[2 * epochs // 3 :]
    assert last_third == [size] * len(last_third)
    assert all(side == size or (side % STEP == 0 and 8 <= side < size) for side in grown)
    if epochs > 1:
        assert abs(grown[0] - progressive * size) <= STEP
    shares = [strength(TrainConfig(epochs, progressive=progressive), epoch) for epoch in range(1, epochs + 1)]
    assert shares == sorted(shares)
    assert shares[0] == (0.5 if epochs > 1 else 1)
    assert shares[-1] == 1


def test_growth_applies_to_the_drawn_size() -> None:
    assert set(sides((64, 128), 0.5, 96, 1, 30, 50, seeded())) == {32, 64}
    assert set(sides((60, 124), 0.5, 96, 30, 30, 50, seeded())) == {60, 124}
