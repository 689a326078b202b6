"""Splits: a pure function of the key and the seed."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from resnet_core.splits import SplitConfig, assign, position


@given(st.text(), st.integers(0, 1000))
def test_the_same_key_and_seed_always_give_the_same_split(key: str, seed: int) -> None:
    config = SplitConfig(0.3, 0.2, seed)
    assert assign(key, config) == assign(key, config)
    assert 0 <= position(key, seed) < 1


def test_shares_are_those_asked_for() -> None:
    counts = Counter(assign(str(k), SplitConfig(0.25, 0.1)) for k in range(20_000))
    assert abs(counts["test"] / 20_000 - 0.25) < 0.01
    assert abs(counts["validation"] / 20_000 - 0.1) < 0.01


def test_a_larger_test_share_only_adds_to_the_test_images() -> None:
    small, large = SplitConfig(0.2), SplitConfig(0.3)
    assert all(assign(str(k), large) == "test" for k in range(1000) if assign(str(k), small) == "test")


def test_another_seed_gives_another_split() -> None:
    first = [assign(str(k), SplitConfig(seed=0)) for k in range(1000)]
    assert first != [assign(str(k), SplitConfig(seed=1)) for k in range(1000)]
