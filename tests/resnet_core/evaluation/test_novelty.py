"""Finding novelty: the moments are those of the images, and the promised share holds on real ones."""

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_core.errors import NotANumberError
from resnet_core.evaluation.bootstrap import Interval
from resnet_core.evaluation.novelty import FEWEST, Flagged, find_novelty, measure_novelty, places
from resnet_core.model.novelty import Distances, Novelty
from tests.resnet_core.model.test_novelty import some


def clouds(count: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    """Three classes of 6 mixed features, which differ in all of them. In the 4 early ones they hardly do."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, count)
    last = rng.normal(size=(count, 6)) @ rng.normal(size=(6, 6)) + 2 * rng.normal(size=(3, 6))[labels]
    early = rng.normal(size=(count, 4)) @ rng.normal(size=(4, 4)) + 5
    return np.concatenate([last, early], 1).astype(np.float32), labels


def test_the_distances_are_mahalanobis_and_relative_mahalanobis() -> None:
    x, labels = clouds()
    found = find_novelty(x, labels, 6, 0.05)
    assert found is not None
    assert found.directions.shape == (6, 2)  # three classes differ in two directions
    near, far = (each.numpy() for each in found.both(torch.from_numpy(x)))

    def squares(points: np.ndarray, covariance: np.ndarray) -> np.ndarray:
        return np.einsum("ni,ij,nj->n", points, np.linalg.inv(covariance), points)

    own = np.stack([x[labels == k].mean(0) for k in range(3)])
    last, rest = x[:, :6], x - own[labels]
    within, every = np.cov(rest[:, :6].T, bias=True), np.cov(last.T, bias=True)
    ridge = 1e-3 * np.trace(within) / 6 * np.eye(6)
    nearest = np.min([squares(last - mean[:6], within + ridge) for mean in own], 0)
    np.testing.assert_allclose(near, nearest - squares(last - last.mean(0), every + ridge), atol=0.01)
    deviation = rest[:, 6:].std(0)
    scaled = np.cov((rest[:, 6:] / deviation).T, bias=True) + 0.1 * np.eye(4)
    wanted = np.min([squares((x[:, 6:] - mean[6:]) / deviation, scaled) for mean in own], 0)
    np.testing.assert_allclose(far, wanted, rtol=0.01, atol=0.01)
    np.testing.assert_allclose(found.distances(torch.from_numpy(x)).median(), 0, atol=0.3)


def test_what_is_far_in_either_way_is_far() -> None:
    x, labels = clouds()
    found = find_novelty(x, labels, 6, 0.05)
    assert found is not None
    ranked = replace(found, held_out=np.sort(found.distances(torch.from_numpy(x)).numpy()))
    middle, foreign = np.tile(x.mean(0), (2, 1)), x[:50].copy()
    foreign[:, 6:] += 9 * x[:, 6:].std(0)  # another kind of image, which the last layer takes for a known one
    assert ranked.is_unknown(ranked.p_values(found.distances(torch.from_numpy(foreign)).numpy())).all()
    between = found.both(torch.from_numpy(middle))[0] > torch.quantile(found.both(torch.from_numpy(x))[0], 0.5)
    assert between.all()  # of no class


def test_a_class_of_a_few_confidential_images_has_no_mean() -> None:
    x, labels = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32), np.array([0] * 50 + [1] * 9 + [3])
    kept = [find_novelty(x, labels, 3, 0.05, fewest) for fewest in (1, FEWEST)]
    assert [len(each.early_means) for each in kept if each] == [3, 1]
    assert find_novelty(x[:5], labels[:5], 3, 0.05, FEWEST) is None
    with pytest.raises(NotANumberError, match="features of a training image"):
        find_novelty(x * np.nan, labels, 3, 0.05)


def test_few_images_of_many_are_looked_at_and_some_of_each_class() -> None:
    labels = np.array([0] * 900 + [1] * 95 + [2] * 5)
    chosen = places(labels, 100)
    assert np.bincount(labels[chosen]).tolist() == [90, 10, 5]
    assert np.array_equal(chosen, np.unique(chosen))
    assert np.array_equal(places(labels, 1000), np.arange(1000))


def of_pixels(pixels: np.ndarray, labels: np.ndarray, learned: int) -> tuple[Novelty, Distances]:
    """What pixels themselves tell as features: the novelty of the first images, and the distances of the others."""
    x = pixels.reshape(len(pixels), -1).astype(np.float32) / 255
    kept = find_novelty(x[:learned], labels[:learned], x.shape[1] // 2, 0.05)
    assert kept is not None
    return kept, kept.distances(torch.from_numpy(x[learned:])).numpy()


@pytest.fixture(params=["digits", "cells"], scope="module")
def real(request: pytest.FixtureRequest, digits: tuple[np.ndarray, list[str]]) -> tuple[Novelty, Distances]:
    if request.param == "digits":
        order = np.random.default_rng(0).permutation(1797)
        return of_pixels(digits[0][order], np.array(digits[1], int)[order], 600)
    folder = Path(str(files("elpv_dataset"))) / "data"
    lines = [line.split() for line in (folder / "labels.csv").read_text().splitlines() if line.strip()][::2]
    order = np.random.default_rng(0).permutation(len(lines))
    images = [np.asarray(Image.open(folder / lines[k][0]).resize((10, 10), Image.Resampling.BOX)) for k in order]
    return of_pixels(np.stack(images), np.array([float(lines[k][1]) > 0.5 for k in order], int), 500)


@pytest.mark.parametrize("level", [0.01, 0.05, 0.2])
def test_no_more_known_images_are_flagged_than_stated(real: tuple[Novelty, Distances], level: float) -> None:
    """Crosswise and by validation images, within what chance allows to two halves, as for the coverage of sets."""
    kept, distances = replace(real[0], level=level), real[1]
    half = len(distances) // 2
    deviation = (level * (1 - level) * 4 / len(distances)) ** 0.5
    found = [measure_novelty(kept, distances, None, None, seed)[1].found.value for seed in range(5)]
    order = np.random.default_rng(0).permutation(len(distances))
    found.append(measure_novelty(kept, distances[order[:half]], distances[order[half:]], None)[1].found.value)
    assert all(abs(share - level) < 3 * deviation + 1 / half for share in found)


def test_a_version_keeps_the_ranks_of_validation_images_or_of_all_held_out_ones() -> None:
    kept = replace(some([]), level=0.5)
    held_out, validation = np.array([4, 1], np.float32), np.array([3, 2, 0], np.float32)
    ranked, flagged = measure_novelty(kept, held_out, validation, None)
    assert ranked.held_out.tolist() == [0, 2, 3]
    np.testing.assert_allclose(flagged.novelty, [0.25, 0.75])
    assert flagged.unknown.tolist() == [True, False]
    ranked, flagged = measure_novelty(kept, held_out, validation[:0], None)
    assert ranked.held_out.tolist() == [1, 4]
    np.testing.assert_allclose(flagged.novelty, [2 / 3, 1])  # as scoring gives them
    assert flagged.found.value == 0  # each by the other: 1 / 2 is not below the level


def test_a_missed_promise_is_one_that_the_held_out_images_show() -> None:
    none = np.empty(0, np.float32), np.empty(0, np.bool_)
    assert [Flagged(0.05, Interval(0.08, low, 0.1), *none).missed for low in (0.051, 0.049)] == [True, False]
