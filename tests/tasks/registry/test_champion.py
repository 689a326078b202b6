"""The history of a model's champion: nothing is lost, and what was accepted last is found again."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, tzinfo
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.tracking import MlflowClient

from tasks.registry import champion
from tasks.registry.champion import LONGEST, PREFIX, Event, champions_before, events, record


def line(*moves: tuple[str, str]) -> list[Event]:
    return [Event("2026-11-25T02:00:00+00:00", "me@here", action, None, after, "") for action, after in moves]


UP, BACK = "promoted", "rolled back"


@pytest.mark.parametrize(
    ("moves", "champion", "before"),
    [
        ([(UP, "1")], "1", []),
        ([(UP, "1"), (UP, "2"), (UP, "3")], "3", ["2", "1"]),
        ([(UP, "1"), (UP, "2"), (UP, "3"), (BACK, "2")], "2", ["1"]),
        ([(UP, "1"), (UP, "2"), (BACK, "1"), (UP, "3")], "3", ["1"]),  # 2 was taken back
        ([(UP, "1"), (UP, "2"), (UP, "3"), (BACK, "1"), (UP, "4")], "4", ["1"]),
        ([(UP, "1"), ("refused", "2"), (UP, "3")], "3", ["1"]),
        ([(UP, "1"), (UP, "1"), (UP, "2")], "2", ["1"]),
        ([(UP, "1"), (UP, "2"), (UP, "1")], "1", ["2"]),
        ([(UP, "3"), (BACK, "1")], "1", ["3"]),  # to one that the history did not know
        ([(UP, "1"), (UP, "2"), (UP, "3")], "2", ["1"]),  # the alias was not moved any more
    ],
)
def test_the_champions_before(moves: list[tuple[str, str]], champion: str, before: list[str]) -> None:
    assert champions_before(line(*moves), champion) == before


@given(st.lists(st.sampled_from(["1", "2", "3", "4"]), min_size=1, max_size=8))
def test_rollbacks_in_a_row_end_and_never_stay(promoted: list[str]) -> None:
    moves, champion, seen = [(UP, version) for version in promoted], promoted[-1], []
    while before := champions_before(line(*moves), champion):
        assert before[0] != champion
        champion = before[0]
        moves.append((BACK, champion))
        seen.append(champion)
        assert len(seen) <= len(promoted)


def test_events_are_added_and_come_back_in_order(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    registry = MlflowClient(uri, registry_uri=uri)
    registry.create_registered_model("few")
    assert events(uri, "few") == ()
    first = record(uri, "few", UP, None, "1", "gate: fine\n| and | so on")
    second = record(uri, "few", "refused", "1", "2", "x" * 10_000)
    assert record(uri, "few", "refused", "1", "2", "x" * 10_000) == second  # the next night, without news
    assert events(uri, "few") == (first, second)
    assert first.why == "gate: fine | and | so on"

    assert len(second.why) == LONGEST
    assert re.fullmatch(r"\S+@\S+", first.who)
    keys = sorted(registry.get_registered_model("few").tags)
    assert all(re.fullmatch(re.escape(PREFIX) + r"\d{4}-\d\d-\d\dT[\d:.]{15}Z-[0-9a-f]{4}", key) for key in keys)
    registry.set_registered_model_tag("few", f"{PREFIX}by hand", "no JSON")
    registry.set_registered_model_tag("few", "other", "{}")
    assert events(uri, "few") == (first, second)


def test_a_clock_that_is_set_changes_no_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    registry = MlflowClient(uri, registry_uri=uri)
    registry.create_registered_model("few")
    earlier = {"at": "2026-01-01T00:00:00+00:00", "who": "me", "action": UP, "from": None, "to": "1", "why": ""}
    registry.set_registered_model_tag("few", f"{PREFIX}2026-01-01T00:00:00.000000Z-0000", json.dumps(earlier))
    for year, version in ((2030, "2"), (2025, "3"), (2027, "4")):  # ahead, set back, right

        class Clock(datetime):
            @classmethod
            def now(cls, zone: tzinfo | None = None, year: int = year) -> datetime:
                return datetime(year, 6, 1, tzinfo=UTC)

        monkeypatch.setattr(champion, "datetime", Clock)
        record(uri, "few", UP, None, version, "")
    assert [event.after for event in events(uri, "few")] == ["1", "2", "3", "4"]
    assert champions_before(events(uri, "few"), "4") == ["3", "2", "1"]


def test_events_of_the_same_moment_do_not_meet(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    MlflowClient(uri, registry_uri=uri).create_registered_model("few")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda k: record(uri, "few", "refused", None, str(k), ""), range(20)))
    assert sorted(int(event.after) for event in events(uri, "few")) == list(range(20))
