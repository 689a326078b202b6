"""Folds: every image in one, what belongs together in the same, and all of about the same size."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_core.catalog.folds import assign, units
from resnet_core.errors import UserError


def ties(*rows: tuple[str, str | None, str | None]) -> pa.Table:
    """(image_id, group, near) a row."""
    columns = zip(*rows, strict=True) if rows else ((), (), ())
    values = [pa.array(column, pa.string()) for column in columns]
    return pa.table(dict(zip(("image_id", "group", "near"), values, strict=True)))


def test_what_is_tied_through_others_is_one_unit_even_through_images_of_another_split() -> None:
    rows = ties(("a", "p", None), ("b", "p", None), ("c", None, "held"), ("held", None, "d"), ("e", None, None))
    found = units(pa.array(["a", "b", "c", "d", "e"]), rows)
    assert found[0] == found[1]
    assert found[2] == found[3]
    assert len(set(found.tolist())) == 3


def test_a_group_named_like_an_image_is_no_image() -> None:
    found = units(pa.array(["a", "b"]), ties(("a", "b", None)))
    assert found[0] != found[1]
    assert units(pa.array(["a", "b"]), ties()).tolist() == [0, 1]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_unit_is_divided_and_no_fold_is_empty(data: st.DataObject) -> None:
    unit = np.array(data.draw(st.lists(st.integers(0, 9), min_size=2, max_size=40)))
    labels = np.array([data.draw(st.integers(0, 2)) for _ in unit])
    folds = data.draw(st.integers(2, 5))
    if folds > len(np.unique(unit)):
        with pytest.raises(UserError, match="--folds"):
            assign(labels, unit, folds, seed=0)
        return
    found = assign(labels, unit, folds, seed=0)
    assert set(found.tolist()) == set(range(folds))
    for number in np.unique(unit):
        assert len(np.unique(found[unit == number])) == 1


def test_folds_are_equal_in_images_and_classes_and_the_seed_decides(digits: tuple[np.ndarray, list[str]]) -> None:
    labels = np.array([int(label) for label in digits[1]])
    alone = np.arange(len(labels))
    found = assign(labels, alone, 5, seed=0)
    counts = np.stack([np.bincount(labels[found == fold], minlength=10) for fold in range(5)])
    assert np.ptp(counts.sum(1)) <= 2
    assert np.ptp(counts, axis=0).max() <= 2
    assert (found == assign(labels, alone, 5, seed=0)).all()
    assert (found != assign(labels, alone, 5, seed=1)).any()
