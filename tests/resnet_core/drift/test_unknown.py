"""Unknown images in a batch. The test is exact, errs as rarely as it says, and finds 2% of foreign images."""

import numpy as np
import pytest
from scipy.stats import betabinom

from resnet_core.drift.unknown import Ranks, Unknown, tail, unknown_drift


@pytest.mark.parametrize(("images", "held_out", "depth"), [(100, 20, 1), (1800, 450, 22), (5000, 99, 4)])
def test_the_tail_is_that_of_the_textbooks(images: int, held_out: int, depth: int) -> None:
    for count in (0, 1, images // 20, images // 4, images):
        wanted = betabinom.pmf(np.arange(count, images + 1), images, depth, held_out + 1 - depth).sum()
        assert tail(count, images, held_out, depth) == pytest.approx(wanted, rel=1e-6)


def test_one_image_beyond_all_held_out_ones_by_hand() -> None:
    """Of 1 image and 3 held-out ones, each is as likely the farthest."""
    assert tail(1, 1, 3, 1) == pytest.approx(1 / 4)
    assert tail(2, 2, 3, 1) == pytest.approx(2 / 5 * 1 / 4)  # both of 5 farthest


def batch(rng: np.random.Generator, held_out: int, images: int, foreign: int) -> tuple[Unknown, Ranks]:
    """Count as a batch does: distances of known images are alike, foreign ones are beyond all."""
    known = np.sort(rng.normal(size=held_out))
    found = np.concatenate([rng.normal(size=images - foreign), np.full(foreign, 99.0)])
    ranks = 1 + held_out - np.searchsorted(known, found)
    depth = int(np.ceil(0.05 * (held_out + 1))) - 1
    return Unknown(images, int((ranks <= depth).sum()), int((ranks == 1).sum())), Ranks(held_out, depth)


def test_the_same_kind_of_images_rarely_drifts() -> None:
    rng = np.random.default_rng(0)
    found = [unknown_drift(*batch(rng, held_out, 1800, 0), 0.01) for held_out in (60, 450, 3000) for _ in range(300)]
    assert sum(each.drifted for each in found) <= 2
    assert np.mean([each.p < 0.05 for each in found]) < 0.07


@pytest.mark.parametrize(("held_out", "least"), [(450, 0.9), (1000, 0.98), (3000, 0.98)])
def test_two_percent_of_foreign_images_in_1800_are_found(held_out: int, least: float) -> None:
    rng = np.random.default_rng(1)
    found = [unknown_drift(*batch(rng, held_out, 1800, 36), 0.01) for _ in range(100)]
    assert np.mean([each.drifted for each in found]) >= least
    assert all(each.distance >= 36 / 1800 - 0.01 for each in found)


def test_the_words_have_the_counts_and_what_was_expected() -> None:
    drift = unknown_drift(Unknown(1833, 66, 36), Ranks(449, 22), 0.01)
    assert drift.detail == (
        "66 of 1,833 images unknown, 90 expected; 36 farther than all 449 held-out images, 4.1 expected"
    )
    assert drift.distance == pytest.approx(36 / 1833 - 1 / 450)
    assert drift.drifted
    assert not unknown_drift(Unknown(1833, 66, 36), Ranks(449, 22), None).drifted
