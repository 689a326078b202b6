"""Mirrors are learned from the images: a class that mirrors into another one is never mirrored."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from resnet_core.evaluation.mirrors import learn_mirrors
from tests.drawn import characters

Set = tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]


def arrows(directions: tuple[str, ...], each: int = 60) -> Set:
    """Draw small arrows anywhere in noise; a class is a direction."""
    rng = np.random.default_rng(0)
    pixels, labels = [], []
    for label, direction in enumerate(directions):
        for _ in range(each):
            image = Image.fromarray(rng.integers(100, 140, (40, 40), np.uint8))
            x, y = (int(place) for place in rng.integers(10, 30, 2))
            head = {"right": (6, 0), "left": (-6, 0), "up": (0, -6), "down": (0, 6)}[direction]
            side = (-head[1], head[0])
            tip = (x + head[0], y + head[1])
            wings = [(x + side[0], y + side[1]), (x - side[0], y - side[1])]
            ImageDraw.Draw(image).polygon([tip, *wings], fill=255)
            pixels.append(np.asarray(image))
            labels.append(label)
    return np.stack(pixels), np.array(labels), tuple(f"kind {number}" for number in range(len(directions)))


def surfaces(each: int = 60) -> Set:
    """Draw noise that is coarse or fine: no direction means anything."""
    rng = np.random.default_rng(1)
    fine = rng.integers(0, 256, (each, 40, 40), np.uint8)
    coarse = np.kron(rng.integers(0, 256, (each, 10, 10), np.uint8), np.ones((1, 4, 4), np.uint8))
    return np.concatenate([fine, coarse]), np.repeat([0, 1], each), ("fine", "coarse")


def test_arrows_that_point_to_either_side_are_mirrored_up_and_down_alone() -> None:
    found = learn_mirrors(*arrows(("left", "right")))
    assert (found.flips, found.known) == ("vertical", True)
    assert "mirrored in" in found.why


def test_arrows_up_and_down_are_mirrored_from_side_to_side_alone() -> None:
    assert learn_mirrors(*arrows(("up", "down"))).flips == "horizontal"


def test_arrows_of_all_directions_are_not_mirrored() -> None:
    assert learn_mirrors(*arrows(("up", "down", "left", "right"))).flips == "none"


def test_surfaces_are_mirrored_and_turned() -> None:
    assert learn_mirrors(*surfaces()).flips == "dihedral"


def test_letters_that_mirror_into_each_other_are_found_without_their_names() -> None:
    drawn = [(label, pixels) for label, _, pixels in characters() if label in "bdm"]
    pixels = np.stack([pixels for _, pixels in drawn])
    labels = np.array(["bdm".index(label) for label, _ in drawn])
    assert learn_mirrors(pixels, labels, ("one", "two", "three")).flips in ("none", "vertical")


@pytest.mark.parametrize("each", [4, 60])
def test_images_that_say_nothing_are_said_to_say_nothing(each: int) -> None:
    pixels, _, classes = surfaces(each)
    found = learn_mirrors(pixels[:each], np.arange(each) % 2, classes)
    assert not found.known
    assert "no class" in found.why
