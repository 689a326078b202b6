"""Places that do not answer are not places where nothing lies."""

import errno
from pathlib import Path

import pytest

from resnet_core import patience
from resnet_core.errors import JobError
from resnet_core.storage import locations


def test_a_stall_is_not_a_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"there")
    asked, errors = locations.facts, [OSError(errno.EIO, "Input/output error")]
    monkeypatch.setattr(patience, "TRIES", 2)

    def stalls(place: str) -> dict[str, object]:
        if errors:
            raise errors.pop()
        return asked(place)

    monkeypatch.setattr(locations, "facts", stalls)
    assert (locations.facts_if_there(str(tmp_path / "a.png")) or {})["size"] == 5
    errors[:] = [OSError(errno.ETIMEDOUT, "Connection timed out")] * 9
    with pytest.raises(JobError, match=r"a\.png: cannot be looked for \(\[Errno 110\] Connection timed out\)"):
        locations.facts_if_there(str(tmp_path / "a.png"))
    errors.clear()
    missing = ("b.png", "a.png/inside", "n" * 300, "zero\0byte")
    assert [locations.facts_if_there(str(tmp_path / name)) for name in missing] == [None] * 4
