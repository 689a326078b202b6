"""How often each image comes: as many images as there are, every class as often as the others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_core.errors import UserError
from resnet_core.training.batches import copies

LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=200).map(np.array)


def test_where_nothing_is_asked_every_image_comes_once() -> None:
    assert copies(np.array([0, 1]), 0, balanced=False, include=None) is None
    assert copies(np.array([0, 1]), 0, balanced=False, include=np.array([False, True])).tolist() == [0, 1]  # type: ignore[union-attr]


@given(LABELS, st.integers(0, 2**32), st.data())
def test_balanced_gives_every_class_its_share_and_every_image_its_own(
    labels: np.ndarray, seed: int, data: st.DataObject
) -> None:
    include = np.array(data.draw(st.lists(st.booleans(), min_size=len(labels), max_size=len(labels))))
    found = copies(labels, seed, balanced=True, include=include)
    assert found is not None
    assert found.dtype == np.uint16
    assert found.sum() == include.sum()
    assert not found[~include].any()
    for label in np.unique(labels[include]):
        here = (labels == label) & include
        share = include.sum() / len(np.unique(labels[include]))
        assert abs(found[here].sum(dtype=float) - share) < 1 + 1e-6
        assert (abs(found[here] - share / here.sum()) < 1 + 1e-6).all()
    again = copies(labels, seed, balanced=True, include=include)
    assert again is not None
    assert np.array_equal(found, again)


def test_over_the_epochs_every_image_of_a_class_comes_equally_often() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    total = np.sum([copies(labels, seed, balanced=True, include=None) for seed in range(400)], axis=0)  # type: ignore[arg-type]
    assert total[:90] / 400 == pytest.approx(50 / 90, abs=0.12)
    assert (total[90:] == 5 * 400).all()


def test_an_image_that_had_to_come_too_often_is_the_users_error() -> None:
    labels = np.zeros(140_000, dtype=np.int64)
    labels[0] = 1
    with pytest.raises(UserError, match=r"train\.sampling: balanced would show one image 70,000 times"):
        copies(labels, 0, balanced=True, include=None)
