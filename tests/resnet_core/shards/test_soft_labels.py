"""Soft labels: what the text says is what the network is to say."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_core.shards.soft_labels import parse, read_column

NAMES = ("defective", "functional", "a=b", "7")


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("defective=0.67; functional=0.33", {"defective": 0.67, "functional": 0.33}),
        ("functional=1;", {"functional": 1}),
        (" a=b = 5e-1 ;7=.5", {"a=b": 0.5, "7": 0.5}),
        ("x=0;y=1", {"x": 0, "y": 1}),
    ],
)
def test_a_text_says_shares(text: str, shares: dict[str, float]) -> None:
    assert parse(text) == pytest.approx(shares)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "its shares sum to 0, not to 1"),
        ("defective", "'defective' is not like `class=0.5`"),
        ("=1", "'=1' is not like `class=0.5`"),
        ("a=half; b=half", "'half' is not a share of 0 or more"),
        ("a=-1; b=2", "'-1' is not a share of 0 or more"),
        ("a=nan", "'nan' is not a share of 0 or more"),
        ("a=inf", "'inf' is not a share of 0 or more"),
        ("a=0.5; a=0.5", "names 'a' twice"),
        ("a=0.5; b=0.4", "its shares sum to 0.9, not to 1"),
    ],
)
def test_what_is_wrong_with_a_text_is_said(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse(text)


@given(st.lists(st.none() | st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any), max_size=30))
def test_targets_are_the_shares_of_the_text_and_else_the_label(votes: list[list[int] | None]) -> None:
    texts = [vote and "; ".join(f"{n}={v / sum(vote):.6f}" for n, v in zip(NAMES, vote, strict=True)) for vote in votes]
    soft = read_column(pa.chunked_array([texts[:7], texts[7:]], pa.string()), NAMES)
    if soft is None:
        assert not any(votes)
        return
    rows = np.random.default_rng(0).permutation(np.arange(len(votes)).repeat(2))
    found = soft.targets(rows, rows % 4)
    expected = [np.array(vote) / sum(vote) if (vote := votes[row]) else np.eye(4)[row % 4] for row in rows]
    np.testing.assert_allclose(found, np.array(expected), atol=1e-5)


def test_a_class_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="'functionl' in the soft label 'functionl=1' is not one of defective"):
        read_column(pa.chunked_array([["functionl=1"]]), NAMES)
