"""How many files one piece of work is: enough for every core, no long wait, not too many pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.parts import LEAST_OF_LARGE, MOST_BYTES, MOST_IN_A_PART, part_size


@pytest.mark.parametrize(
    ("count", "size", "files"),
    [
        (10, 0, 64),
        (800, 200_000, 100),
        (100_000, 200_000, 1024),
        (100_000, 2 * 2**20, 128),
        (50_000, 500 * 2**20, LEAST_OF_LARGE),
        (100_000, 500 * 2**20, 10),
        (100_000_000, 2 * 2**20, 10_000),
    ],
)
def test_the_size_of_a_part(count: int, size: int, files: int) -> None:
    assert part_size(count, size, most_parts=10_000) == files


@given(st.integers(1, 10**9), st.integers(0, 10**9))
def test_no_part_is_a_long_wait_unless_there_would_be_too_many(count: int, size: int) -> None:
    files, parts = part_size(count, size), part_size(count, size, most_parts=10_000)
    assert files <= MOST_IN_A_PART
    assert files <= LEAST_OF_LARGE or files * size <= MOST_BYTES
    assert -(-count // parts) <= 10_000
    assert parts in (files, -(-count // 10_000))
