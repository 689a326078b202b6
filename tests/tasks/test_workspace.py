"""Space is asked for before a night or a batch begins."""

from pathlib import Path

import pytest
from upath import UPath

from resnet_core.errors import JobError
from resnet_core.model.resnet import ModelConfig, build
from tasks.workspace import ask_for, of_night


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
