"""Progress: how far the work is, as text, and how often it is said."""

import pytest

from tasks import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_count_says_its_rate_and_the_time_left_now_and_then(clock: list[float]) -> None:
    told: list[tuple[str, float | None]] = []
    advance = progress._counter("train", 400, "images", 15, lambda *what: told.append(what))
    for second, images, note in ((5, 50, ""), (20, 150, "loss 0.1"), (34, 100, ""), (36, 0, "")):
        clock[0] = second
        advance(images, note)
    assert told == [
        ("train       200 of 400, 10 images/s, loss 0.1, 0:20 left", 0.5),
        ("train       300 of 400, 8 images/s, 0:12 left", 0.75),
    ]


def test_a_count_without_a_total_has_no_share(clock: list[float]) -> None:
    told: list[tuple[str, float | None]] = []
    advance = progress._counter("list", None, "files", 0, lambda *what: told.append(what))
    clock[0] = 2
    advance(3000)
    assert told == [("list        3,000 files so far, 1,500 files/s", None)]
