"""The settings file: `grayline.toml` in the working folder, or the file that GRAYLINE_SETTINGS names.

Its keys are the names of the variables in small letters, without `grayline_`. The table `[environment]` holds
variables of other programs, such as AWS_PROFILE. Variables that are set win.
"""

import os
import stat
import tomllib
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from resnet_core.errors import UserError, nearest

_NAMED_BY, _NAME = "GRAYLINE_SETTINGS", "grayline.toml"
_OTHERS = "environment"


def settings_file() -> Path | None:
    """Return the path of the file; None if there is none. Raises UserError if the one that is named is missing."""
    if named := os.environ.get(_NAMED_BY):
        if not Path(named).is_file():
            raise UserError(f"{_NAMED_BY}: there is no file {named}. Correct the path.")
        return Path(named)
    return Path(_NAME) if Path(_NAME).is_file() else None


def read_settings_file(fields: Mapping[str, str], secret: Collection[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings of the file by field, and all that it says as environment variables.

    fields: the variable of each field. secret: fields that nobody else may read. Raises UserError for a file that
    others may write, for one that is not TOML, and for unknown keys.
    """
    content = dict(_read(fields, secret))
    others = content.pop(_OTHERS, {})
    named = {fields[key]: value for key, value in content.items()}
    return content, {name: _as_text(value) for name, value in (others | named).items()}


def _read(fields: Mapping[str, str], secret: Collection[str]) -> dict[str, Any]:
    path = settings_file()
    if path is None:
        return {}
    status = path.stat()
    content = _parse(path.absolute(), status.st_mtime_ns, status.st_size)
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UserError(f"{path}: others may write it, and it says what is opened and run. Run: chmod go-w {path}")
    others = content.get(_OTHERS, {})
    if not isinstance(others, dict) or any(isinstance(value, dict | list) for value in others.values()):
        raise UserError(f'{path}: [{_OTHERS}] must hold lines of NAME = "text".')
    for key, value in content.items():
        if key != _OTHERS and key not in fields:
            raise UserError(f"{path}: unknown key {key!r}.{nearest(key, list(fields))} docs/settings.md lists all.")
        if key != _OTHERS and isinstance(value, dict | list):
            raise UserError(f"{path}: {key} must be a text, a number, true or false.")
    if status.st_mode & 0o007 and ({*content} & {*secret} or others):
        raise UserError(f"{path}: it holds secrets, and others may read it. Run: chmod 600 {path}")
    return content


@lru_cache(maxsize=4)
def _parse(path: Path, _time: int, _size: int) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: cannot be read as TOML: {error}. Put texts in quotes, and one key on a line."
        ) from None


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
