"""Names of files: what they say of the file, and how a table holds one that is no text.

Readers of images import it: nothing here but the standard library.
"""

import os
import re

# What accompanies images and is none itself.
SIDECARS = frozenset({".csv", ".json", ".txt", ".xml", ".yaml", ".yml", ".md"})


def is_ignored(path: str) -> bool:
    """Hidden, in a hidden folder, or a sidecar."""
    if (path[:1] == "." or "/." in path) and any(_is_hidden(part) for part in path.split("/")):
        return True
    name = path[path.rfind("/") + 1 :]
    dot = name.rfind(".")
    return dot > 0 and name[dot:].lower() in SIDECARS


def _is_hidden(part: str) -> bool:
    return part[:1] == "." and part not in (".", "..")


def top_folder(path: str) -> str | None:
    """The label that a path says: its first folder, if it has one."""
    top, slash, _ = path.partition("/")
    return printable(top) if slash and top not in ("", "..") else None


def printable(name: str) -> str:
    """A name whose bytes are no UTF-8 as text that any table can hold; other names unchanged."""
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode("utf-8")


def unprintable(name: str) -> str:
    """The name that `printable` was given."""
    return re.sub(r"\\udc([89a-f][0-9a-f])", lambda match: os.fsdecode(bytes([int(match[1], 16)])), name)
