"""Space is asked for before a night or a batch begins."""

from pathlib import Path

import pytest
from upath import UPath

from resnet_core.errors import JobError, OverstayedError
from resnet_core.model.resnet import ModelConfig, build
from tasks import workspace
from tasks.settings import check_store
from tasks.workspace import ask_for, of_night
from tests.places import a_workspace


def test_a_night_needs_room_for_new_pixels_and_weights() -> None:
    assert of_night(0, 96, ModelConfig("resnet18")) == 0
    weights = sum(tensor.numel() for tensor in build(ModelConfig("resnet18"), size=96, classes=2).parameters())
    assert 11_000_000 < weights < 11_300_000
    assert of_night(1000, 96, ModelConfig("resnet18")) == 3 * 1000 * 96**2 + 8 * 4 * weights


def test_a_disk_without_room_is_named_with_need_and_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = UPath(tmp_path / "not made yet" / "store")
    ask_for(place, 10**6, "cells")
    with pytest.raises(
        JobError, match=r"^cells: not enough space on the disk of \S.*/store: [\d,]+ MB free, about .*needed"
    ):
        ask_for(place, 10**18, "cells")
    ask_for(UPath("memory://store"), 10**18, "cells")
    monkeypatch.setenv("GRAYLINE_FREE_BYTES", str(10**18))
    with pytest.raises(JobError, match="grayline prune"):
        ask_for(place, 0, "cells")
    monkeypatch.setenv("GRAYLINE_FREE_BYTES", "0")
    ask_for(place, 10**18, "cells")
    assert list(tmp_path.iterdir()) == []


def test_a_night_ends_at_a_checkpoint_once_its_hours_are_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The seconds are those of a clock that nobody sets, and that goes on while a laptop is suspended."""
    now = [100.0]
    monkeypatch.setattr(workspace, "_clock", lambda: now[0])
    a_workspace(UPath(tmp_path)).check_time("ingest")
    here = a_workspace(UPath(tmp_path), "", hours=0.5, began=100.0)
    now[0] = 1899.0
    here.check_time("ingest")
    now[0] = 1901.0
    with pytest.raises(OverstayedError, match=r"GRAYLINE_NIGHT_HOURS=0\.5: ended after ingest\. The next"):
        here.check_time("ingest")


def test_two_processes_may_try_a_store_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers and workers begin together: one removes what the other has just written."""
    unlink = type(UPath(tmp_path)).unlink

    def twice(path: UPath) -> None:
        unlink(path)
        unlink(path)

    monkeypatch.setattr(type(UPath(tmp_path)), "unlink", twice)
    check_store(UPath(tmp_path / "store"))
    assert not (tmp_path / "store" / ".probe").exists()
