"""Digests: the names of everything that is derived from something else.

A file named by the digest of what went into it is its own cache: if it is there, the work is done;
if an input changed, the name changed with it.
"""

import dataclasses
import hashlib
import inspect
import io
import json
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import pyarrow as pa
from pyarrow import csv


def digest_of(*parts: Any) -> str:
    """16 hexadecimal digits over JSON-like values, dataclasses and tuples, in the order given."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def table_digest(pieces: Iterable[pa.Table]) -> str:
    """The same over a table that comes in pieces: its columns, its rows and their order."""
    # As text: equal tables may differ in bytes that no value is in.
    text = hashlib.sha256()
    for piece in pieces:
        sink = io.BytesIO()
        csv.write_csv(piece, sink)
        text.update(sink.getbuffer())
    return text.hexdigest()[:16]


def source_digest(*modules: ModuleType) -> str:
    """The digest of the modules' source text: work done by other code is not reused."""
    return digest_of([inspect.getsource(module) for module in modules])


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} has no stable text to digest")
