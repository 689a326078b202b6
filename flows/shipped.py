"""Files that come with Grayline: beside the packages in a clone, within `grayline` in an installed wheel."""

from pathlib import Path

import flows

_CLONE = Path(flows.__file__).resolve().parents[1]


def shipped(name: str) -> Path:
    """Return the path of prefect.yaml or of what lies under data/."""
    installed = _CLONE / "grayline" / "_shipped" / name
    return installed if installed.exists() else _CLONE / name
