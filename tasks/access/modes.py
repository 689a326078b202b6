"""Modes of files: what Grayline writes is its owner's alone, or its group may read or write it by GRAYLINE_GROUP."""

import logging
import os
import resource
import stat
from contextlib import suppress
from pathlib import Path
from typing import Literal

from resnet_core.errors import UserError
from resnet_core.storage.compressed import be_private

log = logging.getLogger("grayline")
Group = Literal["none", "read", "write"]
_KEPT_FROM_OTHERS = {"none": 0o077, "read": 0o027, "write": 0o007}


def keep_private(group: Group) -> None:
    """Make new files of this process and of those that it starts private. Temporary ones always are."""
    os.umask(_KEPT_FROM_OTHERS[group])


def close_store(root: Path, private: list[Path], group: Group) -> None:
    """Take the store's folder from others, and the folders with passwords from the group, too.

    Nobody passes a closed folder, so the modes of what earlier releases have written below it do not matter.
    """
    before = stat.S_IMODE(root.stat().st_mode)
    if _close(root, _KEPT_FROM_OTHERS[group], opened=group != "none"):
        log.warning("store       %s was open to others (mode %o) and is closed; GRAYLINE_GROUP opens it", root, before)
    for folder in private:
        if folder.exists():
            _close(folder, 0o077)


def open_to_others(root: Path, group: Group) -> bool:
    """Return whether others have rights to the store that the setting does not give them."""
    return bool(root.stat().st_mode & _KEPT_FROM_OTHERS[group])


def secret_lines(file: str, setting: str) -> list[tuple[int, str]]:
    """Return the lines of a file of secrets with their numbers, without comments.

    Raises UserError if others can read it, or nobody.
    """
    try:
        mode, text = Path(file).stat().st_mode, Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text file"
        raise UserError(f"{setting}: cannot read {file} ({reason}). Correct the path.") from None
    if os.name == "posix" and mode & stat.S_IRWXO:
        raise UserError(f"{setting}: everybody on this machine can read {file}. Run: chmod 600 {file}")
    lines = enumerate(map(str.strip, text.splitlines()), 1)
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def _close(folder: Path, mask: int, opened: bool = False) -> bool:
    """Take rights from a folder of ours; return whether it had any of them. The rights of its group may be opened."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    wanted = mode & ~mask | (0o050 if opened else 0)
    if wanted != mode and folder.stat().st_uid == os.geteuid():
        folder.chmod(wanted)
    return bool(mode & mask) and not stat.S_IMODE(folder.stat().st_mode) & mask


def keep_confidential() -> None:
    """Leave no images in unpacked copies or in dumps of this process's memory, from now on."""
    be_private()
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with suppress(OSError):  # Linux: the limit does not bind a program that takes the dumps
        Path("/proc/self/coredump_filter").write_text("0", encoding="ascii")
