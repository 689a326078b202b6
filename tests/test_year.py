"""A sample of the simulated year; `make year` has all of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.year import Year

HOME = Path(__file__).parents[1]


@pytest.mark.e2e
@pytest.mark.heavy
def test_a_sample_of_nights() -> None:
    """YEAR_SEED draws another sample; an unseen one must not fail a build by chance."""
    seed = os.environ.get("YEAR_SEED", "1")
    command = [sys.executable, "-m", "tests.year", "--nights", "12", "--seed", seed]
    done = subprocess.run(command, cwd=HOME, capture_output=True, text=True, check=False)
    print(done.stdout)  # noqa: T201
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_kept_year_goes_on_as_if_it_had_not_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Year, "_use_store", lambda year: None)  # it sets variables of this process
    first = Year(tmp_path, 7, 30)
    first.night, first.rotten, first.faults, first.next = 12, True, [3, 9], 340
    first.wrong, first.store = [(tmp_path / "digits" / "1" / "a.png", 3)], tmp_path / "store-5"
    first.happened["killed", "train", "died"] += 2
    first.ops["torn"] = 310
    first.draw.random()
    first._write_down()
    again = Year(tmp_path, 8, 30)
    assert again._go_on()
    assert [again.draw.random() for _ in range(5)] == [first.draw.random() for _ in range(5)]
    for name in ("seed", "night", "rotten", "faults", "next", "wrong", "store", "happened", "ops", "schedule"):
        assert getattr(again, name) == getattr(first, name), name
    assert not Year(tmp_path / "elsewhere", 8, 30)._go_on()
