"""One network for several sizes: parameters once, averages for each size, and everybody takes the right ones."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from upath import UPath

from resnet_core.explain.heat import heat_of
from resnet_core.model.classifier import Classifier
from resnet_core.model.features import embed, features
from resnet_core.model.inputs import Normalisation, resize_batch, to_input
from resnet_core.model.resnet import ModelConfig, ResNet, build
from resnet_core.model.sized import SizedResNet, averaged_sides, sized
from resnet_core.shards import format as shards
from resnet_core.training.batches import Resident
from resnet_core.training.distributed import World
from resnet_core.training.job import network, run
from resnet_core.training.loop import TrainingSet, fit
from tests.resnet_core.model.test_classifier import a_classifier
from tests.resnet_core.model.test_resnet import TINY, tiny
from tests.resnet_core.training.test_job import a_job
from tests.resnet_core.training.test_loop import CONFIG, KilledError, assert_same, train

CPU = torch.device("cpu")
SIDES = (8, 16)
Digits = tuple[np.ndarray, list[str]]


def several(sides: tuple[int, ...] = SIDES, config: ModelConfig = TINY) -> SizedResNet:
    """Each size with averages, and so answers, of its own."""
    made = sized(tiny(config), sides)
    assert isinstance(made, SizedResNet)
    for side, one in made.networks().items():
        for name, value in one.named_buffers():
            if "running" in name:
                value.mul_(1 + side / 50)
    return made.eval()


def test_its_state_has_each_parameter_once_under_its_own_name(tmp_path: Path) -> None:
    ours, plain = several(), tiny()
    parameters = {name for name, _ in plain.named_parameters()}
    state = ours.state_dict()
    assert {name for name in state if not name.startswith("sides.")} == parameters
    averages = {name for name, _ in plain.named_buffers()}
    assert {name for name in state if name.startswith("sides.")} == {f"sides.{s}.{n}" for s in SIDES for n in averages}
    assert sum(value.numel() for value in ours.parameters()) == sum(value.numel() for value in plain.parameters())
    again = sized(build(TINY, size=8, classes=5, seed=3), SIDES)
    again.load_state_dict(state)
    assert_same(state, again.state_dict())
    with pytest.raises(RuntimeError, match=r"fc\.bias"):
        again.load_state_dict({name: value for name, value in state.items() if name != "fc.bias"})


def test_an_image_gets_the_averages_of_the_nearest_size() -> None:
    ours = several((8, 16, 32))
    for side, nearest in {4: 8, 8: 8, 11: 8, 12: 16, 16: 16, 22: 16, 23: 32, 32: 32, 50: 32}.items():
        x = torch.rand(2, 1, side, side)
        own = ours.networks()[nearest]
        assert ours.at(side) is own
        with torch.inference_mode():
            assert torch.equal(ours(x), own(x))
            assert torch.equal(features(ours, x)["logits"], own(x))


def test_a_batch_moves_the_averages_of_its_size_alone() -> None:
    ours = several().train()
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    ours(torch.rand(4, 1, 16, 16)).sum().backward()
    moved = {name for name, value in ours.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if name.startswith("sides.16.")}
    assert all(parameter.grad is not None for parameter in ours.parameters())


@pytest.mark.heavy
def test_it_is_as_good_at_each_size_that_it_learned(digits: Digits) -> None:
    """The mean of three seeds. A single difference lies between 0.12 and 0.3, and rounding, another one on each
    processor, moves it there.
    """
    pixels = torch.from_numpy(digits[0])[:, None].float()
    larger = resize_batch(pixels, 32)[:, 0].round().clamp(0, 255).to(torch.uint8)
    labels = torch.tensor([int(label) for label in digits[1]])
    shown = Resident(larger[:900], labels[:900], torch.ones(900), ids=[str(k) for k in range(900)])
    moments = Normalisation(0.3, 0.35)

    def right_at_the_worse_size(sides: tuple[int, ...], seed: int) -> float:
        config = replace(CONFIG, epochs=6, optimizer="muon", lr=0.03, scales=(8, 32), seed=seed)
        fresh = build(replace(TINY, head="multiscale", stem="small"), size=32, classes=10, seed=seed)
        counts = torch.bincount(labels[:900])
        model, _ = fit(sized(fresh, sides), TrainingSet(shown, counts, moments), config, World(CPU))
        with torch.inference_mode():
            seen = [model(resize_batch(to_input(larger[900:], moments), side)).argmax(1) for side in (8, 32)]
        return min(float((found == labels[900:]).float().mean()) for found in seen)

    one_average = mean(right_at_the_worse_size((), seed) for seed in range(3))
    an_average_each = mean(right_at_the_worse_size((8, 32), seed) for seed in range(3))
    assert an_average_each > 0.85
    assert one_average < an_average_each - 0.15


def test_a_killed_training_at_several_sizes_ends_with_the_same_weights(digits: Digits, tmp_path: Path) -> None:
    labels = np.array([int(label) for label in digits[1]])[:200]
    images = shards.Images(
        np.array([str(k) for k in range(200)], object), labels, np.ones(200, np.float32), digits[0][:200]
    )
    data, config = Resident.of(images, CPU), replace(CONFIG, epochs=2, scales=SIDES)
    whole, _ = train(data, config, sized(build(TINY, size=8, classes=10), SIDES))
    state = UPath(tmp_path / "state.safetensors")

    def kill(_: object) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        train(data, config, sized(build(TINY, size=8, classes=10), SIDES), state=state, on_epoch=kill)
    resumed, _ = train(data, config, sized(build(TINY, size=8, classes=10, seed=9), SIDES), state=state)
    assert_same(whole.state_dict(), resumed.state_dict())


def test_a_training_at_several_sizes_is_saved_with_its_averages_and_started_from(
    tmp_path: Path, digits: Digits
) -> None:
    job = a_job(tmp_path, digits, 300, validation=50, config=replace(CONFIG, scales=(8, 12, 12)))
    first, _ = run(job, World(CPU))
    assert averaged_sides(first.network) == (8, 12)
    first.save(tmp_path / "first")
    assert json.loads((tmp_path / "first" / "model.json").read_text())["averages"] == [8, 12]
    with safe_open(tmp_path / "first" / "model.safetensors", "pt") as file:
        assert {"conv1.weight", "sides.8.bn1.running_mean", "sides.12.bn1.running_mean"} <= set(file.keys())
    again = Classifier.load(tmp_path / "first", "cpu")
    for side in (8, 12, 16):
        expected = first.probabilities(digits[0][:20], side=side)
        np.testing.assert_array_equal(again.probabilities(digits[0][:20], side=side), expected)
    start = UPath(tmp_path / "first")
    for config in (job.config, replace(job.config, scales=()), replace(job.config, scales=(12,))):
        begun = network(replace(job, config=config, start=start))
        assert averaged_sides(begun) == ((8, 12) if config is job.config else ())
        assert_same(begun.at(8).state_dict(), first.network.at(8).state_dict())


def test_everything_that_looks_into_it_sees_the_size_it_is_given(photograph: Image.Image) -> None:
    config = replace(TINY, score_scales=SIDES)
    ours = a_classifier(16, config, averages=SIDES)
    pixels = np.asarray(photograph.convert("L"))[None, 40:56, 90:106].copy()
    own: dict[int, ResNet] = ours.network.networks()  # type: ignore[union-attr]
    alone = {
        side: replace(ours, network=one, config=replace(config, score_scales=(side,))) for side, one in own.items()
    }
    np.testing.assert_array_equal(embed(ours, pixels), embed(alone[16], pixels))
    expected = sum(one.probabilities(pixels) for one in alone.values()) / 2
    np.testing.assert_allclose(ours.probabilities(pixels), expected, atol=1e-6)
    for one in alone.values():
        heat = heat_of(replace(ours, config=one.config), pixels, np.array([1])).heat
        np.testing.assert_array_equal(heat, heat_of(one, pixels, np.array([1])).heat)
