"""Heat maps are the papers', and they turn with the image. Their cells are fine enough to show a place."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from resnet_core.explain.heat import Way, finest, heat_of
from resnet_core.images.preprocessing import Preprocessing, resize
from resnet_core.model.classifier import Classifier
from resnet_core.model.inputs import Normalisation, to_input
from resnet_core.model.resnet import ModelConfig, build
from tests.resnet_core.model.test_resnet import TINY, randomised

SIDE = 48


def classifier(config: ModelConfig = TINY, size: int = SIDE) -> Classifier:
    network = build(config, size=size, classes=3, seed=5)
    randomised(network)
    return Classifier(network.eval(), config, ("a", "b", "c"), Preprocessing(size), Normalisation(0.4, 0.2))


@pytest.fixture(scope="module")
def pixels(photograph: Image.Image) -> np.ndarray:
    gray = np.asarray(photograph.convert("L"))
    return np.stack([resize(gray[k : k + 300, 2 * k : 2 * k + 300], Preprocessing(SIDE)) for k in (0, 60, 100)])


@pytest.mark.parametrize(("way", "layer"), [("grad-cam", None), ("layer-cam", None), ("layer-cam", "layer2")])
def test_it_is_the_weighted_sum_of_the_paper(pixels: np.ndarray, way: Way, layer: str | None) -> None:
    ours = classifier()
    wanted = np.array([2, 0, 1])
    found = heat_of(ours, pixels, wanted, way, layer)
    stages = ours.network.stages(ours.network.stem(to_input(torch.from_numpy(pixels), ours.normalisation)))
    number = int(found.layer[-1])
    here = stages[number - 1].detach().requires_grad_()
    onward = here
    for later in range(number + 1, 5):
        onward = getattr(ours.network, f"layer{later}")(onward)
    scores = ours.network.fc(ours.network.avgpool(onward).flatten(1))
    scores[range(3), wanted].sum().backward()
    assert here.grad is not None
    weights = here.grad.mean((2, 3), keepdim=True) if way == "grad-cam" else here.grad.relu()
    cam = (weights * here).sum(1, keepdim=True).relu()
    enlarged = functional.interpolate(cam, (SIDE, SIDE), mode="bicubic").clamp_min(0)[:, 0].detach().numpy()
    largest = enlarged.max((1, 2), keepdims=True)
    np.testing.assert_allclose(found.heat, enlarged / np.where(largest > 0, largest, 1), atol=1e-5)
    assert (found.heat.max((1, 2)) > 0).any()


@pytest.mark.parametrize("turn", [lambda x: x[:, ::-1], lambda x: x[:, :, ::-1], lambda x: x.transpose(0, 2, 1)])
def test_a_map_turns_with_the_image(pixels: np.ndarray, turn: object) -> None:
    """As the score does, where it is the mean over all mirror images."""
    ours = classifier(replace(TINY, score_flips="dihedral"))
    wanted = np.array([0, 1, 2])
    upright, turned = heat_of(ours, pixels, wanted), heat_of(ours, np.ascontiguousarray(turn(pixels)), wanted)
    np.testing.assert_allclose(turned.heat, turn(upright.heat), atol=1e-4)
    assert not np.allclose(turned.heat, upright.heat, atol=0.05)


def test_a_score_over_sizes_has_a_map_over_sizes(pixels: np.ndarray) -> None:
    """Each size counts as much as the others, whatever its gradients."""
    wanted = np.array([0, 1, 2])
    alone = [heat_of(classifier(replace(TINY, score_scales=(side,))), pixels, wanted).heat for side in (32, 64)]
    both = heat_of(classifier(replace(TINY, score_scales=(32, 64))), pixels, wanted).heat
    mean = sum(alone)
    largest = mean.max((1, 2), keepdims=True)
    np.testing.assert_allclose(both, mean / np.where(largest > 0, largest, 1), atol=0.15)
    assert both.shape == pixels.shape
    assert both.min() >= 0
    assert both.max() <= 1


@pytest.mark.parametrize(
    ("size", "layer"),
    [(8, "layer2"), (32, "layer2"), (48, "layer2"), (96, "layer2"), (160, "layer2"), (224, "layer3"), (400, "layer4")],
)
def test_the_last_stage_of_twelve_cells_or_else_of_four_is_looked_into(size: int, layer: str) -> None:
    assert finest(build(TINY, size=size, classes=2), size) == layer


def test_training_state_is_left_alone(pixels: np.ndarray) -> None:
    ours = classifier()
    before = ours.probabilities(pixels)
    heat_of(ours, pixels, before.argmax(1))
    np.testing.assert_array_equal(ours.probabilities(pixels), before)
    assert all(value.grad is None for value in ours.network.parameters())
