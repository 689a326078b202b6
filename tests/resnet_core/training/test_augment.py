"""Augmentation: allowed changes only, by the asked amount, and by the generator alone."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from resnet_core.training.augment import ERASED_AREA, AugmentConfig, augment, flip_and_shift, weaker

STILL = AugmentConfig(flips="none", shift=0)
ALL = AugmentConfig("dihedral", 0.1, rotate=20, zoom=0.2, brightness=0.2, contrast=0.3, noise=0.05, erase=0.5)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def copies(photograph: Image.Image, count: int, side: int = 64) -> torch.Tensor:
    """uint8 [count, side, side], all the same."""
    image = photograph.convert("L").resize((side, side))
    return torch.from_numpy(np.array(image)).repeat(count, 1, 1)


def test_flips_are_the_mirror_images_that_are_allowed() -> None:
    image = torch.arange(9, dtype=torch.uint8).view(1, 3, 3)
    eight = {
        tuple(turned.flatten().tolist())
        for k in range(4)
        for turned in (image.rot90(k, (1, 2)), image.rot90(k, (1, 2)).flip(2))
    }
    expected = {"none": 1, "horizontal": 2, "vertical": 2, "both": 4, "dihedral": 8}
    for flips, count in expected.items():
        seen = [tuple(x.flatten().tolist()) for x in flip_and_shift(image.repeat(800, 1, 1), flips, 0, seeded())]  # type: ignore[arg-type]
        assert len(set(seen)) == count
        assert set(seen) <= eight
        for each in set(seen):  # all as likely, within 4 standard deviations
            assert seen.count(each) == pytest.approx(800 / count, abs=4 * (800 / count) ** 0.5)
    left_right = {tuple(image.flatten().tolist()), tuple(image.flip(2).flatten().tolist())}
    assert {
        tuple(x.flatten().tolist()) for x in flip_and_shift(image.repeat(50, 1, 1), "horizontal", 0, seeded())
    } == left_right


def test_shifts_move_whole_images_by_at_most_so_many_pixels() -> None:
    image = torch.zeros(1, 9, 9, dtype=torch.uint8)
    image[0, 4, 4] = 255
    moved = flip_and_shift(image.repeat(300, 1, 1), "none", 2, seeded())
    places = {tuple(spot.nonzero()[0].tolist()) for spot in moved}
    assert places == {(row, column) for row in range(2, 7) for column in range(2, 7)}
    assert (moved.flatten(1).sum(1) == 255).all()


@pytest.mark.parametrize("flips", ["none", "horizontal", "vertical", "both", "dihedral"])
def test_a_moved_image_is_a_crop_of_the_mirrored_and_padded_one(photograph: Image.Image, flips: str) -> None:
    x = copies(photograph, 60, 24)
    padded = np.pad(x[0].numpy(), 5, mode="reflect")
    allowed = {
        turned[row : row + 24, column : column + 24].tobytes()
        for k in range(4)
        for turned in (np.rot90(padded, k), np.rot90(padded, k)[:, ::-1])
        for row in range(11)
        for column in range(11)
    }
    moved = flip_and_shift(x, flips, 5, seeded())  # type: ignore[arg-type]
    assert all(image.numpy().tobytes() in allowed for image in moved)
    assert len({image.numpy().tobytes() for image in moved}) > 30


def test_each_image_stays_in_its_place(digits: tuple[np.ndarray, list[str]]) -> None:
    """Sorted levels survive a flip, and tell the digits apart."""
    x = torch.from_numpy(digits[0][:200])
    flipped = flip_and_shift(x, "dihedral", 0, seeded())
    assert torch.equal(flipped.flatten(1).sort(1).values, x.flatten(1).sort(1).values)
    tall = x.reshape(100, 16, 8)
    assert torch.equal(
        flip_and_shift(tall, "both", 0, seeded()).flatten(1).sort(1).values, tall.flatten(1).sort(1).values
    )


@pytest.mark.parametrize(
    "config",
    [AugmentConfig("both", 0.2), AugmentConfig(rotate=30), AugmentConfig(zoom=0.3), AugmentConfig(noise=0.1), ALL],
)
def test_augmentation_depends_on_the_generator_alone(
    digits: tuple[np.ndarray, list[str]], config: AugmentConfig
) -> None:
    x = torch.from_numpy(digits[0][:50])
    before = x.clone()
    torch.manual_seed(1)
    first = augment(x, config, seeded(7))
    torch.manual_seed(2)
    assert torch.equal(first, augment(x, config, seeded(7)))
    assert not torch.equal(first, augment(x, config, seeded(8)))
    assert first.shape == x.shape
    assert torch.equal(x, before)


def test_what_moves_whole_pixels_keeps_uint8_and_the_rest_stays_within_the_levels(photograph: Image.Image) -> None:
    x = copies(photograph, 20)
    assert augment(x, AugmentConfig("dihedral", 0.1, erase=1), seeded()).dtype == torch.uint8
    assert augment(x, STILL, seeded()) is x
    for name, most in {"rotate": 180, "zoom": 0.9, "brightness": 1, "contrast": 1, "noise": 1}.items():
        found = augment(x, AugmentConfig(**{name: most}), seeded())  # type: ignore[arg-type]
        assert found.dtype == torch.float32
        assert found.shape == x.shape
        assert found.min() >= 0
        assert found.max() <= 255


def test_brightness_moves_the_level_by_at_most_its_share() -> None:
    x = torch.full((2000, 4, 4), 100, dtype=torch.uint8)
    moved = augment(x, AugmentConfig("none", 0, brightness=0.1), seeded()) - 100
    assert torch.equal(moved, moved[:, :1, :1].expand_as(moved))
    assert moved.abs().max() <= 25.5
    assert moved.mean() == pytest.approx(0, abs=1.5)
    assert moved.std() == pytest.approx(25.5 / 3**0.5, rel=0.05)


def test_contrast_stretches_about_the_mean(photograph: Image.Image) -> None:
    x = copies(photograph, 300) // 2 + 64  # far from black and white
    stretched = augment(x, AugmentConfig("none", 0, contrast=0.2), seeded())
    torch.testing.assert_close(stretched.mean((1, 2)), x.float().mean((1, 2)), atol=0.01, rtol=0)
    factors = stretched.std((1, 2)) / x.float().std((1, 2))
    assert 0.8 - 1e-4 <= factors.min() < 0.82
    assert 1.18 < factors.max() <= 1.2 + 1e-4


def test_noise_has_the_asked_deviation() -> None:
    x = torch.full((100, 32, 32), 128, dtype=torch.uint8)
    noise = augment(x, AugmentConfig("none", 0, noise=0.05), seeded()) - 128
    assert noise.std() == pytest.approx(0.05 * 255, rel=0.01)
    assert noise.mean() == pytest.approx(0, abs=0.2)


def test_zoom_enlarges_and_shrinks_about_the_centre() -> None:
    axis = (torch.arange(64) - 31.5) ** 2
    disc = ((axis[:, None] + axis) < 16**2).to(torch.uint8).mul(255).repeat(300, 1, 1)
    zoomed = augment(disc, AugmentConfig("none", 0, zoom=0.25), seeded())
    scales = (zoomed.sum((1, 2)) / disc[0].float().sum()).sqrt()
    assert 0.74 < scales.min() < 0.77
    assert 1.23 < scales.max() < 1.26
    torch.testing.assert_close(zoomed, zoomed.flip(1, 2), atol=0.1, rtol=0)


def test_rotation_turns_about_the_centre_by_at_most_its_degrees(photograph: Image.Image) -> None:
    bar = torch.zeros(300, 65, 65, dtype=torch.uint8)
    bar[:, 32, 33:60] = 255  # from the centre to the right
    turned = augment(bar, AugmentConfig("none", 0, rotate=30), seeded())
    axis = torch.arange(65.0) - 32
    x, y = ((turned * place).sum((1, 2)) for place in (axis, axis[:, None]))
    angles = torch.rad2deg(torch.atan2(y, x))
    assert -30.2 < angles.min() < -29
    assert 29 < angles.max() < 30.2
    torch.testing.assert_close(
        (x**2 + y**2).sqrt() / turned.sum((1, 2)), torch.full((300,), 46.0 - 32), atol=0.3, rtol=0
    )
    wide = copies(photograph, 1, 64)[:, :32]  # 32 x 64: an angle stays an angle
    spot = torch.zeros_like(wide)
    spot[:, 15:17, 45:47] = 255
    turned = augment(spot.repeat(200, 1, 1), AugmentConfig("none", 0, rotate=20), seeded())
    rows, columns = torch.arange(32.0) - 15.5, torch.arange(64.0) - 31.5
    x, y = ((turned * place).sum((1, 2)) / turned.sum((1, 2)) for place in (columns, rows[:, None]))
    torch.testing.assert_close((x**2 + y**2).sqrt(), torch.full((200,), 14.0), atol=0.3, rtol=0)


def test_erasing_fills_one_rectangle_of_the_allowed_area_with_the_mean(photograph: Image.Image) -> None:
    x = copies(photograph, 1000)
    mean = x[0].float().mean().round()
    x[x == mean] -= 1  # so that what is erased shows
    erased = augment(x, AugmentConfig("none", 0, erase=0.5), seeded())
    changed = erased != x
    hit = changed.any(2).any(1)
    assert 0.44 < hit.float().mean() < 0.56
    assert (erased[changed].float() - mean).abs().max() <= 1
    changed = changed[hit]
    tall, wide = changed.any(2).sum(1), changed.any(1).sum(1)
    assert torch.equal(changed.sum((1, 2)), tall * wide)  # a rectangle
    area = tall * wide / 64**2
    assert ERASED_AREA[0] - 0.005 <= area.min() < 0.04
    assert 0.3 < area.max() <= ERASED_AREA[1] + 0.01
    assert (wide / tall).max() < 1 / 0.25
    assert (tall / wide).max() < 1 / 0.25
    assert changed.any(1).any(0).all()  # up to every border
    assert changed.any(2).any(0).all()
    assert torch.equal(augment(x.float(), AugmentConfig("none", 0, erase=0.5), seeded()).round(), erased.float())


def test_strength_scales_all_but_the_flips() -> None:
    half = weaker(ALL, 0.5)
    assert half.flips == ALL.flips
    for field in fields(AugmentConfig)[1:]:
        assert getattr(half, field.name) == getattr(ALL, field.name) / 2
    x = torch.full((500, 4, 4), 100, dtype=torch.uint8)
    moved = augment(x, weaker(AugmentConfig("none", 0, brightness=0.2), 0.5), seeded()) - 100
    assert 25 < moved.abs().max() <= 25.5


def test_a_data_set_file_is_checked() -> None:
    adapter = TypeAdapter(AugmentConfig)
    assert adapter.validate_python({"rotate": 10}) == AugmentConfig(rotate=10)
    for wrong in ({"shift": 0.6}, {"erase": -1}, {"flip": "both"}, {"flips": "up"}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_draws_what_the_cpu_draws(photograph: Image.Image) -> None:
    x = copies(photograph, 30)
    for config in (AugmentConfig("dihedral", 0.1, erase=0.5), ALL):
        expected = augment(x, config, seeded())
        found = augment(x.cuda(), config, seeded())
        assert found.dtype == expected.dtype
        difference = (found.cpu().float() - expected.float()).abs()
        assert difference.quantile(0.999) <= 1 if config is ALL else difference.max() == 0
