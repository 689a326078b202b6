"""Names as people mean them: when two spellings of a path or a label are the same.

Macs store letters and accents apart (NFD), other systems together (NFC). Windows writes backslashes between folders.
A folded name decides identity: joins, repeated rows, classes. Only the name as it was written opens a file.
"""

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")  # files are called so, with an ending

# `resnet_core.storage.locations.printable` writes a byte that is not UTF-8 as `\udce9`: not a separator.
_SEPARATOR = re.compile(r"\\(?!udc[89a-f][0-9a-f])")
_SUPERFLUOUS = re.compile(r"(?<![:/])/+(\./+)*|^(\./+)+")  # but for the slashes of `s3://`
_BLANKS = " \t\n\u00a0\u3000\ufeff\u200b\u2060"  # the last three have no width

_QUOTES = "\"'`\u2018\u2019\u201c\u201d\u00b4\u200c\u200d"
_NUMBER = re.compile(r"[+-]?\d{1,15}(\.\d+)?", re.ASCII)

# Terminals and browsers obey these. Joiners (200c, 200d) are letters of some scripts, and stay.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def fold_path(path: str) -> str:
    """Return a path in NFC, with single slashes between its parts and without `./`."""
    return with_slashes(_in_nfc(path))


def with_slashes(path: str) -> str:
    """Return a path with single slashes between its parts and without `./`."""
    if "\\" in path:
        path = _SEPARATOR.sub("/", path)
    if "//" in path or "./" in path:
        path = _SUPERFLUOUS.sub(lambda match: "/" if match[0].startswith("/") else "", path)
    return path


def fold_label(label: str) -> str:
    """Return a label in NFC, without blanks and invisible characters around it."""
    label = label.strip()
    return label if label.isascii() else _in_nfc(label).strip(_BLANKS)


def bare_label(label: str) -> str:
    """Return what is left of a label without what a person hardly sees. Two classes with the same rest are suspicious.

    Case, blanks, quotation marks, characters without width, and how a number is written: 1, 01, 1.0.
    """
    text = _UNSEEN.sub("", unicodedata.normalize("NFKC", label)).casefold()
    text = "".join(character for character in text if not character.isspace() and character not in _QUOTES)
    return str(float(text)) if _NUMBER.fullmatch(text) else text


def visible(text: str) -> str:
    """Return text in one line, with line breaks, control characters and marks of direction as codes: \\x1b, \\u202e."""
    return text if text.isascii() and text.isprintable() else _UNSEEN.sub(_code, text)


def _code(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def json_line(value: Any) -> str:
    """Return JSON in one line, whose text no terminal obeys: control characters and marks of direction as codes."""
    return _UNSEEN.sub(lambda match: json.dumps(match[0])[1:-1], json.dumps(value, ensure_ascii=False))


def _in_nfc(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def spellings(path: str) -> Iterator[str]:
    """Yield a path and, one after the other, the spellings under which its file may lie on a disk."""
    plain = with_slashes(path.strip())
    plains = (plain, unquote(plain)) if plain.startswith("file://") else (plain,)
    others = [unicodedata.normalize(form, plain) for form in ("NFC", "NFD") for plain in plains]
    yield from dict.fromkeys((path, *plains, *others))
